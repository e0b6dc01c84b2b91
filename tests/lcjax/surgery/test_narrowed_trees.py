"""Trees of which some hidden units stay: collapsed again, cast, boxed, damaged."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze, meta

from lcjax import (
    CollapseError,
    CollapsibleMLP,
    LeastSquares,
    PerUnit,
    Remove,
    Units,
    calibrate,
    collapse,
    collapse_sequential,
    count_parameters,
    find_sites,
    without_bypasses,
)
from tests.helpers.narrowing import (
    D_IN,
    DATA,
    MIXED,
    MODELS,
    X,
    chain,
    error,
    models,
    narrowed,
)
from tests.helpers.tolerance import assert_close
from tests.helpers.trees import with_slopes


@pytest.mark.parametrize("again", [Units(3), LeastSquares() + Units(2), LeastSquares(), PerUnit()])
@pytest.mark.parametrize("fit", [Units(7), MIXED], ids=["alone", "linear"])
@models
@pytest.mark.slow
def test_a_narrowed_tree_is_collapsed_again(name, fit, again):
    model, variables = MODELS[name]()
    compact, _ = narrowed(model, variables, fit)
    last = find_sites(compact)[-1]
    smaller, report = narrowed(model, compact, again, last)
    assert report.parameters_before == count_parameters(compact)
    assert report.parameters_after == count_parameters(smaller)
    bound = 1.0 if again.name == "units" else 1.3
    assert error(model, smaller, compact) < bound
    paths = find_sites(smaller, apply_fn=model.apply, inputs=[X]).paths
    assert (last.path in paths) == (again.name == "units")


@pytest.mark.slow
@models
@pytest.mark.parametrize("fit", [Units(7), MIXED], ids=["alone", "linear"])
def test_an_exact_collapse_takes_bypasses_in(name, fit):
    model, variables = MODELS[name]()
    compact, _ = narrowed(model, variables, fit)
    linear = with_slopes(compact, 1.0)
    whole, report = collapse(linear)
    assert_close(model.apply(whole, X), model.apply(linear, X), dtype=np.float32, terms=5000)
    assert all("bypass" not in child for child in whole["params"])
    assert report.parameters_after == count_parameters(whole)
    last = find_sites(linear)[-1]
    part, report = collapse(linear, last)
    assert_close(model.apply(part, X), model.apply(linear, X), dtype=np.float32, terms=5000)
    assert report.parameters_after == count_parameters(part)


@pytest.mark.slow
@models
def test_without_bypasses_is_the_tree_of_the_narrow_module(name):
    model, variables = MODELS[name]()
    compact, _ = narrowed(model, variables, Units(7))
    plain = without_bypasses(compact)
    fields = (
        {"hidden": 7} if name == "gated" else {"features": (*[7] * len(find_sites(compact)), 5)}
    )
    narrow = model.clone(**fields)
    np.testing.assert_array_equal(narrow.apply(plain, X), model.apply(compact, X))
    assert isinstance(without_bypasses(freeze(compact)), type(freeze({})))
    mixed, _ = narrowed(model, variables, MIXED)
    with pytest.raises(CollapseError, match=r"bypass.*: got a linear map next to the units"):
        without_bypasses(mixed)
    removed, _ = narrowed(model, variables, Remove())
    with pytest.raises(CollapseError, match=r"bypass.*: got the bias of a removed pair"):
        without_bypasses(removed)


@pytest.mark.parametrize("fit", [Units(7), MIXED, Remove()], ids=lambda fit: fit.name)
@pytest.mark.slow
def test_bfloat16_kernels(fit):
    model = CollapsibleMLP((12, 5), nn.relu, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(0), X)
    compact, _ = narrowed(model, variables, fit)
    dtypes = {leaf.dtype for name, leaf in _leaves(compact) if "slope" not in name}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    assert error(model, compact, variables) < (1.1 if fit == Remove() else 0.5)


def _leaves(tree):
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(keys), leaf) for keys, leaf in flat]


@pytest.mark.slow
@pytest.mark.parametrize("fit", [Units(7), MIXED, Remove()], ids=lambda fit: fit.name)
def test_frozen_and_boxed_trees(fit):
    boxed = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    bias = nn.with_partitioning(nn.initializers.zeros_init(), ("out",))
    model = CollapsibleMLP((12, 5), nn.relu, kernel_init=boxed, bias_init=bias)
    variables = freeze(model.init(jax.random.key(0), X))
    compact, report = narrowed(model, variables, fit)
    assert type(compact) is type(variables)
    plain, _ = narrowed(model, meta.unbox(variables), fit)
    jax.tree.map(np.testing.assert_array_equal, meta.unbox(compact), plain)
    names = {
        f"{a}/{b}": leaf.names
        for a, c in compact["params"].items()
        for b, leaf in c.items()
        if a != "act_0"
    }
    assert all(value == ("in", "out")[-len(value) :] for value in names.values())
    assert report.parameters_after == count_parameters(meta.unbox(plain))


def test_stacked_layers_are_refused():
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            mlp = CollapsibleMLP((12, D_IN), nn.relu, name="mlp")
            step = lambda module, x, _: (x + module(x), None)
            return nn.scan(step, {"params": 0}, split_rngs={"params": True}, length=3)(mlp, x, None)

    variables = jax.eval_shape(Scanned().init, jax.random.key(0), X)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
    with pytest.raises(CollapseError, match=r"stacked by a scan .* Unstack the layers"):
        collapse_sequential(Scanned().apply, variables, DATA, fit=Units(7))


@pytest.mark.slow
def test_wrong_uses_have_clear_errors():
    model, variables = chain((12, 5))
    stats = calibrate(model.apply, variables, DATA, fit=Units(4))
    with pytest.raises(CollapseError, match=r"act_0: got 13 units to keep, expected .* 12"):
        collapse(variables, fit=Units(13), calibration=stats)
    with pytest.raises(ValueError, match="calibrate for it"):
        collapse(variables, fit=PerUnit(), calibration=stats)
    for count in (-1, 2.5, True):
        with pytest.raises(ValueError, match="count is"):
            Units(count)
    with pytest.raises(ValueError, match="rank is 3"):
        Units(4, rank=3)
    with pytest.raises(ValueError, match="rank is 3"):
        LeastSquares(rank=3) + Units(4)
    with pytest.raises(TypeError):
        LeastSquares() + LeastSquares()  # type: ignore[operator]
    deep, variables = chain()
    with pytest.raises(CollapseError, match=r"act_1: got a pair to remove that is a part"):
        narrowed(deep, variables, Remove(), "act_1")
    mixed, _ = narrowed(deep, variables, MIXED)
    with pytest.raises(CollapseError, match=r"act_0: bypass_1, the linear map .* of act_1"):
        narrowed(deep, mixed, Units(3), "act_0")
    stats = calibrate(deep.apply, variables, DATA, fit=Units(3))
    with pytest.raises(CollapseError, match="neighbouring sites of one chain"):
        collapse(variables, fit=Units(0, linear=True), calibration=stats)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: {**p, "bypass_0": {"bias": p["bypass_0"]["bias"][:-1]}},
        lambda p: {name: child for name, child in p.items() if name != "act_0"},
        lambda p: {**p, "dense_1": {**p["dense_1"], "bias": np.ones(5, np.float32)}},
    ],
    ids=["width", "activation", "bias"],
)
def test_half_done_trees_are_refused(spoil):
    model, variables = chain()
    compact, _ = narrowed(model, variables, Units(7), "act_0")
    with pytest.raises(CollapseError, match="half collapsed"):
        find_sites({"params": spoil(compact["params"])})


@pytest.mark.slow
def test_a_wider_head_does_not_run_a_narrow_tree():
    model, variables = chain((12, 8))
    compact, _ = narrowed(model, variables, Units(7))
    with pytest.raises(CollapseError, match=r"8 wide in params"):
        model.clone(features=(12, 100)).apply(compact, X)
    removed, _ = narrowed(model, variables, Remove())
    with pytest.raises(CollapseError, match=r"bias of width 8, expected 100"):
        model.clone(features=(12, 100)).apply(removed, X)


@pytest.mark.slow
def test_collapse_skips_sites_whose_units_a_bypass_reads():
    model = CollapsibleMLP((9, 9, 3), nn.relu)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    fits = {"act_1": LeastSquares() + Units(4)}
    narrow, _ = collapse_sequential(model.apply, variables, DATA, fit=fits)
    linear = with_slopes(narrow, {"act_0": 1.0})
    compact, report = collapse(linear)
    assert ("act_0", "bypassed") in [(skip.site, skip.reason) for skip in report.skipped]
    assert_close(model.apply(compact, X), model.apply(linear, X), dtype=np.float32, terms=20)
    with pytest.raises(CollapseError, match="act_0: bypass_1, .* Collapse act_1 first"):
        collapse(linear, ["act_0"])
