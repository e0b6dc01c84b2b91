"""Small models to narrow, and their narrowing."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from lcjax import (
    CalibrationData,
    CollapsibleGLU,
    LeastSquares,
    Units,
    calibrate,
    collapse,
)
from tests.helpers.trees import random_chain, with_slopes

D_IN = 6
X = np.random.default_rng(0).normal(size=(400, D_IN)).astype(np.float32)
DATA = CalibrationData([X[:200], X[200:]], holdout=0.0, progress=False)
MIXED = LeastSquares() + Units(7)


def chain(features=(12, 11, 5), **kwargs):
    model, variables = random_chain(features, D_IN, **kwargs)
    return model, with_slopes(variables, 0.2)


def gated():
    model = CollapsibleGLU(12, 5, nn.silu, use_bias=True)
    return model, with_slopes(jax.jit(model.init)(jax.random.key(0), X), 0.2)


MODELS = {
    "pair": lambda: chain((12, 5)),
    "no biases": lambda: chain((12, 5), bias=False),
    "batch norm": lambda: chain((12, 5), norm="batch"),
    "chain": chain,
    "chain with norms": lambda: chain(norm="batch"),
    "gated": gated,
}
QUICK = ("chain", "gated")  # the others compile more
models = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS]
)


def narrowed(model, variables, fit, sites=None):
    return collapse(variables, calibration=calibrate(model.apply, variables, DATA, sites, fit))


def error(model, compact, deep, x=X):
    got, want = (np.float64(model.apply(tree, x)) for tree in (compact, deep))
    return np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(0))
