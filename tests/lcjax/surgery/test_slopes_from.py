import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcjax import CollapseError, CollapsibleMLP, Exact, collapse, collapsible, find_sites
from tests.helpers.trees import with_slopes

MODEL, X = CollapsibleMLP((8, 6, 5), nn.relu), jnp.linspace(-1, 1, 12).reshape(3, 4)


def test_slopes_from_judges_an_average_by_raw_slopes():
    """What stays keeps the average's own slope; the report has the raw gaps."""
    raw = with_slopes(MODEL.init(jax.random.key(0), X), {"act_0": 1.0, "act_1": 0.3})
    ema = with_slopes(raw, {"act_0": 0.87, "act_1": 0.2})
    compact, report = collapse(ema, slopes_from=raw)
    assert report.collapsed == ("act_0",) and float(report.gaps["act_0"]) == 0
    assert float(compact["params"]["act_1"]["slope"]) == np.float32(0.2)
    want = MODEL.apply(with_slopes(ema, {"act_0": 1.0}), X)
    np.testing.assert_allclose(MODEL.apply(compact, X), want, rtol=1e-5, atol=1e-6)
    assert float(ema["params"]["act_0"]["slope"]) == np.float32(0.87)
    with pytest.raises(CollapseError, match="slopes_from: got a tree without a slope .* at act_0"):
        collapse(ema, slopes_from={"params": {}})


def test_slopes_from_judges_an_average_of_a_traced_call():
    f = collapsible(lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"])
    tree = f.init({"a": jnp.eye(4), "b": jnp.eye(4), "c": jnp.eye(4)}, X)
    raw = tree | {"slopes": {"a": {"slope": jnp.float32(1)}, "b": {"slope": jnp.float32(0.3)}}}
    ema = tree | {"slopes": {"a": {"slope": jnp.float32(0.9)}, "b": {"slope": jnp.float32(0.2)}}}
    call = f.trace(ema, X)
    compact, report = call.collapse(slopes_from=raw)
    assert report.collapsed == ("a",)
    assert float(compact["slopes"]["b"]["slope"]) == np.float32(0.2)
    stats = call.calibrate([X], "a")
    compact, report = call.collapse(calibration=stats, slopes_from=raw)
    assert report.collapsed == ("a",) and float(compact["slopes"]["b"]["slope"]) == np.float32(0.2)


def test_slope_of_the_model_is_a_parameter_and_not_a_site():
    params = MODEL.init(jax.random.key(0), X)["params"]
    tree = {"mlp": params, "line": {"slope": jnp.ones(7), "intercept": jnp.ones(7)}}
    assert find_sites(tree).paths == ("mlp/act_0", "mlp/act_1")
    _, report = collapse(tree, "mlp/act_0", fit=Exact(max_gap=9))
    kernels = sum(leaf.size for leaf in jax.tree.leaves(params)) - 2
    assert report.parameters_before == kernels + 14
