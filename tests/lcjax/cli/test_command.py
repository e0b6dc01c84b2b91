"""The command: what it writes is what the functions give; it fails in one line and cleanly."""

import importlib
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import lcjax
from lcjax.cli.command import main
from lcjax.cli.model_spec import model_from_spec, takes_tokens
from lcjax.io import checkpoint, manifest, streaming
from lcjax.models import MLP, ViT
from lcjax.nn.glu import CollapsibleGLU
from lcjax.planning.results import Plan, PlanStep
from tests.helpers.narrowed import narrow_every_mlp, remove_every_mlp
from tests.helpers.trees import random_chain, with_slopes


@pytest.fixture(autouse=True)
def absl_as_it_was():
    level = logging.getLogger("absl").level
    yield
    logging.getLogger("absl").setLevel(level)


def _tree():
    """Chains of every kind, one that stays, and what is no chain; jax and NumPy, lists and gaps."""
    x = jnp.ones((1, 6))
    normed = random_chain((32, 24, 16), 8, norm="batch")[1]
    gated = CollapsibleGLU(8, 6).init(jax.random.key(0), x)["params"]
    params = {
        "block_2": normed["params"],
        "block_10": {"mlp": random_chain((8, 7, 5), 6, dtype=jnp.bfloat16)[1]["params"]},
        "gated": with_slopes(gated, 1.0),
        "stays": with_slopes(random_chain((8, 5), 6)[1]["params"], 0.5),
        "factors": random_chain((4, 30), 20, seed=1)[1]["params"],
        "head": {"kernel": np.ones((5, 2), np.float64)},
    }
    others = {"state": [np.arange(3), {"empty": np.ones((0, 2))}, np.float32(1)], "nothing": {}}
    stats = {"block_2": normed["batch_stats"]}
    return {"params": params, "batch_stats": stats, **others}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "deep"
    lcjax.save(path, _tree(), metadata={"model": "tiny", "steps": 3})
    return path


def same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert type(one) is type(other) and one.dtype == other.dtype and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def failed(capsys, *arguments):
    """What the command says when it fails, in one line and with status 1."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, str)  # which Python prints, ending with status 1
    assert "\n" not in end.value.code and capsys.readouterr().out == ""
    return end.value.code


# inspect


def test_inspect_reads_only_slopes(source, capsys, monkeypatch):
    read = []
    load = checkpoint.ocp.load
    keep = lambda path, tree, **options: read.append(tree) or load(path, tree, **options)
    monkeypatch.setattr(checkpoint.ocp, "load", keep)
    main(["inspect", str(source)])
    assert {leaf.shape for leaf in jax.tree.leaves(read)} == {()}
    shown = capsys.readouterr().out
    assert str(lcjax.find_sites(lcjax.restore(source))) in shown
    params = _tree()["params"]
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(params)) - 7
    total = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(_tree()))
    assert f"parameters  {count:,} and 7 slopes" in shown
    assert "other       batch_stats 112, state 4" in shown
    assert f"bytes       {total:,} in " in shown
    assert 'metadata    {"model": "tiny", "steps": 3}' in shown


def test_inspect_json_has_what_the_text_has(source, capsys):
    main(["inspect", str(source), "--json"])
    found = json.loads(capsys.readouterr().out)
    sites = lcjax.find_sites(lcjax.restore(source))
    assert [site["path"] for site in found["sites"]] == list(sites.paths)
    assert [site["gap"] for site in found["sites"]] == [site.gap for site in sites]
    assert found["slopes"] == 7 and found["others"] == {"batch_stats": 112, "state": 4}
    assert found["metadata"] == {"model": "tiny", "steps": 3} and found["no_sites"] == ""
    total = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(_tree()))
    assert sum(found["bytes_by_dtype"].values()) == total


def test_inspect_json_of_a_slope_that_is_not_finite_is_valid(tmp_path, capsys):
    _, chain = random_chain((8, 5), 6)
    chain["params"]["act_0"]["slope"] = np.float32(np.nan)
    lcjax.save(tmp_path / "a", chain)
    main(["inspect", str(tmp_path / "a"), "--json"])
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["sites"][0]["slope"] is None and found["sites"][0]["gap"] is None


def test_a_plan_that_does_not_exist_is_named_first(source, tmp_path):
    with pytest.raises(SystemExit, match="error: /none.json: No such file or directory."):
        main(["collapse", str(source), str(tmp_path / "a"), "--plan", "/none.json"])


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"lcjax {lcjax.__version__}\n"


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"model": {"w": np.ones((2, 3))}, "slopes": {"a": {"slope": np.ones(())}}, "fused": {}},
         "no sites: got the tree of a collapsible function"),
        ({"w": np.ones((2, 3))}, "no sites: the tree has no leaf named `slope`"),
    ],
)  # fmt: skip
def test_inspect_of_trees_without_sites(tree, said, tmp_path, capsys):
    lcjax.save(tmp_path / "a", tree)
    main(["inspect", str(tmp_path / "a")])
    shown = capsys.readouterr().out
    assert said in shown and "parameters  6" in shown


def test_inspect_says_what_narrowed_sites_became(tmp_path, capsys):
    gated = CollapsibleGLU(8, 6).init(jax.random.key(0), jnp.ones((1, 6)))["params"]
    chain = jax.device_get({"mlp": random_chain((8, 5), 6)[1]["params"], "gated": gated})
    params = narrow_every_mlp(chain, 3)
    del params["mlp"]["bypass_0"]["kernel"]
    params |= {"gone": remove_every_mlp(chain)["mlp"]}
    lcjax.save(tmp_path / "a", {"params": params})
    main(["inspect", str(tmp_path / "a")])
    shown = capsys.readouterr().out
    assert "gated/act became 3 hidden units and a linear map\n" in shown
    assert "mlp/act_0 became 3 hidden units\n" in shown
    assert "gone/act_0 became a constant\n" in shown


# collapse


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sites", "max_gap", "at_once"),
    [
        ([], None, 0.05, 2**26),  # in one piece, and in many
        (["--max-gap", "0.6"], None, 0.6, 200),
        (
            ["--sites", "block_10/*", "stays/*", "--max-gap", "inf"],
            ["block_10/*", "stays/*"],
            np.inf,
            200,
        ),
    ],
    ids=["all", "max gap", "sites"],
)
def test_collapse_equals_collapse_in_memory(
    source, tmp_path, capsys, monkeypatch, arguments, sites, max_gap, at_once
):
    monkeypatch.setattr(streaming, "_GROUP_BYTES", at_once)
    main(["collapse", str(source), str(tmp_path / "parents" / "out"), *arguments])
    want, report = lcjax.collapse(lcjax.restore(source), sites, lcjax.Exact(max_gap=max_gap))
    same(lcjax.restore(tmp_path / "parents" / "out"), want)
    assert str(report) in capsys.readouterr().out
    assert lcjax.read_metadata(tmp_path / "parents" / "out") == {"model": "tiny", "steps": 3}
    assert os.listdir(tmp_path / "parents") == ["out"]


def test_collapse_writes_as_save(source, tmp_path):
    report = lcjax.collapse_checkpoint(source, tmp_path / "out")
    compact, want = lcjax.collapse(lcjax.restore(source))
    lcjax.save(tmp_path / "saved", compact, metadata=lcjax.read_metadata(source))
    manifests = [
        json.loads((tmp_path / name / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
        for name in ("out", "saved")
    ]
    assert manifests[0] == manifests[1]
    assert jax.tree.map(float, report) == jax.tree.map(float, want)
    host = jax.tree.map(np.asarray, {key: compact[key] for key in ("params", "batch_stats")
                                     if key in compact})  # fmt: skip
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:  # orbax alone reads it
        same(ocp.load(tmp_path / "out", host, checkpointable_name="state"), host)


def test_collapse_reads_one_chain_at_a_time(source, tmp_path, monkeypatch):
    sizes = []
    load = checkpoint.ocp.load
    monkeypatch.setattr(streaming, "_GROUP_BYTES", 1)

    def watched(path, tree, **options):
        sizes.append(len(jax.tree.leaves(tree)))
        return load(path, tree, **options)

    monkeypatch.setattr(checkpoint.ocp, "load", watched)
    lcjax.collapse_checkpoint(source, tmp_path / "out")
    normed = _tree()["params"]["block_2"], _tree()["batch_stats"]["block_2"]
    assert max(sizes) == len(jax.tree.leaves(normed)) < len(jax.tree.leaves(_tree())) / 2


def plan(*sites, fit="exact"):
    steps = [PlanStep(site=site, metric=0.0, parameters=1, flops=1) for site in (None, *sites)]
    budget = dict(num_taken=len(sites), budget="count=1", budget_met=True)
    return Plan(steps=tuple(steps), fit=fit, order="last", **budget)


def test_collapse_with_plan(source, tmp_path):
    (tmp_path / "plan.json").write_text(plan("gated/act").to_json())
    main(["collapse", str(source), str(tmp_path / "out"), "--plan", str(tmp_path / "plan.json")])
    same(lcjax.restore(tmp_path / "out"), lcjax.collapse(lcjax.restore(source), "gated/act")[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (plan("encoder/act_0").to_json(), "'encoder/act_0' matches no site. The sites are: "),
        (plan("gated/act", fit="per_unit").to_json(), "got a plan for a per_unit fit"),
        (plan().to_json(), "nothing to collapse: the plan has no site."),
        ("{}", "plan.json: not a plan that Plan.to_json wrote"),
    ],
)
def test_collapse_rejects_plans(source, tmp_path, capsys, text, said):
    (tmp_path / "plan.json").write_text(text)
    arguments = ["collapse", source, tmp_path / "out", "--plan", tmp_path / "plan.json"]
    assert said in failed(capsys, *arguments)
    assert os.listdir(tmp_path) == ["plan.json"]


def test_collapse_rejects_sources_and_targets(source, tmp_path, capsys):
    out = tmp_path / "out"
    lcjax.save(tmp_path / "plain", {"params": {"w": np.ones(3)}})
    lcjax.save(tmp_path / "bent", with_slopes(random_chain((8, 5), 6)[1], 0.25))
    lcjax.save(tmp_path / "normed", random_chain((8, 5), 6, norm="batch")[1]["params"])
    (tmp_path / "empty").mkdir()
    before = set(os.listdir(tmp_path))
    for arguments, said in (
        ((tmp_path / "absent", out), "error: .*absent: no such checkpoint"),
        ((tmp_path / "empty", out), "empty is not a checkpoint: it has no state"),
        ((source, tmp_path / "plain"), "plain already exists; expected a new path"),
        ((tmp_path / "plain", out), "no sites: the tree"),
        ((tmp_path / "bent", out), "none of 1 sites .* smallest is 0.7500, at act_0"),
        ((tmp_path / "normed", out), "norm_0: its running statistics are not in the tree"),
        ((source, out, "--sites", "stays/*"), "stays/act_0: gap is 0.5 .* over max_gap 0.05"),
        ((source, out, "--max-gap", "-1"), "max_gap is -1.0; expected a number of at least 0"),
        ((source, out, "--plan", tmp_path / "absent"), "No such file"),
    ):
        assert re.search(said, failed(capsys, "collapse", *arguments))
        assert set(os.listdir(tmp_path)) == before


def test_collapse_of_damaged_checkpoint_leaves_nothing(source, tmp_path, capsys):
    """A leaf that is no chain's, so that some were written before."""
    copy = shutil.copytree(source, tmp_path / "copy")
    content = json.loads((copy / "_CHECKPOINT_METADATA").read_text())
    told = content["custom_metadata"]["lcjax"]
    head = next(leaf for leaf in told["leaves"] if leaf["path"] == ["params", "head", "kernel"])
    head["crc32"] += 1
    kinds = {tuple(path): kind for path, kind in told["containers"]}
    sealed = manifest.make_manifest(told["leaves"], kinds, told["metadata"])
    content["custom_metadata"] = sealed
    (copy / "_CHECKPOINT_METADATA").write_text(json.dumps(content))
    said = failed(capsys, "collapse", copy, tmp_path / "out")
    assert "copy is damaged: params/head/kernel differs from what was saved" in said
    assert os.listdir(tmp_path) == ["copy"]


@pytest.mark.parametrize("call", ["save", "finalize"])
def test_collapse_on_full_disk_leaves_nothing(source, tmp_path, capsys, monkeypatch, call):
    monkeypatch.setattr(streaming, "_GROUP_BYTES", 1000)
    done, real = [], getattr(ocp.partial, call)

    def full(*arguments, **options):
        if call == "save" and len(done) < 2:
            done.append(real(*arguments, **options))
            return
        assert (tmp_path / "out.lcjax-unfinished").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.partial, call, full)
    assert "No space left on device" in failed(capsys, "collapse", source, tmp_path / "out")
    assert not any(tmp_path.iterdir())


KILLED = """
import os, sys
from orbax.checkpoint import v1 as ocp
from lcjax.io import streaming
from lcjax.cli.command import main

streaming._GROUP_BYTES = 1000
save, saves = ocp.partial.save, []
half_way = sys.argv.pop() == "half-way"

def dies(*arguments, **options):
    saves.append(arguments)
    os._exit(9) if len(saves) > 2 and half_way else save(*arguments, **options)

def killed(rename):
    return lambda old, new: os._exit(9) if str(new).endswith("/out") else rename(old, new)

ocp.partial.save = dies
os.rename, os.replace = killed(os.rename), killed(os.replace)
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "when", ["half-way", pytest.param("before the last rename", marks=pytest.mark.slow)]
)
def test_killed_collapse_leaves_no_checkpoint(source, tmp_path, when):
    command = [sys.executable, "-c", KILLED, "collapse", source, tmp_path / "out", when]
    killed = subprocess.run(list(map(str, command)), env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert killed.returncode == 9
    (left,) = tmp_path.iterdir()
    for path in (tmp_path / "out", left):
        with pytest.raises(lcjax.CheckpointError, match="is incomplete"):
            lcjax.restore(path)
    lcjax.collapse_checkpoint(source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    same(lcjax.restore(tmp_path / "out"), lcjax.collapse(lcjax.restore(source))[0])


# export


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A compact ViT on disk, and what it gives for two images."""
    model = ViT(3, 4, 2, 8, 2, 16)
    draw = np.random.default_rng(0)
    images = draw.normal(size=(2, 8, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    random = lambda leaf: jnp.asarray(draw.normal(size=leaf.shape) / 4, leaf.dtype)
    variables = with_slopes(jax.tree.map(random, shapes), 1.0)
    compact, _ = lcjax.collapse(variables, "block_1/*")
    path = tmp_path_factory.mktemp("tiny") / "compact"
    lcjax.save(path, compact)
    return path, images, jax.jit(model.apply)(compact, images)


FIELDS = "patch_size=4,depth=2,width=8,num_heads=2,mlp_hidden=16"


@pytest.mark.slow
def test_export_model_by_fields(tiny, tmp_path, capsys):
    pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
    path, images, want = tiny
    command = ["export", str(path), str(tmp_path / "out"), "--model", f"vit:{FIELDS}"]
    main([*command, "--input-shape", "8,8,3", "--platforms", "cpu", "--weights", "external"])
    assert "for cpu" in capsys.readouterr().out
    np.testing.assert_allclose(lcjax.load_exported(tmp_path / "out")(images), want, atol=1e-5)


def test_export_model_for_accelerators(tmp_path, monkeypatch, capsys):
    pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
    (tmp_path / "accelerated_nets.py").write_text("apply = lambda variables, x: x @ variables['w']")
    monkeypatch.syspath_prepend(tmp_path)
    lcjax.save(tmp_path / "a", {"w": np.ones((3, 2), np.float32)})
    command = ["export", str(tmp_path / "a"), str(tmp_path / "out"), "--input-shape", "3"]
    main([*command, "--model", "accelerated_nets:apply", "--platforms", "cuda,tpu"])
    assert "for cuda, tpu" in capsys.readouterr().out
    loaded = lcjax.load_exported(tmp_path / "out")
    assert loaded.platforms == ("cuda", "tpu")
    with pytest.raises(ValueError, match="got inputs on cpu, expected one of cuda, tpu"):
        loaded(np.ones((1, 3), np.float32))


def test_export_imported_model(tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
    (tmp_path / "own_nets.py").write_text(
        "apply = lambda variables, x, ids: x @ variables['w'] + ids[:, None].astype('float32')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    lcjax.save(tmp_path / "a", {"w": np.ones((3, 2), np.float32)})
    command = ["export", str(tmp_path / "a"), str(tmp_path / "out"), "--model", "own_nets:apply"]
    main([*command, "--input-shape", "3", "--input-shape", ":int32", "--platforms", "cpu"])
    loaded = lcjax.load_exported(tmp_path / "out")
    assert loaded.inputs == ("(batch, 3) float32", "(batch,) int32")
    got = loaded(np.ones((1, 3), np.float32), np.array([2], np.int32))
    np.testing.assert_array_equal(got, [[5, 5]])


@pytest.mark.parametrize(
    ("model", "more", "said"),
    [
        ("vit", [], "model: got 'vit', expected MODEL:PRESET, such as vit:B/16"),
        ("vit:Q/16", [], "ViT: got preset 'Q/16', expected one of Ti/16"),
        ("vit:B/16,wide=3", [], "model 'vit:B/16,wide=3': .*wide"),
        ("vit:B/16,pool=mean", [], "pool: got mean, expected a Python literal"),
        ("no_such_module:model", [], "No module named 'no_such_module'. Expected one of bert"),
        ("vit:B/4", [], r"expected to generate shape \(4, 4, 3, 768\), but .* \(4, 4, 3, 8\)"),
        (
            f"vit:{FIELDS}".replace("depth=2", "depth=1"),
            [],
            "got 14 leaves .*block_1",
        ),
        (
            f"vit:{FIELDS}",
            ["--platforms", "cpu,gpu"],
            "got .*'gpu'.*expected some of cpu",
        ),
    ],
)
def test_export_rejects_models_and_options(tiny, tmp_path, capsys, model, more, said):
    pytest.importorskip("flatbuffers", reason="jax.export needs it: pip install 'lcjax[export]'")
    command = ["export", tiny[0], tmp_path / "out", "--model", model, "--input-shape", "8,8,3"]
    assert re.search(said, failed(capsys, *command, *more))
    assert not any(tmp_path.iterdir())


def test_export_rejects_input_shape(tiny, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(tiny[0]), "out", "--model", "vit:B/16", "--input-shape", "8x8"])
    assert end.value.code == 2 and "expected axes and optionally a dtype" in capsys.readouterr().err


def test_model_from_spec_reads_num_classes_from_head(tiny):
    variables = lcjax.restore(tiny[0])
    assert model_from_spec("vit:B/16", variables).num_classes == 3
    assert model_from_spec("vit:B/16,num_classes=None", variables).num_classes is None
    assert model_from_spec("mixer:S/4", {"params": {"patches": {}}}).num_classes is None
    assert model_from_spec("mlp:features=(4,3)", {}) == MLP((4, 3))
    chain = {
        "mlp": {"dense_0": {"kernel": np.ones((2, 3))}, "dense_1": {"kernel": np.ones((3, 7))}}
    }
    assert model_from_spec("vgg:16-small", chain).num_classes == 7
    widths = range(2, 14)  # dense_10, the last of 11, comes before dense_9 in the order of strings
    chain = {
        "mlp": {
            f"dense_{i}": {"kernel": np.ones(shape)}
            for i, shape in enumerate(itertools.pairwise(widths))
        }
    }
    assert len(chain["mlp"]) == 11 and model_from_spec("vgg:16-small", chain).num_classes == 13
    assert takes_tokens(model_from_spec("gpt2:124M", {})) and not takes_tokens(
        model_from_spec("mlp:features=(1,)", {})
    )
    decoder = model_from_spec("decoder:SmolLM2-135M,depth=2,activation=gelu", {})
    assert takes_tokens(decoder) and decoder.config.depth == 2
    assert decoder.config.width == 576 and decoder.config.activation == "gelu"


def test_console_script_entry_point():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["lcjax"].partition(":")
    assert getattr(importlib.import_module(module), name) is main
