"""The benchmark of the device present, on those that run the tests."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import benchmarks.accelerator.__main__ as accelerator
import lcjax
from benchmarks.accelerator import measure, programs
from benchmarks.accelerator.forms import FORMS, form_shapes, in_bfloat16, random_weights
from benchmarks.accelerator.models import PRESETS
from benchmarks.accelerator.peaks import Peak
from benchmarks.accelerator.programs import Decoding, ForwardPass

pytestmark = pytest.mark.promotes  # bfloat16 models on float32 weights
VIT, GPT2, MINILM, DECODER = range(4)


def tiny(number):
    return PRESETS["tiny"][number]()


@pytest.mark.slow
@pytest.mark.parametrize("number", [GPT2, DECODER])
def test_form_shapes_are_those_of_the_fits(number):
    model = tiny(number)
    deep = model.network.abstract("deep")
    variables = jax.jit(lambda: random_weights(deep))()
    tokens = jnp.arange(64).reshape(2, 32) % 7
    (site,) = lcjax.find_sites(variables)
    for form, fit in (
        ("linear", lcjax.LeastSquares()),
        ("half the units", lcjax.Units(site.d_hidden // 2)),
    ):
        found = lcjax.calibrate(model.network.module.apply, variables, [tokens], fit=fit)
        fitted, _ = lcjax.collapse(variables, calibration=found)
        fitted, ours = fitted["params"]["block_0"], form_shapes(deep, form)["params"]["block_0"]
        # A fit adds the bias that a Dense without one has not.
        bias = {} if form != "linear" or number == GPT2 else {"bias": ours["mlp"]["down"]}
        if bias:
            fitted["mlp"]["down"].pop("bias")
        assert jax.tree.map(jnp.shape, fitted) == jax.tree.map(lambda leaf: leaf.shape, ours)


def test_random_weights_are_random_and_slopes_keep_the_activation():
    deep = tiny(GPT2).network.abstract("deep")
    weights = random_weights(in_bfloat16(deep))
    kernel = weights["params"]["block_0"]["mlp"]["dense_0"]["kernel"]
    assert kernel.dtype == jnp.bfloat16 and 0.01 < kernel.astype("float32").std() < 0.03
    assert lcjax.slopes(weights) == {"block_0/mlp/act_0": 0}


def test_demand_counts_products_and_bytes_once(monkeypatch):
    model = tiny(GPT2)
    width, hidden, batch, slots = 32, 128, 3, 16
    parts = ForwardPass(model), Decoding(model, batch, 2, slots)
    shapes = {form: form_shapes(model.network.abstract("deep"), form) for form in FORMS}
    flops, moved = (
        {form: part.demand(part.lower(form, shapes[form]), shapes[form]) for form in FORMS}
        for part in parts
    )
    tokens = model.network.batch_size * model.network.units
    saved = 2 * tokens * (2 * width * hidden - width * width)
    activation = 60 * tokens * hidden  # at most, of its elementwise operations
    assert saved < flops["deep"] - flops["linear"] < saved + activation
    weights = 2 * (2 * width * hidden + hidden - width * width) + 4  # the slope has 4 bytes
    assert moved["deep"] - moved["linear"] == 2 * weights
    table, cache = 2 * 512 * width, 2 * 2 * batch * slots * width
    assert moved["deep"] > 2 * (table + cache)


def test_parts_without_time_are_left_out_and_each_is_printed(monkeypatch, capsys):
    def measured(model, part, rounds):
        clock[0] += 50
        spent = {"seconds": 9.0, "user": 3.0, "system": 1.0}
        row = {"model": model.name, "batch": part.batch, "part": part.name, "form": "deep"}
        row |= {"seconds": 0.1, "per_second": 10.0, "unit": "texts", "share_of_peak": 0.5}
        return [row | {"speed_up": 1.0, "promised": 1.0, "compilation": spent}]

    clock = [0.0]
    monkeypatch.setattr(accelerator, "measure", measured)
    monkeypatch.setattr(accelerator.time, "perf_counter", lambda: clock[0])
    models = [tiny(GPT2), tiny(MINILM)]
    rows, left = accelerator.run(models, ("step", "forward", "decoding"), 3, seconds=170)
    assert [(row["model"], row["part"]) for row in rows] == [
        ("GPT-2 124M", "training step"),
        ("MiniLM-L6", "training step"),
        ("GPT-2 124M", "forward pass"),
    ]
    assert left == [
        "MiniLM-L6, forward pass at batch 2 × 16",
        "GPT-2 124M, decoding at batch 1",
        "GPT-2 124M, decoding at batch 64",
    ]
    shown = capsys.readouterr().out
    assert "  50 s  GPT-2 124M, batch 2 × 32, training step; compiled in 9 s" in shown
    assert "deep: 100.00 ms, 10 texts a second, 50% of the peak" in shown


def test_share_of_the_peak_is_of_flops_or_bytes(monkeypatch):
    kind = jax.devices()[0].device_kind
    monkeypatch.setattr(measure, "PEAKS", {kind: Peak(1e12, 1e9)})
    assert measure._share(5e11, "flops") == 0.5 and measure._share(1e8, "bytes") == 0.1
    monkeypatch.setattr(measure, "PEAKS", {})
    assert measure._share(5e11, "flops") is None


@pytest.mark.slow
def test_tiny_preset_runs_every_part(tmp_path):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--preset", "tiny", "--rounds", "2"]
    command += ["--parts", "step", "forward", "decoding"]
    command += ["--minutes", "30", "--results-dir", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    (path,) = tmp_path.glob("accelerator-*.json")
    found = json.loads(path.read_text())
    rows = found["results"]
    assert found["config"]["without time"] == [] and len(rows) == len(FORMS) * (4 + 4 + 2 * 2)
    assert {row["form"] for row in rows} == set(FORMS)
    for row in rows:
        assert row["seconds"] > 0 and (row["promised"] > 1) == (row["form"] != "deep")
        kind = "bytes" if row["part"] == "decoding" else "flops"
        assert row[kind] > 0 and row["per_second"] > 0 and row["compilation"]["seconds"] > 0


@pytest.mark.parametrize("number", [VIT, GPT2, MINILM, DECODER])
def test_models_of_pytorch_have_as_many_parameters(number):
    pytest.importorskip("torch")
    from benchmarks.accelerator.torch_models import build

    model = tiny(number)
    network, deep = model.network, model.network.abstract("deep")
    module = build(network.module, network.example[0].shape)
    count = sum(parameter.numel() for parameter in module.parameters())
    slopes = len(lcjax.find_sites(deep))
    assert count == sum(leaf.size for leaf in jax.tree.leaves(deep)) - slopes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # inside PyTorch
@pytest.mark.parametrize("number", [VIT, GPT2, MINILM, DECODER])
def test_models_of_pytorch_run(number, monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks.accelerator.torch_column import measure_torch

    model = tiny(number)
    if number != GPT2:  # its compiler takes a minute a model
        monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    for part in ("training step", "forward pass"):
        row = measure_torch(model, part, 2, {"seconds": 1.0})
        assert row["speed_up"] == pytest.approx(1 / row["seconds"])


def test_inputs_are_valid_pixels_and_tokens():
    shapes = jax.ShapeDtypeStruct((50,), jnp.uint8), jax.ShapeDtypeStruct((50,), jnp.int32)
    pixels, tokens = programs.random_inputs(shapes)
    assert pixels.max() > 100 and set(tokens.tolist()) == {0, 1}
