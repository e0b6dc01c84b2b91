"""A compact folder: what it has, how well it fits, and that lcjax loads it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.calibration.held_out import is_held_out
from lcjax.cli.command import main
from lcjax.errors import CollapseError
from lcjax.folder import FolderOptions, collapse_model, describe_folder, load_model
from lcjax.folder.families import family_of
from lcjax.folder.fitting.forms import form_of
from lcjax.folder.fitting.mlp_tensors import MLPTensors
from lcjax.folder.storage.model_folder import read_model_folder
from lcjax.planning.plan_file import PlanFile, PlannedSite
from tests.lcjax.folder.folders import DEPTH, HIDDEN, LLAMA, WIDTH, texts, write_folder

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")


def _tensors(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= safetensors_numpy.load_file(file)
    return found


def _config(folder):
    return json.loads((folder / "config.json").read_text())


def test_intermediate_size_is_the_only_change_of_a_uniform_config(llama, uniform):
    before, after = _config(llama), _config(uniform[0])
    assert after == before | {"intermediate_size": after["intermediate_size"]}
    assert after["intermediate_size"] % 8 == 0
    assert after["intermediate_size"] < HIDDEN


def test_uniform_folder_meets_its_budget_with_the_largest_number_of_units(uniform):
    report = uniform[1]
    before, after = report["before"]["parameters"], report["after"]["parameters"]
    step = 8 * 3 * WIDTH * DEPTH
    assert after <= 0.75 * before < after + step


def test_tensors_keep_names_shards_dtypes_and_values(llama, uniform):
    deep, compact = _tensors(llama), _tensors(uniform[0])
    index = "model.safetensors.index.json"
    before, after = (json.loads((f / index).read_text()) for f in (llama, uniform[0]))
    assert after["weight_map"] == before["weight_map"]
    assert after["metadata"]["total_size"] == sum(each.nbytes for each in compact.values())
    assert compact.keys() == deep.keys()
    for name, tensor in compact.items():
        assert tensor.dtype == deep[name].dtype
        if "mlp" not in name:
            np.testing.assert_array_equal(tensor, deep[name])
    for i in range(DEPTH):
        gate, up = (f"model.layers.{i}.mlp.{name}_proj.weight" for name in ("gate", "up"))
        units = [np.flatnonzero((deep[gate] == row).all(1))[0] for row in compact[gate]]
        assert units == sorted(set(units))
        np.testing.assert_array_equal(compact[up], deep[up][units])


def test_other_files_are_those_of_the_source(llama, uniform):
    for name in ("tokenizer.json", "generation_config.json", "tokenizer_config.json"):
        assert (uniform[0] / name).read_bytes() == (llama / name).read_bytes()
    left = {file.name for file in uniform[0].parent.iterdir()}
    assert not any("unfinished" in name for name in left)


@pytest.mark.slow
def test_report_has_what_the_loaded_model_gives(llama, uniform):
    """The last layer's relative error, and the loss, of the two models run as a whole."""
    path, report = uniform
    tokens, mask = _batch(texts())
    losses, states = [], []
    for folder in (llama, path):
        model, variables = load_model(folder)
        run = jax.jit(model.apply)
        logits = run(variables, tokens, mask)
        logs = jax.nn.log_softmax(logits[:, :-1])
        picked = jnp.take_along_axis(logs, tokens[:, 1:, None], axis=2)[..., 0]
        losses.append(-np.asarray(picked))
        states.append(np.asarray(logits))
    held_out = _held_out(len(tokens))
    chosen = np.asarray(mask)[:, 1:] & held_out[:, None]
    deep, compact = (loss[chosen].mean() for loss in losses)
    assert report["loss"]["tokens"] == chosen.sum()
    np.testing.assert_allclose(report["loss"]["deep"], deep, rtol=1e-4)
    np.testing.assert_allclose(report["loss"]["measured"], compact, rtol=1e-4)
    assert abs(report["loss"]["predicted"] - compact) < 0.1


def _batch(lines):
    """Tokens of all texts in one batch, and which are real."""
    rows = [[int(word[1:]) + 1 for word in line.split()] for line in lines]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    return jnp.asarray(tokens), jnp.asarray(np.arange(tokens.shape[1]) < lengths[:, None])


def _held_out(count):
    return is_held_out(np.arange(count, dtype=np.uint32), 0.1)


@pytest.mark.slow
def test_mixed_folder_describes_its_forms_and_meets_its_budget(bert, mixed):
    path, report = mixed
    config = _config(path)
    assert config["model_type"] == "bert"
    assert config["intermediate_size"] == HIDDEN
    assert config["auto_map"] == {"AutoModel": "modeling_lcjax.CompactBertModel"}
    assert config["architectures"] == ["CompactBertModel"]
    layers = config["lcjax_forms"]["layers"]
    assert [layer["form"] for layer in layers] == [layer["form"] for layer in report["layers"]]
    assert report["after"]["parameters"] <= 0.75 * report["before"]["parameters"]
    assert report["after"]["parameters"] == sum(t.size for t in _tensors(path).values())
    choice = report["choice"]
    assert choice["predicted"] > 0
    assert choice["measured"].keys() == {"planned", "uniform"}
    assert choice["measured"][choice["taken"]] <= choice["measured"]["uniform"]
    assert report["loss"]["measured"] == choice["measured"][choice["taken"]]
    text = (path / "modeling_lcjax.py").read_text()
    assert "lcjax" not in "".join(line for line in text.splitlines() if "import" in line)
    compile(text, "modeling_lcjax.py", "exec")


@pytest.mark.slow
def test_mixed_folder_runs_in_lcjax_with_the_errors_of_its_report(bert, mixed):
    path, report = mixed
    tokens, mask = _batch(texts())
    outs = []
    for folder in (bert, path):
        model, variables = load_model(folder)
        outs.append(np.asarray(jax.jit(model.apply)(variables, tokens, mask), np.float64))
    chosen = np.asarray(mask) & _held_out(len(tokens))[:, None]
    deep, compact = (out[chosen] for out in outs)
    error = np.sqrt(((deep - compact) ** 2).sum() / (deep**2).sum())
    np.testing.assert_allclose(report["layers"][-1]["held_out"]["relative_error"], error, rtol=1e-3)
    norms = np.linalg.norm(deep, axis=1) * np.linalg.norm(compact, axis=1)
    cosine = ((deep * compact).sum(1) / norms).mean()
    np.testing.assert_allclose(report["loss"]["measured"], 1 - cosine, rtol=1e-3)


def test_inspect_and_the_card_show_the_report(uniform, capsys):
    path, report = uniform
    main(["inspect", str(path)])
    shown = capsys.readouterr().out
    assert shown.strip() == describe_folder(path).strip()
    assert f"{report['after']['parameters']:,}" in shown
    assert shown.strip() in (path / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_folder_keeps_its_dtype(dtype, tmp_path):
    source = write_folder(tmp_path / "deep", LLAMA, dtype=jnp.dtype(dtype))
    report = collapse_model(
        source,
        tmp_path / "compact",
        texts(),
        budget=lcjax.Params(0.75),
        options=FolderOptions(multiple_of=8),
    )
    assert report["after"]["bytes"] == 2 * report["after"]["parameters"]
    assert report["layers"][0]["held_out"]["r2"] > 0.9
    assert {t.dtype.name for t in _tensors(tmp_path / "compact").values()} == {dtype}


def test_weights_beyond_the_range_of_the_dtype_are_refused(tmp_path):
    source = write_folder(tmp_path / "deep", LLAMA, dtype=np.float16)
    names = MLPTensors(family_of(read_model_folder(source)), 0)
    mlp = {"down": {"kernel": np.full((8, WIDTH), 1e5, np.float32)}}
    with pytest.raises(CollapseError, match="down_proj.weight: the fit leaves the range of float1"):
        names.stored(mlp, bias=False)
    tensors, rounded = names.stored({"down": {"kernel": mlp["down"]["kernel"] / 3}}, bias=False)
    np.testing.assert_array_equal(rounded["down"]["kernel"], np.float16(1e5 / 3))
    assert [tensor.shape for tensor in tensors.values()] == [(WIDTH, 8)]


FITS = {
    "units": lcjax.Units(24),
    "units and a linear map": lcjax.LeastSquares() + lcjax.Units(16),
    "linear": lcjax.LeastSquares(),
    "constant": lcjax.Remove(),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_plan_with_every_form(kind, request, tmp_path):
    """The command carries out a plan file; layers that it leaves out stay."""
    source = request.getfixturevalue(kind)
    act = "act" if kind == "llama" else "act_0"
    chosen = list(FITS.values())[:2] if kind == "llama" else list(FITS.values())[2:]
    widths = (WIDTH, HIDDEN, WIDTH)
    sites = {f"block_{i}/mlp/{act}": PlannedSite(fit, widths) for i, fit in enumerate(chosen)}
    PlanFile(sites).save(tmp_path / "plan.json")
    (tmp_path / "texts.txt").write_text("\n".join(texts()))
    target = tmp_path / "compact"
    main(
        ["collapse-model", str(source), str(target), "--calibrate", str(tmp_path / "texts.txt")]
        + ["--plan", str(tmp_path / "plan.json"), "--mixed"]
    )
    forms = [form_of(fit, HIDDEN).to_json() for fit in (*chosen, None)]
    assert _config(target)["lcjax_forms"]["layers"] == forms
    model, variables = load_model(target)
    out = model.apply(variables, *_batch(texts(4)))
    assert np.isfinite(np.asarray(out)).all()
    deep, compact = _tensors(source), _tensors(target)
    last = [name for name in deep if f".{DEPTH - 1}." in name]
    assert all((deep[name] == compact[name]).all() for name in last)


@pytest.mark.slow
def test_compact_layers_are_those_of_a_sequential_collapse(llama, uniform):
    """`lcjax.collapse_sequential` on the same texts keeps the same units in the first layer."""
    model, variables = load_model(llama)
    keep = uniform[1]["layers"][0]["width"]
    tokens, mask = _batch(texts())
    data = lcjax.CalibrationData([(tokens, mask)], mask=lambda tokens, mask: mask, holdout=0.1)
    tree, _ = lcjax.collapse_sequential(
        model.apply, variables, data, fit={"block_0/mlp/act": lcjax.Units(keep)}
    )
    _, ours = load_model(uniform[0])
    mine, theirs = (
        np.asarray(each["params"]["block_0"]["mlp"]["gate"]["kernel"]) for each in (ours, tree)
    )
    same = sum((mine == column[:, None]).all(0).any() for column in theirs.T)
    assert same >= 0.9 * keep  # with a bias, which a Llama has not, some units differ
    assert mine.shape == theirs.shape


def test_uniform_folder_loads_as_any_other(uniform):
    """`lcjax.interop` needs nothing of lcjax in the folder."""
    model = lcjax.interop.model_from_config(uniform[0])
    variables = lcjax.interop.load_safetensors(uniform[0], model)
    tokens, mask = _batch(texts(4))
    other, params = load_model(uniform[0])
    expected = jax.jit(other.apply)(params, tokens, mask)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, tokens, mask), expected, atol=1e-5)
