"""An NNX module in, an NNX module out: forms of modules, fits, and what works on the result."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import lcjax
from tests.helpers.functions import close
from tests.helpers.nnx_modules import (
    HIDDEN,
    MLP,
    WIDTH,
    InlinedBlock,
    Stack,
    SwiGLU,
    rows,
)

X = rows(40, WIDTH)
DATA = lcjax.CalibrationData([X, rows(40, WIDTH, seed=1)], holdout=0.0, progress=False)
EXACT = lcjax.Exact(max_gap=2)
run = nnx.jit(lambda model, x: model(x))


class ConvNet(nnx.Module):
    """Pointwise convolutions with a batch norm between them, on images."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, WIDTH, (3, 3), rngs=rngs)
        self.up = nnx.Conv(WIDTH, HIDDEN, (1, 1), rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, rngs=rngs)
        self.down = nnx.Conv(HIDDEN, WIDTH, (1, 1), rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.norm(self.up(self.stem(x)))))


class Chain(nnx.Module):
    """Three layers in an nnx.Sequential."""

    def __init__(self, rngs):
        linear = lambda a, b: nnx.Linear(a, b, rngs=rngs)
        layers = linear(WIDTH, HIDDEN), nnx.relu, linear(HIDDEN, HIDDEN), nnx.gelu
        self.net = nnx.Sequential(*layers, linear(HIDDEN, WIDTH))

    def __call__(self, x):
        return self.net(x)


class MeanOfUnits(nnx.Module):
    """Code that depends on the width: the units are divided by their number."""

    def __init__(self, rngs):
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.up(x))
        return self.down(h / np.float32(h.shape[-1]))


def mlps(kind=MLP, count=2):
    return Stack([kind(nnx.Rngs(i)) for i in range(count)])


KINDS = {
    "Linear": lambda: mlps(MLP),
    "SwiGLU": lambda: mlps(SwiGLU),
    "inlined": lambda: nnx.view(mlps(InlinedBlock), deterministic=True),
    "Sequential": lambda: Chain(nnx.Rngs(0)),
    "mean of units": lambda: mlps(MeanOfUnits),
}
FITS = {
    "exact": EXACT,
    "least squares": lcjax.LeastSquares(),
    "per unit": lcjax.PerUnit(),
    "units": lcjax.Units(6, linear=False),
    "units and map": lcjax.Units(6, linear=True),
    "remove": lcjax.Remove(),
}


def shapes(model):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.to_pure_dict(nnx.state(model)))


def reference(call, collapsed):
    """Returns what the call as a function returns with the compact tree."""
    return jax.jit(call._call.run)(collapsed, X)


QUICK = [("Linear", "exact"), ("SwiGLU", "units and map"), ("inlined", "units")]
CASES = [
    pytest.param(kind, fit, marks=() if (kind, fit) in QUICK else pytest.mark.slow)
    for kind in KINDS
    for fit in FITS
]


@pytest.mark.parametrize("kind, fit", CASES)
def test_collapsed_module_equals_the_collapsed_function(kind, fit):
    model, fit = KINDS[kind](), FITS[fit]
    before, untouched = shapes(model), nnx.clone(model)
    call = lcjax.nnx.trace(model, X)
    calibration = None if fit is EXACT else call.calibrate(DATA, None, fit)
    compact, report = call.collapse(None, fit, calibration=calibration)
    tree, _ = call._call.collapse(None, fit, calibration=calibration)
    assert type(compact) is type(model) or isinstance(compact, type(model))
    close(run(compact, X), reference(call, tree))
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(compact, nnx.Param)))
    assert size == report.parameters_after < report.parameters_before
    assert shapes(model) == before
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.to_pure_dict(nnx.state(model, nnx.Param)),
        nnx.to_pure_dict(nnx.state(untouched, nnx.Param)),
    )


def test_kept_units_alone_are_narrower_kernels_of_the_same_classes():
    model = mlps(SwiGLU, 1)
    compact, _ = lcjax.nnx.collapse_sequential(model, DATA, fit=lcjax.Units(6, linear=False))
    mlp = compact.layers[0]
    assert type(mlp) is SwiGLU and not hasattr(mlp, "lcjax")
    assert mlp.up.kernel.shape == mlp.gate.kernel.shape == (WIDTH, 6)
    assert mlp.down.kernel.shape == (6, WIDTH) and mlp.down.bias.shape == (WIDTH,)
    assert (mlp.up.out_features, mlp.down.in_features, mlp.down.use_bias) == (6, 6, True)


def test_code_that_depends_on_the_width_keeps_its_constant():
    model = mlps(MeanOfUnits, 1)
    call = lcjax.nnx.trace(model, X)
    compact, _ = call.collapse_sequential(DATA, fit=lcjax.Units(6, linear=False))
    tree, _ = call._call.collapse_sequential(DATA, fit=lcjax.Units(6, linear=False))
    assert compact.layers[0].up.kernel is None
    close(compact(X), reference(call, tree))


def test_fused_module_runs_without_a_trace(monkeypatch):
    model = mlps(lambda rngs: MLP(rngs, dtype=jnp.float32), 1)
    compact, _ = lcjax.nnx.collapse(model, X, fit=EXACT)
    text = str(jax.make_jaxpr(lambda x: compact(x))(X))
    assert text.count("dot_general") == 1 and "pjit" not in text
    with jax.disable_jit():
        close(compact(X), run(compact, X))
    for _, node in nnx.iter_modules(compact):
        node.added = "by a tool that also replaces the products, such as qwix"
    product, dot_general = [], jax.lax.dot_general

    def replaced(*args, **kwargs):
        product.append(args)
        return -dot_general(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(jax.lax, "dot_general", replaced)
        assert len(product) == 0 and compact(X).shape == X.shape and len(product) == 1
    half = X.astype(jnp.bfloat16)  # another dtype than it was collapsed for
    assert run(compact, half).dtype == run(model, half).dtype


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["least squares", "units and map"])
def test_graph_functions_work_on_a_collapsed_module(fit):
    model = mlps(SwiGLU)
    compact, _ = lcjax.nnx.collapse_sequential(model, DATA, sites="layers/0/*", fit=FITS[fit])
    y = run(compact, X)
    close(nnx.merge(*nnx.split(compact))(X), y)
    close(run(nnx.clone(compact), X), y)
    names = {type(node).__name__ for _, node in nnx.iter_graph(compact)}
    assert {"CollapsedSwiGLU", "Fused"} <= names
    assert "CollapsedSwiGLU" in repr(compact) and "Fused" in repr(compact)
    nnx.update(compact, nnx.state(compact))
    grads = nnx.grad(lambda model: (model(X) ** 2).sum())(compact)
    assert jax.tree.structure(nnx.state(compact, nnx.Param)) == jax.tree.structure(grads)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))
    remat = nnx.remat(lambda model, x: model(x))
    close(remat(compact, X), y)
    assert isinstance(compact.layers[0], SwiGLU)


@pytest.mark.parametrize(
    "fit", [lcjax.LeastSquares(), lcjax.Units(8), lcjax.Units(8, linear=True), lcjax.Remove(), None]
)
def test_module_is_displayed_and_tabulated(fit, capsys):
    x = jnp.ones((32, 4))
    first, last = (nnx.Linear(*widths, rngs=nnx.Rngs(0)) for widths in ((4, 16), (16, 4)))
    model = nnx.Sequential(first, nnx.relu, last)
    if fit is None:
        small = lcjax.nnx.add_slopes(model, x)
    else:
        data = lcjax.CalibrationData([x], progress=False)
        small, _ = lcjax.nnx.collapse_sequential(model, data, fit={"layers/0": fit})
    nnx.display(small)
    assert "Sequential(" in capsys.readouterr().out
    assert "Summary" in nnx.tabulate(small, x)


def test_module_is_copied_and_pickled():
    compact, _ = lcjax.nnx.collapse(mlps(MLP, 1), X, fit=EXACT)
    for made in (copy.deepcopy(compact), pickle.loads(pickle.dumps(compact))):
        assert type(made.layers[0]) is type(compact.layers[0])
        close(made(X), compact(X))


def test_state_is_saved_and_restored_by_orbax(tmp_path):
    model = mlps(SwiGLU)
    make = lambda: lcjax.nnx.collapse(model, X, sites="layers/1/*", fit=EXACT)[0]
    compact = make()
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", nnx.state(compact))
        saver.wait_until_finished()
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.state(compact))
        state = saver.restore(tmp_path / "state", shapes)
    again = nnx.clone(compact)
    nnx.update(again, jax.tree.map(jnp.zeros_like, nnx.state(again)))
    nnx.update(again, state)
    close(run(again, X), run(compact, X))


@pytest.mark.slow
def test_running_statistics_fold_in_and_dtypes_stay():
    model = ConvNet(nnx.Rngs(0))
    images = rows(2, 4, 4, 3)
    for _ in range(2):
        model(images)
    model.eval()
    compact, _ = lcjax.nnx.collapse(model, images, fit=EXACT)
    assert isinstance(compact, ConvNet) and compact.stem.kernel.shape == (3, 3, 3, WIDTH)
    kernel, norm = model.up.kernel[...][0, 0], model.norm
    scale = norm.scale[...] / jnp.sqrt(norm.var[...] + norm.epsilon)
    hidden = model.stem(images) @ kernel + model.up.bias[...]
    hidden = (hidden - norm.mean[...]) * scale + norm.bias[...]
    close(compact(images), hidden @ model.down.kernel[...][0, 0] + model.down.bias[...])
    stats = nnx.to_pure_dict(nnx.state(compact, nnx.BatchStat))
    compact.train()
    close(compact(images), hidden @ model.down.kernel[...][0, 0] + model.down.bias[...])
    close(nnx.to_pure_dict(nnx.state(compact, nnx.BatchStat)), stats)


def test_bfloat16_params_stay():
    model = mlps(lambda rngs: MLP(rngs, dtype=jnp.bfloat16))
    compact, _ = lcjax.nnx.collapse(model, X.astype(jnp.bfloat16), sites="layers/0/*", fit=EXACT)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(compact))}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    assert compact(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_collapsing_again_equals_collapsing_at_once():
    model = mlps(SwiGLU, 3)
    once, _ = lcjax.nnx.collapse(model, X, sites=["layers/0/*", "layers/2/*"], fit=EXACT)
    first, _ = lcjax.nnx.collapse(model, X, sites="layers/2/*", fit=EXACT)
    second, _ = lcjax.nnx.collapse(first, X, sites="layers/0/*", fit=EXACT)
    assert shapes(second) == shapes(once)
    close(run(second, X), run(once, X))
    assert lcjax.nnx.find_sites(second, X).paths == ("layers/1/up",)
    narrow, _ = lcjax.nnx.collapse_sequential(second, DATA, fit=lcjax.Units(6))
    fewer, report = lcjax.nnx.collapse_sequential(narrow, DATA, fit=lcjax.Units(3))
    assert report.parameters_after < report.parameters_before
    assert np.isfinite(run(fewer, X)).all()


def test_neighbouring_sites_of_a_chain_merge_when_both_are_collapsed():
    model = Chain(nnx.Rngs(0))
    sites = lcjax.nnx.find_sites(model, X).paths
    once, _ = lcjax.nnx.collapse(model, X, fit=EXACT)
    first, _ = lcjax.nnx.collapse(model, X, sites=sites[1], fit=EXACT)
    both, _ = lcjax.nnx.collapse(first, X, sites=sites[0], fit=EXACT)
    assert type(both.net).__name__ == "CollapsedSequential" and shapes(both) == shapes(once)
    close(run(both, X), run(once, X))


class SplitGate(nnx.Module):
    """Gate and value are halves of one nnx.Linear, as in Phi-3."""

    def __init__(self, rngs):
        self.gate_up = nnx.Linear(WIDTH, 2 * HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x):
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        return self.down(nnx.silu(gate) * up)


class GatingEinsum(nnx.Module):
    """Gate and value are parts of one array, as in gemma."""

    def __init__(self, rngs):
        self.gating = nnx.Param(jax.random.normal(rngs.params(), (2, HIDDEN, WIDTH)))
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x):
        h = jnp.einsum("...d,nhd->...nh", x, self.gating[...])
        return self.down(nnx.gelu(h[..., 0, :]) * h[..., 1, :])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "shape"), [(SplitGate, (8, 10)), (GatingEinsum, (2, 5, 8))])
def test_gates_in_one_array_become_narrower_arrays(kind, shape):
    model = mlps(kind, 1)
    call = lcjax.nnx.trace(model, X)
    fit = lcjax.Units(5)
    small, report = call.collapse(calibration=call.calibrate(DATA, fit=fit))
    (layer,) = small.layers
    array = layer.gate_up.kernel if kind is SplitGate else layer.gating
    assert type(layer) is kind and array.shape == shape and not report.collapsed
    f = lcjax.collapsible(lambda state, x: nnx.merge(graph, state)(x))
    graph, state = nnx.split(model)
    traced = f.trace(state, X)
    compact, _ = traced.collapse(calibration=traced.calibrate(DATA, fit=fit))
    close(run(small, X), f(compact, X))
