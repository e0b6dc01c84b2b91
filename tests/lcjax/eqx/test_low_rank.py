"""Equinox modules whose kernels around an activation are two factors each."""

import equinox as eqx
import jax
import numpy as np

import lcjax
from tests.helpers.functions import close
from tests.lcjax.eqx.models import HIDDEN, WIDTH, Gated

X = jax.random.normal(jax.random.key(2), (64, WIDTH))


def test_module_runs_on_factors_and_is_saved_and_restored(tmp_path):
    model = Gated(jax.random.key(0))
    small, report = lcjax.eqx.collapse(model, X, data=[X], fit=lcjax.LowRank(3))
    assert isinstance(small, lcjax.eqx.Collapsed) and small.module.up is None
    assert report.parameters_after == 3 * 3 * (WIDTH + HIDDEN) + WIDTH
    (entry,) = small.fused.values()
    product = lambda run: run["0"]["kernel"] @ run["1"]["kernel"]
    first, last = entry["layers"]["0"], entry["layers"]["1"]
    h = jax.nn.silu(X @ product(entry["gates"]["0"])) * (X @ product(first))
    close(small(X), h @ product(last) + last["1"]["bias"])
    eqx.tree_serialise_leaves(tmp_path / "small.eqx", small)
    like = jax.tree.map(lambda leaf: 0 * leaf if eqx.is_array(leaf) else leaf, small)
    restored = eqx.tree_deserialise_leaves(tmp_path / "small.eqx", like)
    np.testing.assert_array_equal(restored(X), small(X))
