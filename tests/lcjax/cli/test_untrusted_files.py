"""What the command exports by itself, and files of any origin that it reads or prints."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from tests.helpers.hostile import NO_JSON, NO_OBJECT, WRONG, at, safe, sparse
from tests.lcjax.cli.test_command import failed, main

pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")

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


def test_export_quickstart_model(quickstart, tmp_path):
    path, x, want = quickstart
    for name in ("mlp:features=(4,4,3)", "mlp:features=(4,4,3),activation=gelu_new"):
        out = tmp_path / str(len(name))
        main(["export", str(path), str(out), "--model", name, "--input-shape", "5"])
        np.testing.assert_allclose(lcjax.load_exported(out)(x), want, atol=1e-6)


def test_export_module_of_working_directory(quickstart, tmp_path, monkeypatch):
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
        ("nets_2.small:Net", "got the class CollapsibleMLP, expected a Flax module"),
        ("nets_2.small:number", "got int, expected a Flax module"),
        ("nets_2.small:none", "no attribute 'none'"),
        ("nets_2.broken:model", "importing nets_2.broken raised ZeroDivisionError"),
        ("nets_2.none:model", "No module named 'nets_2.none'"),
        ("mlp:features=(4,4,3),activation=mish", "activation: got mish, expected a Python literal"),
        ("mlp:features=(4,4,3),activation='mish'", "expected one of gelu, gelu_new"),
        ("mlp:features=(4,3)", "got 2 leaves that CollapsibleMLP does not use"),
    ],
)
def test_export_rejects_model_specs(name, said, quickstart, tmp_path, capsys, monkeypatch):
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


def test_export_rejects_wrong_input_shape(quickstart, tmp_path, capsys):
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


@pytest.mark.slow
def test_export_model_of_training_run(tmp_path, capsys):
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
def test_model_from_metadata_rejects_wrong_types(wrong, tmp_path):
    from lcjax.models.from_metadata import model_from_metadata

    paths = [["kind"], ["model"], ["data"], *(["model", key] for key in MIXER)]
    paths += [["data", key] for key in ("num_classes", "image_shape")]
    for keys in paths:
        optional = keys[-1] in ("activation", "dropout", "dtype", "image_shape")
        if optional and wrong in (..., None) or wrong == 4 and keys[-1] in MIXER | IMAGES["data"]:
            continue
        if keys[-1] == "dropout" and wrong == 0.5:
            continue
        try:
            module = model_from_metadata(at(IMAGES, keys, wrong)).module
        except ValueError as error:
            safe(error)
            assert "give --model" in str(error)
        else:
            pytest.fail(f"{keys} = {wrong!r} gave {module}")


# What is printed.


def test_inspect_escapes_names_and_metadata(tmp_path, capsys):
    tree = {"a\x1b[2J\n": {"slope": np.ones((), np.float32)}, "\x07b": np.ones(2)}
    lcjax.save(tmp_path / "a", tree, metadata={"m\x9b": "\x1b]0;title\x07\u202e"})
    main(["inspect", str(tmp_path / "a")])
    shown = capsys.readouterr().out
    safe(shown)
    assert "\\x1b[2J\\n" in shown and "\\u202e" in shown


PLAN = dict(
    lcjax_plan=2, num_taken=1, budget="count=1", budget_met=True, fit="exact", order="last",
    steps=[dict(site=None, metric=0.5, parameters=3, flops=4),
           dict(site="a", metric=0.4, parameters=2, flops=3)],
    skipped=[["b", "gap", "a detail"]],
)  # fmt: skip


@pytest.mark.parametrize("wrong", [*WRONG.values(), ...], ids=[*WRONG, "missing"])
def test_plan_rejects_wrong_types(wrong, tmp_path, capsys):
    from lcjax.planning.results import Plan

    assert Plan.from_json(json.dumps(PLAN)).sites == ("a",)
    paths = [[key] for key in PLAN] + [
        ["steps", i, key] for i in (0, 1) for key in PLAN["steps"][0]
    ]
    paths += [["steps", 0], ["steps", 1], ["skipped", 0], ["skipped", 0, 1]]
    for keys in paths:
        key = keys[-1]
        if wrong is ... and (keys[0] == "skipped" and len(keys) > 1 or key == 1):
            continue
        legal = {str: ("budget", "fit", "order", "site"), int: ("metric", "parameters", "flops")}
        if isinstance(wrong, str) and key in legal[str] and keys != ["steps", 0, "site"]:
            continue
        if type(wrong) is int and key in legal[int] or wrong == 0.5 and key == "metric":
            continue
        if wrong is None and keys == ["steps", 0, "site"] or wrong is True and key == "budget_met":
            continue
        with pytest.raises(ValueError, match="not a plan that Plan.to_json wrote") as error:
            Plan.from_json(json.dumps(at(PLAN, keys, wrong)))
            pytest.fail(f"{keys} = {wrong!r} was read")
        safe(error.value)


@pytest.mark.parametrize("name", [*NO_JSON, *NO_OBJECT])
def test_collapse_rejects_files_that_are_not_plans(name, quickstart, tmp_path, capsys):
    (tmp_path / "plan.json").write_bytes((NO_JSON | NO_OBJECT)[name])
    command = ["collapse", quickstart[0], tmp_path / "out", "--plan", tmp_path / "plan.json"]
    safe(failed(capsys, *command))
    sparse(tmp_path / "large")
    assert "bytes; expected at most" in failed(capsys, *command[:-1], tmp_path / "large")
