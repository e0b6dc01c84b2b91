"""Folders of encoders other than BERT: read as the whole model is, and made smaller."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.folder import FolderOptions, collapse_model, load_model
from lcjax.folder.families import family_of
from lcjax.folder.fitting.passes import LayerPasses
from lcjax.folder.storage.model_folder import read_model_folder
from tests.lcjax.folder.folders import (
    DEPTH,
    DISTILBERT,
    HIDDEN,
    MODERNBERT,
    ROBERTA,
    VOCABULARY,
    texts,
    write_folder,
)

CONFIGS = {config["model_type"]: config for config in (ROBERTA, DISTILBERT, MODERNBERT)}


@pytest.fixture(scope="module", params=CONFIGS)
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders") / request.param
    return write_folder(folder, CONFIGS[request.param])


def _inputs():
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, (3, 12)).astype(np.int32)
    real = np.arange(12) < np.array([[12], [9], [5]])
    return np.where(real, tokens, 0), real


@pytest.mark.slow
def test_layers_one_by_one_are_the_whole_model(encoder):
    family = family_of(read_model_folder(encoder))
    model, variables = load_model(encoder)
    tokens, real = _inputs()
    states, passes = family.embed(tokens), LayerPasses(family)
    for layer in range(DEPTH):
        params, args = family.leaves.tree(f"block_{layer}"), family.arguments(layer, real)
        states = passes.deep(family.block(layer), params, states, args, (real, ~real)).states
    last = family.outputs(np.asarray(states)[real])
    expected = np.asarray(jax.jit(model.apply)(variables, jnp.asarray(tokens), jnp.asarray(real)))
    np.testing.assert_allclose(last, expected[real], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("forms", ["units", "mixed"])
def test_collapsed_folder_has_the_errors_of_its_report(encoder, forms, tmp_path):
    options = FolderOptions(forms=forms, multiple_of=8)
    target = tmp_path / "compact"
    report = collapse_model(encoder, target, texts(), budget=lcjax.Params(0.75), options=options)
    assert report["after"]["parameters"] <= 0.75 * report["before"]["parameters"]
    before, after = (json.loads((f / "config.json").read_text()) for f in (encoder, target))
    if forms == "units":
        field = "hidden_dim" if before["model_type"] == "distilbert" else "intermediate_size"
        assert after == before | {field: report["layers"][0]["width"]}
        assert f"`{field}`" in (target / "README.md").read_text()
        assert after[field] < HIDDEN
    rows = [[int(word[1:]) + 1 for word in line.split()] for line in texts()]
    real = np.arange(16) < np.array([[len(row)] for row in rows])
    tokens = np.array([row + [0] * (16 - len(row)) for row in rows])
    held_out = lcjax.calibration.held_out.is_held_out(np.arange(len(rows), dtype=np.uint32), 0.1)
    outs = []
    for folder in (encoder, target):
        model, variables = load_model(folder)
        out = jax.jit(model.apply)(variables, jnp.asarray(tokens), jnp.asarray(real))
        outs.append(np.asarray(out, np.float64)[real & held_out[:, None]])
    norms = np.prod([np.linalg.norm(out, axis=1) for out in outs], axis=0)
    cosine = ((outs[0] * outs[1]).sum(1) / norms).mean()
    np.testing.assert_allclose(report["loss"]["measured"], 1 - cosine, rtol=1e-3, atol=1e-6)
