"""Exported models of any origin, of any mesh, and what the command exports by itself."""

import functools
import json
import os
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.custom_calls import unknown_calls
from lcjax.sealed import CheckpointError
from tests.hostile import NO_JSON, NO_OBJECT, WRONG, at, pipe, safe, sparse
from tests.test_cli import failed, main

pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")

X = jnp.ones((1, 2))
WEIGHTS = jnp.ones((2, 2))
export = functools.partial(lcjax.export, platforms=["cpu"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model"
    export(lambda v, x: x @ v, WEIGHTS, [X], path)
    return path


def _copy(exported, tmp_path, program=None, **about):
    """Writes an exported model whose checksum is right, whatever its program."""
    program = (exported / "program.jax").read_bytes() if program is None else bytes(program)
    known = json.loads((exported / "export.json").read_text()) | {"crc32": zlib.crc32(program)}
    (tmp_path / "program.jax").write_bytes(program)
    (tmp_path / "export.json").write_text(json.dumps(known | about))
    return tmp_path


def refused(path, match="."):
    with pytest.raises(CheckpointError, match=match) as error:
        lcjax.load_exported(path)
    safe(error.value)


def _with_callback():
    checks = [jax.export.DisabledSafetyCheck.custom_call("xla_ffi_python_cpu_callback")]
    run = lambda x: jax.pure_callback(lambda x: np.asarray(x), x, x)
    try:
        program = jax.export.export(jax.jit(run), platforms=["cpu"], disabled_checks=checks)(X)
        return program.serialize()
    except (ValueError, NotImplementedError) as error:
        pytest.skip(f"this JAX exports no callbacks: {error}")


def _with_call(target):
    """Returns a program that calls a function of the process, with nothing behind it."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(target)]
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(X.shape, X.dtype))
    return jax.export.export(jax.jit(lambda x: call(x)), platforms=["cpu"],
                             disabled_checks=checks)(X).serialize()  # fmt: skip


@pytest.mark.parametrize(
    "target", ["xla_ffi_python_cpu_callback", "xla_python_cpu_callback", "system", "\x1b[31m"]
)
def test_a_program_that_calls_other_code_is_refused(target, exported, tmp_path):
    path = _copy(exported, tmp_path, _with_call(target))
    refused(path, "the program calls code outside itself: ")
    assert lcjax.load_exported(path, custom_calls=[target]).inputs  # and is not run


def test_calls_inside_functions_and_loops_are_seen(exported, tmp_path):
    call = jax.ffi.ffi_call("hidden", jax.ShapeDtypeStruct((2,), jnp.float32))
    inner = jax.jit(lambda x: jax.lax.scan(lambda c, x: (c, call(x)), 0, x)[1])
    checks = [jax.export.DisabledSafetyCheck.custom_call("hidden")]
    program = jax.export.export(jax.jit(inner), platforms=["cpu"], disabled_checks=checks)(X)
    assert unknown_calls(program) == ["hidden"] and unknown_calls(program, ["hidden"]) == []
    refused(_copy(exported, tmp_path, program.serialize()), "hidden")


def test_linear_algebra_is_known(tmp_path):
    def run(v, x):
        q, r = jnp.linalg.qr(v)
        return x @ (jnp.linalg.eigh(v)[1] + q @ r + jnp.linalg.cholesky(v + 3 * jnp.eye(2)))

    lcjax.export(run, WEIGHTS, [X], tmp_path / "a")  # for all platforms
    np.testing.assert_allclose(lcjax.load_exported(tmp_path / "a")(X), run(WEIGHTS, X), atol=1e-5)


@pytest.mark.parametrize("name", [*NO_JSON, *NO_OBJECT])
def test_an_export_json_that_is_none(name, exported, tmp_path):
    path = _copy(exported, tmp_path)
    (path / "export.json").write_bytes((NO_JSON | NO_OBJECT)[name])
    refused(path, "is damaged: export.json")


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_fields_of_export_json(wrong, exported, tmp_path):
    path = _copy(exported, tmp_path)
    about = json.loads((path / "export.json").read_text())
    for key in about:
        if key == "lcjax" and isinstance(wrong, str):
            continue
        (path / "export.json").write_text(json.dumps(at(about, [key], wrong)))
        refused(path)


@pytest.mark.parametrize("make", [sparse, pipe, os.mkdir])
@pytest.mark.parametrize("file", ["export.json", "program.jax"])
def test_parts_that_are_no_files(file, make, exported, tmp_path):
    path = _copy(exported, tmp_path)
    (path / file).unlink()
    make(path / file)
    refused(path)


def test_programs_that_are_none_though_the_checksum_is_right(exported, tmp_path):
    whole = (exported / "program.jax").read_bytes()
    for program in (b"", bytes(100), whole[:-100], whole[:50], b"\xff" * 1000):
        refused(_copy(exported, tmp_path, program), "is not a program that this JAX reads")


def test_a_program_of_other_arguments(exported, tmp_path):
    program = jax.export.export(jax.jit(lambda: 1.0), platforms=["cpu"])().serialize()
    path = _copy(exported, tmp_path, program)
    try:
        lcjax.load_exported(path)(X)
    except (CheckpointError, ValueError) as error:
        safe(error)


def test_trees_of_numbers_are_exported(tmp_path):
    export(lambda v, x: x * v["a"] + v["b"], {"a": 2.0, "b": np.float64(1)}, [X], tmp_path / "m")
    np.testing.assert_array_equal(lcjax.load_exported(tmp_path / "m")(X), 2 * X + 1)
    model = repr(lcjax.load_exported(tmp_path / "m"))
    assert "/m'" in model and "(batch, 2) float32" in model


def test_keys_are_named(tmp_path):
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(TypeError, match=r"inputs 0: got key<fry>, a typed key; expected"):
        export(lambda v, k: v, WEIGHTS, [keys], tmp_path / "a")
    with pytest.raises(TypeError, match=r"variables k: got key<fry>, a typed key; expected"):
        export(lambda v, x: x, {"k": keys}, [X], tmp_path / "a")
    with pytest.raises(TypeError, match="variables k: got str, expected an array"):
        export(lambda v, x: x, {"k": "text"}, [X], tmp_path / "a")


def test_a_model_of_64_bits_says_what_to_set(tmp_path):
    with jax.enable_x64(True):
        export(lambda v, x: x * 2, {}, [jnp.ones((1, 2))], tmp_path / "m")
    model = lcjax.load_exported(tmp_path / "m")
    with pytest.raises(ValueError, match=r"input 0 is \(1, 2\) float32.*set jax_enable_x64"):
        model(np.ones((1, 2)))


MESH = """
import jax, jax.numpy as jnp, lcjax, sys
from jax.sharding import AxisType, NamedSharding
from lcjax.models import MLP
model = MLP((4, 3))
x = jnp.ones((8, 2))
v = model.init(jax.random.key(0), x)
for kind in (AxisType.Auto, AxisType.Explicit):
    for weights in ("inside", "beside"):
        mesh = jax.make_mesh((8,), ("a",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            placed = jax.device_put(v, jax.NamedSharding(mesh, jax.P()))
            path = f"{sys.argv[1]}/{kind.name}-{weights}"
            lcjax.export(model.apply, placed, [x], path, platforms=["cpu"], weights=weights)
mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
spread = lambda v, x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, jax.P("a")))
try:
    lcjax.export(spread, v, [x], sys.argv[1] + "/spread", platforms=["cpu"])
except ValueError as error:
    assert "apply_fn spreads its arrays over 8 devices by itself" in str(error), error
else:
    raise SystemExit("exported a program of 8 devices")
"""


def test_an_export_under_a_mesh_runs_on_one_device(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", MESH, str(tmp_path)], env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == [
        "Auto-beside", "Auto-inside", "Explicit-beside", "Explicit-inside",
    ]  # fmt: skip
    outs = [lcjax.load_exported(tmp_path / name)(jnp.ones((3, 2))) for name in os.listdir(tmp_path)]
    for out in outs:
        np.testing.assert_allclose(out, outs[0], atol=1e-6)


# What the command exports.


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The model of README's first example, compact."""
    model = lcjax.CollapsibleMLP(features=(4, 4, 3))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)), jnp.float32)
    variables = model.init(jax.random.key(0), x)
    variables["params"]["act_1"]["slope"] = jnp.float32(1)
    compact, _ = lcjax.collapse(variables)
    path = tmp_path_factory.mktemp("quickstart") / "compact"
    lcjax.save(path, compact)
    return path, x, model.apply(compact, x)


def test_the_quickstarts_model_is_exported_by_its_fields(quickstart, tmp_path):
    path, x, want = quickstart
    for name in ("mlp:features=(4,4,3)", "mlp:features=(4,4,3),activation=gelu_new"):
        out = tmp_path / str(len(name))
        main(["export", str(path), str(out), "--model", name, "--input-shape", "5"])
        np.testing.assert_allclose(lcjax.load_exported(out)(x), want, atol=1e-6)


def test_a_module_of_the_working_directory_is_imported(quickstart, tmp_path, monkeypatch):
    path, x, want = quickstart
    (tmp_path / "nets_of_mine").mkdir()
    (tmp_path / "nets_of_mine" / "small.py").write_text(
        "import lcjax\nmodel = lcjax.CollapsibleMLP(features=(4, 4, 3))\nNet = type(model)\n"
        "number = 3\n"
    )
    (tmp_path / "json.py").write_text("raise SystemExit('a file hid a module')")
    (tmp_path / "nets_of_mine" / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    command = ["export", str(path), "out", "--input-shape", "5", "--model"]
    main([*command, "nets_of_mine.small:model"])
    np.testing.assert_allclose(lcjax.load_exported("out")(x), want, atol=1e-6)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nets_2.small:Net", "got the class CollapsibleMLP, wanted a Flax module"),
        ("nets_2.small:number", "got int, wanted a Flax module"),
        ("nets_2.small:none", "no attribute 'none'"),
        ("nets_2.broken:model", "importing nets_2.broken raised ZeroDivisionError"),
        ("nets_2.none:model", "No module named 'nets_2.none'"),
        ("mlp:features=(4,4,3),activation=mish", "activation is mish; wanted a Python literal"),
        ("mlp:features=(4,4,3),activation='mish'", "wanted one of gelu, gelu_new"),
        ("mlp:features=(4,3)", "no module for 2 leaves"),
    ],
)
def test_models_that_are_none(name, said, quickstart, tmp_path, capsys, monkeypatch):
    (tmp_path / "nets_2").mkdir()
    text = "import lcjax\nNet = lcjax.CollapsibleMLP\nnumber = 3\n"
    (tmp_path / "nets_2" / "small.py").write_text(text)
    (tmp_path / "nets_2" / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    for module in [name for name in sys.modules if name.startswith("nets_2")]:
        monkeypatch.delitem(sys.modules, module)
    command = ["export", quickstart[0], "out", "--input-shape", "5", "--model", name]
    assert said in failed(capsys, *command)
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k[:6] != "nets_2"})


def test_a_shape_that_does_not_fit_is_named(quickstart, tmp_path, capsys):
    command = ["export", quickstart[0], tmp_path / "out", "--model", "mlp:features=(4,4,3)"]
    said = failed(capsys, *command, "--input-shape", "32")
    assert "CollapsibleMLP cannot run the checkpoint on inputs of shape (32,)" in said


MIXER = dict(kind="mixer", patch_size=2, depth=1, width=4, token_hidden=3, channel_hidden=8,
             activation="gelu", dropout=0.0, dtype="float32")  # fmt: skip
IMAGES = {
    "kind": "image",
    "model": MIXER,
    "data": {"num_classes": 3, "image_shape": [4, 4, 1], "mean": [0.5], "std": [0.2]},
}


def test_a_runs_own_metadata_say_what_to_export(tmp_path, capsys):
    model = lcjax.models.MLPMixer(num_classes=3, patch_size=2, depth=1, width=4, token_hidden=3,
                                  channel_hidden=8)  # fmt: skip
    x = jnp.ones((2, 4, 4, 1))
    variables = model.init(jax.random.key(0), x)
    lcjax.save(tmp_path / "a", variables, metadata=IMAGES)
    main(["export", str(tmp_path / "a"), str(tmp_path / "out")])
    assert "written to" in capsys.readouterr().out
    got = lcjax.load_exported(tmp_path / "out")(x)
    np.testing.assert_allclose(got, model.apply(variables, x), atol=1e-6)


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_metadata_that_lie(wrong, tmp_path):
    from lcjax.models.described import model_described

    paths = [["kind"], ["model"], ["data"], *(["model", key] for key in MIXER)]
    paths += [["data", key] for key in ("num_classes", "image_shape")]
    for keys in paths:
        optional = keys[-1] in ("activation", "dropout", "dtype", "image_shape")
        if optional and wrong in (..., None) or wrong == 4 and keys[-1] in MIXER | IMAGES["data"]:
            continue
        if keys[-1] == "dropout" and wrong == 0.5:
            continue
        try:
            module = model_described(at(IMAGES, keys, wrong)).module
        except ValueError as error:
            safe(error)
            assert "Give --model" in str(error)
        else:
            pytest.fail(f"{keys} = {wrong!r} gave {module}")


# What is printed.


def test_names_and_metadata_are_escaped(tmp_path, capsys):
    tree = {"a\x1b[2J\n": {"slope": np.ones((), np.float32)}, "\x07b": np.ones(2)}
    lcjax.save(tmp_path / "a", tree, metadata={"m\x9b": "\x1b]0;title\x07\u202e"})
    main(["inspect", str(tmp_path / "a")])
    shown = capsys.readouterr().out
    safe(shown)
    assert "\\x1b[2J\\n" in shown and "\\u202e" in shown


PLAN = dict(
    lcjax_plan=1, chosen=1, budget="count=1", met=True, fit="exact", order="last",
    steps=[dict(site=None, metric=0.5, parameters=3, flops=4),
           dict(site="a", metric=0.4, parameters=2, flops=3)],
    refused=[["b", "a reason"]],
)  # fmt: skip


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_plans_that_are_none(wrong, tmp_path, capsys):
    from lcjax.plans import Plan

    assert Plan.from_json(json.dumps(PLAN)).sites == ("a",)
    paths = [[key] for key in PLAN] + [
        ["steps", i, key] for i in (0, 1) for key in PLAN["steps"][0]
    ]
    paths += [["steps", 0], ["steps", 1], ["refused", 0], ["refused", 0, 1]]
    for keys in paths:
        key = keys[-1]
        if wrong is ... and (keys[0] == "refused" and len(keys) > 1 or key == 1):
            continue
        legal = {str: ("budget", "fit", "order", "site", 1), int: ("metric", "parameters", "flops")}
        if isinstance(wrong, str) and key in legal[str] and keys != ["steps", 0, "site"]:
            if keys != ["steps", 1]:
                continue
        if type(wrong) is int and key in legal[int] or wrong == 0.5 and key == "metric":
            continue
        if wrong is None and keys == ["steps", 0, "site"] or wrong is True and key == "met":
            continue
        with pytest.raises(ValueError, match="not a plan that Plan.to_json wrote") as error:
            Plan.from_json(json.dumps(at(PLAN, keys, wrong)))
            pytest.fail(f"{keys} = {wrong!r} was read")
        safe(error.value)


@pytest.mark.parametrize("name", [*NO_JSON, *NO_OBJECT])
def test_files_that_are_no_plan(name, quickstart, tmp_path, capsys):
    (tmp_path / "plan.json").write_bytes((NO_JSON | NO_OBJECT)[name])
    command = ["collapse", quickstart[0], tmp_path / "out", "--plan", tmp_path / "plan.json"]
    safe(failed(capsys, *command))
    sparse(tmp_path / "large")
    assert "bytes; expected at most" in failed(capsys, *command[:-1], tmp_path / "large")
