"""Gate and value in one array, as Gemma, MaxText and Phi-3 store them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from lcjax.transform.lowering.bound_call import bind_call
from lcjax.transform.lowering.own_layout import in_own_layout
from lcjax.transform.matching.unit_path import unit_path
from lcjax.transform.params.tree import read_params
from lcjax.tree.encoding import encode
from tests.helpers.functions import arrays

D, H = 6, 8
x = arrays(x=(40, 3, D))["x"]


class Einsum(nn.Module):
    """The layer of google-deepmind/gemma, gemma/gm/nn/_layers.py."""

    shape: tuple[int, ...]
    weight_name: str

    @nn.compact
    def __call__(self, eqn, x):
        w = self.param(self.weight_name, nn.initializers.normal(), self.shape)
        return jnp.einsum(eqn, x, w)


class GemmaFeedForward(nn.Module):
    """The module of google-deepmind/gemma, gemma/gm/nn/_modules.py."""

    features: int
    hidden_dim: int
    transpose_gating_einsum: bool

    @nn.compact
    def __call__(self, x):
        if self.transpose_gating_einsum:
            eq, shape = "...F,NHF->...NH", (2, self.hidden_dim, self.features)
        else:
            eq, shape = "...F,NFH->...NH", (2, self.features, self.hidden_dim)
        gating = Einsum(shape=shape, weight_name="gating_einsum")
        nn.share_scope(self, gating)
        gate = gating(eq, x)
        activations = nn.gelu(gate[..., 0, :]) * gate[..., 1, :]
        linear = Einsum(shape=(self.hidden_dim, self.features), weight_name="linear")
        nn.share_scope(self, linear)
        return linear("...H,HF->...F", activations)


def gemma(transposed, hidden=H):
    model = GemmaFeedForward(D, hidden, transposed)
    return lambda p, x: model.apply({"params": p}, x)


class DenseGeneral(nnx.Module):
    """The layer of AI-Hypercomputer/maxtext, linears.py, without quantization."""

    def __init__(self, d_in, out, use_bias, rngs):
        normal = nnx.initializers.normal()
        self.kernel = nnx.Param(normal(rngs.params(), (d_in, *out), jnp.float32))
        self.bias = nnx.Param(normal(rngs.params(), out, jnp.float32)) if use_bias else None

    def __call__(self, x):
        contracted = ((x.ndim - 1,), (0,))
        y = jax.lax.dot_general(x, jnp.asarray(self.kernel[...]), (contracted, ((), ())))
        return y if self.bias is None else y + self.bias[...]


class MaxTextMlp(nnx.Module):
    """`MlpBlock` of the same file with `fused_mlp`."""

    def __init__(self, use_bias, rngs):
        self.wi = DenseGeneral(D, (2, H), use_bias, rngs)
        self.wo = DenseGeneral(H, (D,), use_bias, rngs)

    def __call__(self, inputs):
        x, activations = self.wi(inputs), []
        for idx, act_fn in enumerate((nn.silu, lambda x: x)):
            activations.append(act_fn(x[:, :, idx, ...]))
        return self.wo(activations[0] * activations[1])


def maxtext(use_bias):
    graphdef, params = nnx.split(MaxTextMlp(use_bias, nnx.Rngs(0)))
    pure = jax.tree.map(lambda leaf: 20 * leaf, nnx.to_pure_dict(params))
    return lambda p, x: nnx.merge(graphdef, p)(x), pure


def phi3(p, x):
    gate, up = jnp.split(x @ p["gate_up"], 2, -1)
    return (up * nn.silu(gate)) @ p["down"]


def parts(p, x):
    """As openpi's Gemma: the kernel is cut, not the output."""
    return (nn.gelu(x @ p["w"][0]) * (x @ p["w"][1])) @ p["down"]


def last_axis(p, x):
    h = jnp.einsum("bsd,dhn->bshn", x, p["w"])
    return (nn.gelu(h[..., 0]) * h[..., 1]) @ p["down"]


def heads(p, x):
    """Units in groups, as of a block-wise layout."""
    gate, up = jnp.einsum("bsd,ngdk->nbsgk", x, p["w"])
    return jnp.einsum("bsgk,gkd->bsd", nn.gelu(gate) * up, p["down"])


LINEAR, MAXTEXT = arrays(linear=(H, D)), {bias: maxtext(bias) for bias in (False, True)}
CASES = {
    "gemma": (gemma(False), LINEAR | arrays(gating_einsum=(2, D, H)), "gating_einsum"),
    "gemma, transposed": (gemma(True), LINEAR | arrays(gating_einsum=(2, H, D)), "gating_einsum"),
    "maxtext": (*MAXTEXT[False], "wi"),
    "maxtext with biases": (*MAXTEXT[True], "wi"),
    "phi-3": (phi3, arrays(gate_up=(D, 2 * H), down=(H, D)), "gate_up"),
    "parts of a kernel": (parts, arrays(w=(2, D, H), down=(H, D)), "w"),
    "on the last axis": (last_axis, arrays(w=(D, H, 2), down=(H, D)), "w"),
    "in groups": (heads, arrays(w=(2, 2, D, H), down=(2, H, D)), "w"),
}


SPLIT = ("parts of a kernel", "in groups")


def case_of(name):
    fn, params, path = CASES[name]
    return lcjax.collapsible(fn), fn, params, path


@pytest.fixture(params=CASES, name="case")
def _case(request):
    return case_of(request.param)


def every_case_with(*options):
    """Every case with the first option; with the others one of each kind is quick."""
    kinds = ("gemma", "in groups")
    combined = [(name, option) for option in options for name in CASES]
    quick = lambda name, option: option == options[0] or name in kinds
    return [pytest.param(*c, marks=() if quick(*c) else pytest.mark.slow) for c in combined]


def sloped(f, params, slope):
    tree = f.init(params, x)
    return tree | {"slopes": jax.tree.map(lambda _: jnp.float32(slope), tree["slopes"])}


def test_one_gated_site_is_found(case):
    f, fn, params, path = case
    (site,) = f.trace(params, x).sites
    widths = (D, 2 * H if "g" not in params and params.get("w", x).ndim == 4 else H, D)
    assert (site.path, (site.d_in, site.d_hidden, site.d_out)) == (path, widths)
    assert site.parameters_before == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert f.trace(params, x).explain().rejected == ()


def test_slope_0_is_the_function(case):
    f, fn, params, _ = case
    np.testing.assert_array_equal(f(sloped(f, params, 0), x), fn(params, x))


def test_slope_1_collapses_exactly(case):
    f, fn, params, _ = case
    tree = sloped(f, params, 1)
    compact, report = f.trace(tree, x).collapse()
    assert report.flops_after < report.flops_before
    assert not jax.tree.leaves(compact["model"])
    np.testing.assert_allclose(f(compact, x), f(tree, x), rtol=1e-4, atol=1e-4)
    assert np.abs(f(tree, x) - fn(params, x)).max() > 0.01


@pytest.mark.parametrize(
    ("name", "fit"), every_case_with(lcjax.LeastSquares(), lcjax.PerUnit(), lcjax.Remove())
)
def test_fits(name, fit):
    f, fn, params, _ = case_of(name)
    call = f.trace(params, x)
    compact, report = call.collapse(calibration=call.calibrate([x], fit=fit))
    error = jnp.linalg.norm(f(compact, x) - fn(params, x)) / jnp.linalg.norm(fn(params, x))
    assert error < 1.1 and report.flops_after < report.flops_before
    assert all(np.isfinite(score.error) for score in report.fits)


@pytest.mark.parametrize(("name", "linear"), every_case_with(True, False))
def test_units_cut_gate_and_value_alike(name, linear):
    f, fn, params, path = case_of(name)
    call = f.trace(params, x)
    fit = lcjax.Units(5, linear=linear)
    compact, report = call.collapse(calibration=call.calibrate([x], fit=fit))
    assert report.flops_after < report.flops_before
    (score,) = report.fits
    out, want = f(compact, x), fn(params, x)
    error = float(jnp.linalg.norm(out - want) / jnp.linalg.norm(want))
    np.testing.assert_allclose(error, score.error, rtol=0.15)
    again, _ = f.trace(compact, x).collapse(fit=lcjax.Exact(max_gap=1))
    assert np.isfinite(f(again, x)).all()
    assert f.trace(compact, x).explain().units == {path: 5}


@pytest.mark.parametrize("name", [name for name in CASES if name not in SPLIT])
def test_narrow_arrays_keep_their_own_layout(name):
    """Gemma's (2, d, h) becomes (2, d, k), and the function runs with it as its own.

    Flax linen compares shapes with the module's fields, and so needs the narrower module.
    """
    fn, params, path = CASES[name]
    f, k = lcjax.collapsible(fn), 5
    call = f.trace(params, x)
    compact, _ = call.collapse(calibration=call.calibrate([x], fit=lcjax.Units(k)))
    bound = bind_call(fn, read_params(compact), (x,), {}, has_state=False)
    ((site,), (entry,)) = bound.analysis.sites, bound.params.entries.values()
    path, narrow = unit_path(bound.analysis, site), entry.narrow[0]
    arrays = in_own_layout(site.match.up, path, entry.runs[0][0], *narrow.gate)
    assert arrays is not None
    named = {bound.leaf_names[leaf]: array for leaf, array in arrays.items()}
    flat, structure = jax.tree_util.tree_flatten_with_path(params)
    last = {bound.leaf_names[site.match.down.leaf]: entry.runs[1][0]["kernel"]}
    leaves = [(named | last).get(encode(keys), leaf) for keys, leaf in flat]
    for (_, before), after in zip(flat, leaves, strict=True):
        cut = [size if size == D or size == 2 else size * k // H for size in before.shape]
        assert after.shape == (before.shape if before.shape == (D,) else tuple(cut))
    narrower = {"gemma": gemma(False, k), "gemma, transposed": gemma(True, k)}.get(name, fn)
    got = narrower(jax.tree.unflatten(structure, leaves), x)
    own = params.get("wo", {}).get("bias", 0.0)
    np.testing.assert_allclose(got - own + narrow.bypass["bias"], f(compact, x), atol=1e-4)


@pytest.mark.slow
def test_plan_fits(case):
    f, fn, params, path = case
    call = f.trace(params, x)
    budget = lcjax.Params(0.6)
    plan = call.plan_fits([x], budget=budget)
    assert plan.fits.keys() == {path}


@pytest.mark.parametrize("transposed", [False, True])
def test_layers_of_a_scan(transposed):
    block = gemma(transposed)

    def fn(p, x):
        return jax.lax.scan(lambda x, p: (x + 0.1 * block(p, x), None), x, p)[0]

    shape = (3, 2, H, D) if transposed else (3, 2, D, H)
    params = arrays(gating_einsum=shape, linear=(3, H, D))
    f = lcjax.collapsible(fn)
    tree = f.init(params, x)
    assert tree["slopes"]["gating_einsum"]["slope"].shape == (3,)
    tree = tree | {"slopes": {"gating_einsum": {"slope": jnp.ones(3)}}}
    compact, _ = f.trace(tree, x).collapse()
    np.testing.assert_allclose(f(compact, x), f(tree, x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_copies_of_the_kernels():
    fn = lambda p, x: gemma(False)(jax.tree.map(lambda w: w.astype(jnp.bfloat16), p), x)
    half = x.astype(jnp.bfloat16)
    _, params, path = CASES["gemma"]
    f = lcjax.collapsible(fn)
    assert f.trace(params, half).sites.paths == (path,)
    np.testing.assert_array_equal(f(f.init(params, half), half), fn(params, half))
    compact, _ = f.trace(params, half).collapse(fit=lcjax.Exact(max_gap=1))
    assert f(compact, half).dtype == jnp.bfloat16
