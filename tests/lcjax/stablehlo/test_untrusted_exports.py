"""Exported models of any origin, of any mesh, and what can be exported."""

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
from lcjax.errors import CheckpointError
from lcjax.stablehlo.custom_calls import unknown_calls
from tests.helpers.hostile import NO_JSON, NO_OBJECT, WRONG, at, pipe, safe, sparse

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
def test_load_exported_rejects_custom_calls(target, exported, tmp_path):
    path = _copy(exported, tmp_path, _with_call(target))
    refused(path, "got custom calls of ")
    assert lcjax.load_exported(path, custom_calls=[target]).inputs  # and is not run


def test_unknown_calls_in_functions_and_loops(exported, tmp_path):
    call = jax.ffi.ffi_call("hidden", jax.ShapeDtypeStruct((2,), jnp.float32))
    inner = jax.jit(lambda x: jax.lax.scan(lambda c, x: (c, call(x)), 0, x)[1])
    checks = [jax.export.DisabledSafetyCheck.custom_call("hidden")]
    program = jax.export.export(jax.jit(inner), platforms=["cpu"], disabled_checks=checks)(X)
    assert unknown_calls(program) == ["hidden"] and unknown_calls(program, ["hidden"]) == []
    refused(_copy(exported, tmp_path, program.serialize()), "hidden")


def test_unknown_calls_accepts_linear_algebra(tmp_path):
    def run(v, x):
        q, r = jnp.linalg.qr(v)
        return x @ (jnp.linalg.eigh(v)[1] + q @ r + jnp.linalg.cholesky(v + 3 * jnp.eye(2)))

    lcjax.export(run, WEIGHTS, [X], tmp_path / "a")  # for all platforms
    np.testing.assert_allclose(lcjax.load_exported(tmp_path / "a")(X), run(WEIGHTS, X), atol=1e-5)


@pytest.mark.parametrize("name", [*NO_JSON, *NO_OBJECT])
def test_load_exported_rejects_invalid_json(name, exported, tmp_path):
    path = _copy(exported, tmp_path)
    (path / "export.json").write_bytes((NO_JSON | NO_OBJECT)[name])
    refused(path, "is damaged: export.json")


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_load_exported_rejects_fields(wrong, exported, tmp_path):
    path = _copy(exported, tmp_path)
    about = json.loads((path / "export.json").read_text())
    for key in about:
        if key == "lcjax" and isinstance(wrong, str):
            continue
        (path / "export.json").write_text(json.dumps(at(about, [key], wrong)))
        refused(path)


@pytest.mark.parametrize("make", [sparse, pipe, os.mkdir])
@pytest.mark.parametrize("file", ["export.json", "program.jax"])
def test_load_exported_rejects_special_files(file, make, exported, tmp_path):
    path = _copy(exported, tmp_path)
    (path / file).unlink()
    make(path / file)
    refused(path)


def test_load_exported_rejects_invalid_programs(exported, tmp_path):
    whole = (exported / "program.jax").read_bytes()
    for program in (b"", bytes(100), whole[:-100], whole[:50], b"\xff" * 1000):
        refused(_copy(exported, tmp_path, program), "this JAX cannot read program.jax")


def test_load_exported_rejects_other_arguments(exported, tmp_path):
    program = jax.export.export(jax.jit(lambda: 1.0), platforms=["cpu"])().serialize()
    path = _copy(exported, tmp_path, program)
    try:
        lcjax.load_exported(path)(X)
    except (CheckpointError, ValueError) as error:
        safe(error)


def test_export_trees_of_numbers(tmp_path):
    export(lambda v, x: x * v["a"] + v["b"], {"a": 2.0, "b": np.float64(1)}, [X], tmp_path / "m")
    np.testing.assert_array_equal(lcjax.load_exported(tmp_path / "m")(X), 2 * X + 1)
    model = repr(lcjax.load_exported(tmp_path / "m"))
    assert "/m'" in model and "(batch, 2) float32" in model


def test_export_rejects_typed_keys(tmp_path):
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(TypeError, match=r"inputs 0: got key<fry>, a typed key; expected"):
        export(lambda v, k: v, WEIGHTS, [keys], tmp_path / "a")
    with pytest.raises(TypeError, match=r"variables k: got key<fry>, a typed key; expected"):
        export(lambda v, x: x, {"k": keys}, [X], tmp_path / "a")
    with pytest.raises(TypeError, match="variables k: got str, expected an array"):
        export(lambda v, x: x, {"k": "text"}, [X], tmp_path / "a")


def test_exported_64_bit_model_names_the_flag(tmp_path):
    with jax.enable_x64(True):
        export(lambda v, x: x * 2, {}, [jnp.ones((1, 2))], tmp_path / "m")
    model = lcjax.load_exported(tmp_path / "m")
    with pytest.raises(ValueError, match=r"input 0: got \(1, 2\) float32.*set jax_enable_x64"):
        model(np.ones((1, 2)))


MESH = """
import jax, jax.numpy as jnp, lcjax, sys
from jax.sharding import AxisType, NamedSharding
from lcjax.models import MLP
model = MLP((4, 3))
x = jnp.ones((8, 2))
v = model.init(jax.random.key(0), x)
for kind in (AxisType.Auto, AxisType.Explicit):
    for weights in ("embedded", "external"):
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
    assert "apply_fn places its arrays on 8 devices" in str(error), error
else:
    raise SystemExit("exported a program of 8 devices")
"""


@pytest.mark.slow
def test_export_under_mesh_is_for_one_device(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", MESH, str(tmp_path)], env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == [
        "Auto-embedded", "Auto-external", "Explicit-embedded", "Explicit-external",
    ]  # fmt: skip
    outs = [lcjax.load_exported(tmp_path / name)(jnp.ones((3, 2))) for name in os.listdir(tmp_path)]
    for out in outs:
        np.testing.assert_allclose(out, outs[0], atol=1e-6)
