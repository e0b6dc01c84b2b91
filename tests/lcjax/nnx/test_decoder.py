"""A decoder with a cache, half of whose MLPs are compact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from tests.helpers.functions import close
from tests.helpers.nnx_modules import Decoder, generate, tokens

DATA = lcjax.CalibrationData([tokens(seed=1), tokens(seed=2)], holdout=0.0, progress=False)
run = nnx.jit(lambda model, ids: model(ids))
LIKELIHOOD = lambda model: float(jax.nn.log_softmax(run(model, tokens(seed=3)))[..., 0].mean())


def check_generation(model):
    """The cache changes nothing: the tokens are the likeliest ones of a call without it."""
    prompt = tokens(2, 3)
    ids, logits = generate(model, prompt, 4)
    uncached = run(model, ids[:, :-1])[:, prompt.shape[1] - 1 :]
    close(logits, uncached)
    np.testing.assert_array_equal(ids[:, prompt.shape[1] :], jnp.argmax(uncached, -1))


@pytest.mark.slow
def test_half_the_mlps_by_a_plan_generate_with_the_cache():
    model = Decoder(nnx.Rngs(0), blocks=2)
    check_generation(model)
    plan = lcjax.nnx.plan(model, LIKELIHOOD, DATA, budget=lcjax.Count(1))
    compact, report = lcjax.nnx.collapse_sequential(model, DATA, sites=plan)
    assert len(report.collapsed) == 1
    assert report.parameters_after < report.parameters_before
    assert isinstance(compact, Decoder)
    check_generation(compact)
    assert len(lcjax.nnx.find_sites(compact, tokens())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("linear", [True, False])
def test_plan_of_fits_generates_with_the_cache(linear):
    model = Decoder(nnx.Rngs(0))
    candidates = [lcjax.LeastSquares(), lcjax.Units(8, linear=linear)]
    half = ["blocks/1/*", "blocks/2/*"]
    plan = lcjax.nnx.plan_fits(
        model, DATA, budget=lcjax.Params(0.8), candidates=candidates, sites=half
    )
    compact, report = lcjax.nnx.collapse_sequential(model, DATA, fit=plan.fits)
    assert set(plan.fits) <= {"blocks/1/mlp/up", "blocks/2/mlp/up"}
    size = lambda model: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert size(compact) == report.parameters_after < size(model)
    check_generation(compact)
