"""Arguments of a function may have any names: those of lcjax's options are given apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from tests.helpers.functions import PAIR, pair

X = jnp.asarray(np.random.default_rng(0).normal(size=(32, 6)), jnp.float32)
OWN = dict(mask=jnp.arange(32) % 2, rank=2.0, fit="softly", sites=[1.0, 3.0], params=None, self=1)


def fn(params, x, /, *, mask, rank, fit, sites, **others):
    """Takes keywords that options of lcjax have too, and two that are names of arguments."""
    assert fit == "softly" and set(others) == {"params", "self"}
    scale = rank * sites[1]
    return scale * pair(jax.nn.relu)(params, x) * mask[:, None]


f = lcjax.collapsible(fn)
TREE = f.init(PAIR, X, **OWN)


@pytest.mark.promotes
def test_call_passes_keywords_named_like_options():
    np.testing.assert_array_equal(f(TREE, X, **OWN), fn(PAIR, X, **OWN))


@pytest.mark.slow
@pytest.mark.promotes
def test_trace_passes_keywords_named_like_options():
    call = f.trace(TREE, X, **OWN)
    data = lcjax.CalibrationData([X], mask=lambda x: x[:, 0] > 0, holdout=0.0, progress=False)
    stats = call.calibrate(data, "w1", lcjax.LeastSquares(rank=2))
    assert stats.train["w1"].count == (X[:, 0] > 0).sum()
    compact, report = call.collapse("w1", calibration=stats)
    assert report.fits[0].rank == 2 and f(compact, X, **OWN).shape == (32, 4)
    sequential, _ = call.collapse_sequential(data)
    np.testing.assert_allclose(
        f(sequential, X, **OWN), f(call.collapse(calibration=call.calibrate(data))[0], X, **OWN)
    )
    assert call.abstract_collapse("w1")[1].collapsed == ("w1",)


def test_trace_needs_the_functions_own_keywords():
    with pytest.raises(TypeError, match="mask"):
        f.trace(TREE, X)
