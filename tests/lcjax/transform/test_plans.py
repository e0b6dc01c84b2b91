"""Plans for functions of other frameworks, and for the same networks written with lcjax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax

WIDTH, HIDDEN, BLOCKS = 16, 24, 3
X = jax.device_put(np.float32(np.random.default_rng(0).normal(size=(24, 6, WIDTH))))
DATA = lcjax.CalibrationData([X[:12], X[12:]], holdout=0.25, progress=False)


class Block(nnx.Module):
    """A pre-norm decoder block with SwiGLU."""

    def __init__(self, rngs):
        linear = lambda *widths: nnx.Linear(*widths, use_bias=False, rngs=rngs)
        self.norm_1, self.norm_2 = (nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.gate, self.up = linear(WIDTH, HIDDEN), linear(WIDTH, HIDDEN)
        self.down = linear(HIDDEN, WIDTH)

    def __call__(self, x, mask):
        x = x + self.attention(self.norm_1(x), mask=mask)
        y = self.norm_2(x)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y))


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([Block(rngs) for _ in range(BLOCKS)])
        self.head = nnx.Linear(WIDTH, 5, rngs=rngs)

    def __call__(self, x):
        mask = nnx.make_causal_mask(x[..., 0])
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


class CollapsibleDecoder(nn.Module):
    """The same decoder in linen, its SwiGLU a CollapsibleGLU."""

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(x[..., 0])
        for i in range(BLOCKS):
            y = nn.LayerNorm(name=f"norm_1_{i}")(x)
            x = x + nn.MultiHeadDotProductAttention(2, name=f"attention_{i}")(y, mask=mask)
            y = nn.LayerNorm(name=f"norm_2_{i}")(x)
            x = x + lcjax.CollapsibleGLU(HIDDEN, WIDTH, name=f"glu_{i}")(y)
        return nn.Dense(5, name="head")(x)


def decoder():
    """Returns function and params of the decoder, and apply function and params in linen."""
    graph, state = nnx.split(Decoder(nnx.Rngs(0)))
    fn = lambda state, x: nnx.merge(graph, state)(x)
    pure = nnx.to_pure_dict(state)
    params = {"head": pure["head"]}
    for i, block in pure["blocks"].items():
        params |= {f"{name}_{i}": block[name] for name in ("norm_1", "norm_2", "attention")}
        glu = {name: block[name] for name in ("gate", "up", "down")}
        params[f"glu_{i}"] = glu | {"act": {"slope": jnp.zeros(())}}
    return fn, state, CollapsibleDecoder().apply, {"params": params}


def equinox_mlp():
    """Returns function and params of an Equinox MLP, and of the same CollapsibleMLP."""
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(WIDTH, 5, width_size=HIDDEN, depth=3, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    fn = lambda params, x: jax.vmap(jax.vmap(eqx.combine(params, static)))(x)
    tree = {f"act_{i}": {"slope": jnp.zeros(())} for i in range(3)}
    for i, layer in enumerate(model.layers):
        tree[f"dense_{i}"] = {"kernel": layer.weight.T, "bias": layer.bias}
    return fn, params, lcjax.CollapsibleMLP((HIDDEN,) * 3 + (5,), nn.relu).apply, {"params": tree}


def distance(run, deep):
    """Returns the metric of a tree: minus the mean squared distance from the deep outputs."""
    run = jax.jit(run)
    return lambda tree: -float(((run(tree, X) - deep) ** 2).mean())


@pytest.fixture(scope="module", params=[pytest.param(decoder, marks=pytest.mark.slow), equinox_mlp])
def both(request):
    """A call of the function and its metric, and apply function, variables and their metric."""
    fn, params, apply, variables = request.param()
    f, deep = lcjax.collapsible(fn), apply(variables, X)
    call = f.trace(params, X)
    np.testing.assert_allclose(f(call.variables, X), deep, atol=1e-5)
    return call, distance(f, deep), apply, variables, distance(apply, deep)


def same_sites(one, other, ours, theirs):
    """Checks that sites of two front ends are the same by their places in the forward order."""
    assert [ours.index(site) for site in one] == [theirs.index(site) for site in other]


@pytest.mark.slow
def test_sensitivity_equals_that_of_params_tree(both):
    call, metric, apply, variables, tree_metric = both
    costs = call.sensitivity(metric, DATA)
    expected = lcjax.sensitivity(apply, variables, tree_metric, DATA)
    assert [cost.site for cost in costs.costs] == list(call.sites.paths)
    for one, other in zip(costs.costs, expected.costs, strict=True):
        assert one.metric_drop == pytest.approx(other.metric_drop, rel=1e-4)
        assert one.held_out_r2 == pytest.approx(other.held_out_r2, abs=1e-4)
        assert one.parameters == other.parameters
    assert call.sites[0].path in str(costs)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [lcjax.Count(2), lcjax.Params(0.8)], ids=str)
def test_plan_equals_that_of_params_tree(both, budget, tmp_path):
    call, metric, apply, variables, tree_metric = both
    plan = call.plan(metric, DATA, budget=budget)
    expected = lcjax.plan(apply, variables, tree_metric, DATA, budget=budget)
    order = list(lcjax.find_sites(variables).paths)
    steps = [[step.site for step in each.steps[1:]] for each in (plan, expected)]
    same_sites(*steps, list(call.sites.paths), order)
    for one, other in zip(plan.steps, expected.steps, strict=True):
        assert one.metric == pytest.approx(other.metric, rel=1e-4, abs=1e-9)
        assert (one.parameters, one.flops) == (other.parameters, other.flops)
    assert plan.budget_met and plan.num_taken == expected.num_taken
    compact, report = call.collapse_sequential(DATA, plan)
    assert report.collapsed == plan.sites
    assert metric(compact) == pytest.approx(plan.steps[plan.num_taken].metric, rel=1e-3)
    pytest.importorskip("matplotlib")
    plan.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 1000


@pytest.mark.slow
def test_plan_without_data(both):
    call, metric, *_ = both
    plan = call.plan(metric, budget=lcjax.Count(1), fit=lcjax.Exact(max_gap=2), order="last")
    assert plan.sites == call.sites.paths[-1:] and plan.fit == "exact"


@pytest.mark.slow
def test_sequential_fits_equal_those_of_params_tree(both):
    call, metric, apply, variables, tree_metric = both
    separate, _ = call.collapse(calibration=call.calibrate(DATA))
    sequential, _ = call.collapse_sequential(DATA)
    expected, _ = lcjax.collapse_sequential(apply, variables, DATA)
    assert metric(sequential) == pytest.approx(tree_metric(expected), rel=1e-4)
    assert metric(sequential) >= metric(separate)
