"""Passes over a folder's layers: what fits read has full precision, whatever a device's default."""

import flax.linen as nn
import jax
import pytest

import lcjax
from lcjax.folder import FolderOptions, collapse_model
from tests.helpers.programs import precisions, recorded
from tests.lcjax.folder.folders import texts


def _mark(call, args, kwargs, context):
    """Runs a method of a module with products of precision HIGH."""
    with jax.default_matmul_precision("high"):
        return call(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("forms", ["units", "mixed"])
@pytest.mark.parametrize("folder", ["llama", "bert"])
def test_all_but_the_models_own_products_have_full_precision(folder, forms, request, tmp_path):
    budget, source = lcjax.Params(0.75), request.getfixturevalue(folder)
    options = FolderOptions(forms=forms, multiple_of=8)
    with recorded() as programs, nn.intercept_methods(_mark):
        collapse_model(source, tmp_path / "compact", texts(), budget=budget, options=options)
    found = precisions(programs)
    assert set(found) == {"HIGHEST", "HIGH"}, found
