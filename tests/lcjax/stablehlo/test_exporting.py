"""Exported models run as the models do, for any batch, in a process that has JAX alone."""

import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax import CheckpointError, collapse, export, load_exported
from lcjax.models import GPT2, VGG, ViT
from lcjax.stablehlo import exporting
from tests.helpers.functions import CASES
from tests.helpers.trees import random_chain

pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def chain():
    model, variables = random_chain((8, 7, 5), 6, norm="batch")
    return model, jax.tree.map(jnp.asarray, variables)


@pytest.fixture(scope="module", params=["embedded", "external"])
def exported(request, chain, tmp_path_factory):
    model, variables = chain
    path = tmp_path_factory.mktemp("exported") / "parents" / "deep"
    export(model.apply, variables, [X], path, weights=request.param)
    return path


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_exported_model_runs_any_batch_and_under_jit(exported, chain):
    model, variables = chain
    loaded = load_exported(exported)
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    assert loaded.inputs == ("(batch, 6) float32",)
    for x in (X, X[:1]):
        close(loaded(x), model.apply(variables, x))
    close(jax.jit(lambda x: 2 * loaded(x))(X), 2 * model.apply(variables, X))


def test_export_writes_only_its_files(exported):
    embedded = json.loads((exported / "export.json").read_text())["weights"] == "embedded"
    files = {"program.jax", "export.json"} | (set() if embedded else {"weights"})
    assert set(os.listdir(exported)) == files
    assert os.listdir(exported.parent) == ["deep"]


ALONE = """
import sys, jax, numpy as np
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
np.save(sys.argv[3], program.call(np.load(sys.argv[2])))
assert not {"flax", "lcjax", "orbax"} & set(sys.modules), "not JAX alone"
"""
WITHOUT_MODEL = """
import sys, numpy as np
from lcjax.stablehlo.loading import load_exported
np.save(sys.argv[3], load_exported(sys.argv[1])(np.load(sys.argv[2])))
unneeded = ("lcjax.models", "lcjax.interop")
assert not [name for name in sys.modules if name.startswith(unneeded)]
"""


@pytest.mark.parametrize(
    ("weights", "script", "file"),
    [
        ("embedded", ALONE, "program.jax"),
        pytest.param("external", WITHOUT_MODEL, "", marks=pytest.mark.slow),
    ],
    ids=["jax alone", "external weights"],
)
def test_exported_program_in_fresh_process(chain, tmp_path, weights, script, file):
    model, variables = chain
    compact, report = collapse(variables)
    assert len(report.collapsed) == 2
    export(model.apply, compact, [X], tmp_path / "model", platforms=["cpu"], weights=weights)
    np.save(tmp_path / "x.npy", X)
    places = [tmp_path / "model" / file, tmp_path / "x.npy", tmp_path / "y.npy"]
    command = [sys.executable, "-c", script, *map(str, places)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    close(np.load(tmp_path / "y.npy"), model.apply(compact, X))


MODELS = {
    "vit": (ViT(4, 4, 1, 8, 2, 16), jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)),
    "gpt2": (GPT2(1, 8, 2, vocab_size=11, max_length=6), jax.ShapeDtypeStruct((2, 5), np.int32)),
    "vgg": (
        VGG(3, ((4,), (4,)), grid=1, hidden=(8,)),
        jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32),
    ),
}


@pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit", "vgg"))]
)
def test_export_models_for_any_batch(name, tmp_path):
    model, like = MODELS[name]
    shapes = jax.eval_shape(model.init, jax.random.key(0), like)
    variables = jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    export(model.apply, variables, [like], tmp_path / "model", platforms=("cpu",))
    x = RNG.integers(0, 9, (3, *like.shape[1:])).astype(like.dtype)
    got, want = load_exported(tmp_path / "model")(x), model.apply(variables, x)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_export_nested_trees_and_several_inputs(tmp_path):
    variables = (np.float32(2), {"w": jnp.ones((3, 4), jnp.bfloat16)})

    def apply(variables, x, more):
        return variables[0] * x["a"] @ variables[1]["w"].astype(x["a"].dtype) + more

    inputs = ({"a": np.ones((2, 3), np.float32)}, np.ones((2, 4), np.float32))
    for weights in ("embedded", "external"):
        export(apply, variables, inputs, tmp_path / weights, platforms=("cpu",), weights=weights)
        loaded = load_exported(tmp_path / weights)
        close(loaded(*inputs), np.full((2, 4), 7))
        with pytest.raises(ValueError, match=r"1: got \(1, 4\) float32, expected .* input 0, 2"):
            loaded(inputs[0], inputs[1][:1])
        with pytest.raises(ValueError, match="inputs .*, expected .*float32, .batch, 4. float32"):
            loaded(inputs[0])


@pytest.mark.parametrize(
    "x", [np.ones((2, 5), np.float32), X.astype(np.int32), X[0], X[:0], np.float32(1)]
)
def test_exported_model_rejects_wrong_inputs(exported, x):
    with pytest.raises(ValueError, match=r"deep, input 0: got \(.*expected \(batch, 6\) float32"):
        load_exported(exported)(x)


def test_exported_model_rejects_other_platform(chain, tmp_path):
    model, variables = chain
    export(model.apply, variables, [X], tmp_path / "tpu", platforms=("tpu",))
    with pytest.raises(ValueError, match="tpu: got inputs on cpu, expected one of tpu. Add "):
        load_exported(tmp_path / "tpu")(X)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(platforms=("cpu", "gpu")),
            "got .*'gpu'.*, expected some of cpu, cuda, rocm",
        ),
        (dict(platforms=()), "platforms: got "),
        (dict(platforms="cpu"), "platforms: got 'cpu'"),
        (dict(weights="outside"), "weights: got 'outside', expected 'embedded' or 'external'"),
        (dict(inputs=[np.float32(1)]), r"inputs 0: got \(\) float32, without a batch axis"),
        (dict(inputs=[]), "inputs: got batches of sizes none"),
        (dict(inputs=[X, X[:1]]), "inputs: got batches of sizes 1, 3; expected one size"),
        (
            dict(apply_fn=lambda v, x: x.reshape(len(x), -1)),
            r"size: .*Write x.shape\[0\] for len",
        ),
        (dict(apply_fn=lambda v, x: x if x.shape[0] > 4 else -x), "batch size: .*inconclusive"),
    ],
)
def test_export_rejects_arguments(chain, tmp_path, change, message):
    model, variables = chain
    call = dict(apply_fn=model.apply, variables=variables, inputs=[X]) | change
    with pytest.raises(ValueError, match=message):
        export(path=tmp_path / "model", **call)
    assert not any(tmp_path.iterdir())


def test_export_rejects_too_large_embedded_weights(chain, tmp_path, monkeypatch):
    model, variables = chain
    monkeypatch.setattr(exporting, "_MAX_EMBEDDED", 100)
    with pytest.raises(ValueError, match="weights, expected at most 100 to embed; export with"):
        export(model.apply, variables, [X], tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_export_is_atomic_and_never_overwrites(chain, tmp_path, monkeypatch):
    model, variables = chain
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there already exists; expected a new path"):
        export(model.apply, variables, [X], tmp_path / "there")

    def full(path, tree):
        path.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "save", full)
    with pytest.raises(OSError, match="No space left"):
        export(model.apply, variables, [X], tmp_path / "model", weights="external")
    assert os.listdir(tmp_path) == ["there"]


def test_load_exported_rejects_damage(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: no such exported model"):
        load_exported(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="not an exported model: expected program.jax and"):
        load_exported(tmp_path)
    for name in ("program.jax", "export.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="damaged: export.json: "):
        load_exported(tmp_path)
    about = json.loads((exported / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="damaged: the checksum of program.jax differs"):
        load_exported(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps(about | {"format": 3}))
    with pytest.raises(CheckpointError, match="got format 3, expected at most 2"):
        load_exported(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "name"), [("embedded", "inside"), ("external", "beside")])
def test_load_exported_reads_format_1(weights, name, chain, tmp_path):
    """Models exported before the places of weights were renamed: format 1, "inside" or "beside"."""
    model, variables = chain
    export(model.apply, variables, [X], tmp_path / "a", platforms=["cpu"], weights=weights)
    crc32 = json.loads((tmp_path / "a" / "export.json").read_text())["crc32"]
    about = f'{{"format": 1, "lcjax": "0.1.0", "weights": "{name}", "crc32": {crc32}}}'
    (tmp_path / "a" / "export.json").write_text(about)
    close(load_exported(tmp_path / "a")(X), model.apply(variables, X))
    (tmp_path / "a" / "export.json").write_text(about.replace(name, weights))
    with pytest.raises(CheckpointError, match=f"weights: got '{weights}', expected 'inside' or"):
        load_exported(tmp_path / "a")


def test_export_without_flatbuffers_names_the_extra(chain, tmp_path, monkeypatch):
    model, variables = chain
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"pip install 'lcjax\[export\]'"):
        lcjax.export(model.apply, variables, [X], tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_function_that_slices_gate_and_value_is_exported_for_any_batch(tmp_path):
    case = CASES["gate and value in one, sliced"]
    f = lcjax.collapsible(case.fn)
    tree, _ = f.trace(case.params, *case.inputs).collapse("*", lcjax.Exact(max_gap=math.inf))
    (x,) = case.inputs
    export(f, tree, [x], tmp_path / "compact")
    loaded = load_exported(tmp_path / "compact")
    for rows in (x, x[:1]):
        close(loaded(rows), f(tree, rows))
