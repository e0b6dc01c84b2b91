"""Sites inside conditions and while loops are rewritten there."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lcjax
from lcjax.transform.analysis.reasons import Cause, Reason
from tests.helpers.functions import PAIR, X, arrays, dense, pair

P = {"mlp": PAIR, "other": PAIR | arrays(w1=(6, 16)), "back": arrays(back=(4, 6))["back"]}


def in_a_branch(p, x):
    """A block that is skipped where it is not needed, as in layer dropping."""
    block = lambda x: x + pair(nn.gelu)(p["mlp"], x) @ p["back"]
    return lax.cond(jnp.sum(x) > -1e6, block, lambda x: x, x)


def in_both_branches(p, x):
    first, second = (lambda x, q=p[name]: pair(nn.gelu)(q, x) for name in ("mlp", "other"))
    return lax.cond(x[0, 0, 0] > 0, first, second, x)


def in_a_while_loop(p, x):
    """As in an adaptive number of steps."""

    def step(state):
        i, x = state
        return i + 1, 0.5 * x + nn.tanh(pair(nn.gelu)(p["mlp"], x) @ p["back"])

    return lax.while_loop(lambda state: state[0] < 3, step, (0, x))[1]


def in_a_fori_loop(p, x):
    end = jnp.where(x[0, 0, 0] > 1e6, 1, 3)
    return lax.fori_loop(0, end, lambda i, x: in_a_branch(p, x) / 2, x)


CASES = {
    "branch": (in_a_branch, ("mlp/w1",)),
    "both branches": (in_both_branches, ("other/w1", "mlp/w1")),
    "while": (in_a_while_loop, ("mlp/w1",)),
    "branch in a loop": (in_a_fori_loop, ("mlp/w1",)),
}


@pytest.fixture(params=CASES, name="case")
def _case(request):
    fn, paths = CASES[request.param]
    return lcjax.collapsible(fn), fn, paths


def sloped(f, slope):
    tree = f.init(P, X)
    return tree | {"slopes": jax.tree.map(lambda a: jnp.full_like(a, slope), tree["slopes"])}


@pytest.mark.slow
def test_sites_run_and_collapse(case):
    f, fn, paths = case
    assert f.trace(P, X).sites.paths == paths
    np.testing.assert_array_equal(f(sloped(f, 0), X), fn(P, X))
    tree = sloped(f, 1)
    compact, report = f.trace(tree, X).collapse()
    assert report.flops_after < report.flops_before
    np.testing.assert_allclose(jax.jit(f)(compact, X), f(tree, X), rtol=1e-4, atol=1e-4)
    assert np.abs(f(tree, X) - fn(P, X)).max() > 1e-3


def test_slopes_in_a_branch_train():
    f = lcjax.collapsible(in_a_branch)
    gradient = jax.grad(lambda tree: f(tree, X).sum())(sloped(f, 0.5))
    assert gradient["slopes"]["mlp/w1"]["slope"] != 0


def test_values_inside_cannot_be_taken(case):
    f, _, paths = case
    with pytest.raises(lcjax.CollapseError, match="w1: is inside a (cond|while), from which"):
        f.trace(P, X).calibrate([X], paths[:1])


def test_pair_across_a_branch_is_named():
    def across(p, x):
        h = nn.relu(dense(p, 1, x))
        return lax.cond(x[0, 0, 0] > 0, lambda h: dense(p, 2, h), lambda h: h[..., :4] * 0, h)

    explained = lcjax.collapsible(across).trace(PAIR, X).explain()
    assert (explained.sites, dict(explained.rejected)) == ((), {"w1": Reason(Cause.LOOPS)})
