"""Layers of which not all hidden units are candidates, as those of large models are."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.algebra import regression
from lcjax.algebra.moments import measure
from lcjax.folder import FolderOptions, collapse_model
from lcjax.folder.fitting import layer_run, planning, solve
from lcjax.folder.fitting.ridge import ridge_in_place, through_origin
from lcjax.planning.plan_file import PlanFile, PlannedSite
from tests.lcjax.folder.folders import DEPTH, HIDDEN, WIDTH, texts

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")


def _moments():
    x, t = (
        jax.random.normal(jax.random.key(i), (200, width)) + i for i, width in ((0, 12), (1, 5))
    )
    return x, t, measure(x, t @ jnp.eye(5) + x[:, :5])


@pytest.mark.slow
def test_ridge_in_place_is_least_squares():
    rows = np.random.default_rng(0).standard_normal((12, 5), np.float32)
    moments = jax.device_get(_moments()[2])
    kernel, bias = ridge_in_place(moments, 1e-3, rows)
    expected = regression.least_squares(moments, 1e-3, rows, prior=np.float64(rows))
    np.testing.assert_allclose(kernel, expected.kernel, atol=1e-5)
    np.testing.assert_allclose(bias, expected.bias, atol=1e-5)


def test_moments_about_the_origin_give_a_fit_without_bias():
    x, t, moments = _moments()
    t = np.asarray(t + x[:, :5], np.float64)
    found = regression.least_squares(jax.device_get(through_origin(moments)), 0.0)
    expected = np.linalg.lstsq(np.asarray(x, np.float64), t, rcond=None)[0]
    np.testing.assert_allclose(found.kernel, expected, atol=1e-4)
    assert not found.bias.any()


def _planned(llama, folder, fit):
    widths = (WIDTH, HIDDEN, WIDTH)
    folder.mkdir()
    sites = {f"block_{i}/mlp/act": PlannedSite(fit, widths) for i in range(DEPTH)}
    PlanFile(sites).save(folder / "plan.json")
    report = collapse_model(llama, folder / "out", texts(), plan=folder / "plan.json")
    tensors = {}
    for file in (folder / "out").glob("*.safetensors"):
        tensors |= safetensors_numpy.load_file(file)
    return report, tensors


@pytest.mark.slow
def test_preselected_units_are_the_strongest_and_refitted(llama, tmp_path, monkeypatch):
    """With as many candidates as units; the solver for wide layers gives the same."""
    fit = lcjax.Units(24, candidates=24)
    report, tensors = _planned(llama, tmp_path / "a", fit)
    assert all(layer["held_out"]["r2"] > 0.5 for layer in report["layers"])
    full, _ = _planned(llama, tmp_path / "b", lcjax.Units(24))
    assert full["layers"][0]["fitted"]["r2"] >= report["layers"][0]["fitted"]["r2"]
    monkeypatch.setattr(solve, "_WIDE", 8)
    _, wide = _planned(llama, tmp_path / "c", fit)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(wide[name], tensor, atol=1e-3, err_msg=name)
    config = json.loads((tmp_path / "a" / "out" / "config.json").read_text())
    assert config["intermediate_size"] == 24


@pytest.mark.slow
def test_mixed_forms_are_measured_on_candidates(bert, tmp_path, monkeypatch):
    for module in (planning, layer_run):
        monkeypatch.setattr(module, "pool_size", lambda family, fit: max(fit.count, 40))
    report = collapse_model(
        bert,
        tmp_path / "out",
        texts(),
        budget=lcjax.Params(0.75),
        options=FolderOptions(forms="mixed", multiple_of=8),
    )
    assert report["after"]["parameters"] <= 0.75 * report["before"]["parameters"]
    assert report["layers"][-1]["held_out"]["relative_error"] < 0.3
