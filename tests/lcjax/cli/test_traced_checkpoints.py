"""`lcjax collapse` and `lcjax inspect` on checkpoints that orbax wrote for other models."""

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax
import pytest
from flax import nnx

import lcjax
from lcjax.cli.command import main
from lcjax.io import reader, streaming
from lcjax.io.traced import PairRule
from tests.lcjax.cli import traced_models as models

HERE = "tests.lcjax.cli.traced_models"
X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
ANY = lcjax.Exact(max_gap=1)


@pytest.fixture(autouse=True)
def absl_as_it_was():
    level = logging.getLogger("absl").level
    yield
    logging.getLogger("absl").setLevel(level)


def save(path, tree):
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


@pytest.fixture(scope="module")
def model():
    """With statistics that are not those of a new one."""
    model, _ = models.deep(seed=3)
    norm = model.layers[0].norm
    norm.mean.set_value(jnp.linspace(-1, 1, 16))
    norm.var.set_value(jnp.linspace(0.5, 2, 16))
    return model


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    """The state of the model, its pure dict, and its Params next to something else."""
    here = tmp_path_factory.mktemp("source")
    save(here / "state", nnx.state(model))
    save(here / "pure", nnx.to_pure_dict(nnx.state(model)))
    save(here / "params", nnx.state(model, nnx.Param))
    save(here / "training", {"step": jnp.ones(()), "model": nnx.state(model)})
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    data = lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf
    lcjax.save(here / "own", jax.tree.map(data, nnx.state(model)))
    return here


def run(*arguments):
    main([str(argument) for argument in arguments])


def failed(*arguments):
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


def same(got, want):
    (one, first), (other, second) = nnx.split(got), nnx.split(want)
    assert one == other
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype and jnp.array_equal(a, b)


# NNX modules


@pytest.mark.slow
@pytest.mark.parametrize("name", ["state", "pure", "own", "training"])
def test_an_nnx_state_becomes_what_collapse_gives(source, model, tmp_path, capsys, name):
    params = ["--params", "model"] if name == "training" else []
    sites = ["--sites", "layers/0/up", "layers/2/*", "--max-gap", 1]
    run("collapse", source / name, tmp_path / "out", "--model", f"{HERE}:deep", *params, *sites)
    want, report = lcjax.nnx.collapse(model, X, sites=["layers/0/up", "layers/2/*"], fit=ANY)
    shown = capsys.readouterr().out
    assert str(report) in shown
    assert ("left out: step, outside of --params" in shown) == (name == "training")
    compact = lcjax.nnx.merge(nnx.eval_shape(models.alone), lcjax.restore(tmp_path / "out"), X)
    same(compact, want)
    np.testing.assert_array_equal(compact(X), want(X))
    assert os.listdir(tmp_path) == ["out"]
    run("inspect", tmp_path / "out")
    assert "layers/0/up became linear\nlayers/2/up became linear\n" in capsys.readouterr().out


def test_params_alone_are_enough_where_no_statistics_fold_in(source, model, tmp_path):
    arguments = ["--model", f"{HERE}:alone", "--input-shape", "4", "--max-gap", 1]
    run("collapse", source / "params", tmp_path / "out", *arguments, "--sites", "layers/1/up")
    want, _ = lcjax.nnx.collapse(model, X, sites="layers/1/up", fit=ANY)
    same(lcjax.nnx.merge(model, lcjax.restore(tmp_path / "out"), X), want)
    with pytest.raises(lcjax.CollapseError, match="count: has no value in the tree, nor in the mo"):
        shapes = nnx.eval_shape(models.alone)
        lcjax.nnx.merge(shapes, lcjax.restore(tmp_path / "out"), X)


def test_slopes_of_a_module_choose_its_sites(model, tmp_path, capsys):
    sloped = lcjax.nnx.add_slopes(model, X)
    sloped.layers[1].lcjax.slopes["up"]["slope"].set_value(jnp.float32(1))
    save(tmp_path / "deep", nnx.state(sloped))
    run("inspect", tmp_path / "deep", "--model", f"{HERE}:sloped")
    assert str(lcjax.nnx.find_sites(sloped, X)) in capsys.readouterr().out
    run("collapse", tmp_path / "deep", tmp_path / "out", "--model", f"{HERE}:sloped")
    want, report = lcjax.nnx.collapse(sloped, X)
    assert report.collapsed == ("layers/1/up",)
    same(lcjax.nnx.merge(model, lcjax.restore(tmp_path / "out"), X), want)


@pytest.mark.slow
def test_fits_to_data_and_plans(source, model, tmp_path):
    stats = lcjax.nnx.calibrate(model, [X], sites="layers/[12]/up", fit=lcjax.Units(3, linear=True))
    lcjax.save_calibration(tmp_path / "stats", stats)
    given = ["--model", f"{HERE}:deep", "--calibration", tmp_path / "stats"]
    run("collapse", source / "state", tmp_path / "out", *given)
    want, _ = lcjax.nnx.collapse(model, X, calibration=stats)
    same(lcjax.nnx.merge(model, lcjax.restore(tmp_path / "out"), X), want)
    chosen = dict(budget=lcjax.Flops(0.7), candidates=[stats.fit], sites="layers/[12]/up")
    plan = lcjax.nnx.plan_fits(model, [X], **chosen)
    plan.save(tmp_path / "plan.json")
    plain = ["collapse", source / "state", tmp_path / "b", "--plan", tmp_path / "plan.json"]
    assert "a fit to data; expected --calibration" in failed(*plain, "--model", f"{HERE}:deep")
    run(*plain, *given)
    assert set(lcjax.restore(tmp_path / "b")["fused"]) <= set(
        lcjax.restore(tmp_path / "out")["fused"]
    )
    save(tmp_path / "other", nnx.state(models.deep(seed=4)[0]))
    assert "statistics of other weights" in failed(
        "collapse", tmp_path / "other", tmp_path / "c", *given
    )


def test_only_what_a_chain_needs_is_read_at_a_time(source, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_GROUP_BYTES", 1)
    sizes, load = [], reader.ocp.load

    def watched(path, tree, **options):
        sizes.append(sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
        return load(path, tree, **options)

    monkeypatch.setattr(reader.ocp, "load", watched)
    pair = ["--model", f"{HERE}:deep", "--max-gap", 1]
    run("collapse", source / "state", tmp_path / "out", *pair, "--sites", "layers/*")
    kernels = 4 * (2 * 4 * 16 + 4 + 16)
    assert max(sizes) == kernels + 4 * 2 * 16  # and scale and bias of a norm


# rules


def test_rules_name_pairs_without_a_model(source, model, tmp_path):
    rule = ["--pair", "layers/*/up,layers/*/down"]
    assert failed("collapse", source / "state", tmp_path / "a", "--pair", "layers/*/up") == (
        "error: pair: got 'layers/*/up', expected UP,DOWN or GATE,UP,DOWN, globs of paths of "
        "layers, such as layers/*/up,layers/*/down."
    )
    run("collapse", source / "state", tmp_path / "out", *rule, "--sites", "layers/[12]/*")
    want, _ = lcjax.nnx.collapse(model, X, sites="layers/[12]/*", fit=ANY)
    same(lcjax.nnx.merge(nnx.eval_shape(models.alone), lcjax.restore(tmp_path / "out"), X), want)


@pytest.mark.slow
def test_rules_for_gated_and_stacked_layers_of_linen(tmp_path):
    variables = models.gated.init(jax.random.key(0), X)
    save(tmp_path / "deep", variables)
    rules = ["--pair", "gate,up,down", "--pair", "layers/up,layers/down"]
    run("collapse", tmp_path / "deep", tmp_path / "a", "--params", "params", *rules)
    arguments = ["--model", f"{HERE}:gated", "--input-shape", 4, "--sites", "*", "--max-gap", 1]
    run("collapse", tmp_path / "deep", tmp_path / "b", *arguments)
    f = lcjax.collapsible(models.gated.apply)
    want, _ = f.trace({"model": variables, "slopes": {}, "fused": {}}, X).collapse("*", ANY)
    got = lcjax.restore(tmp_path / "b")
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    by_rule = lcjax.collapsible(lambda params, x: models.gated.apply({"params": params}, x))
    np.testing.assert_array_equal(by_rule(lcjax.restore(tmp_path / "a"), X), f(want, X))


def test_lists_and_tuples_stay_what_orbax_reads(tmp_path):
    draw = np.random.default_rng(1).normal
    layers = [[draw(size=(4, 8)), draw(size=(8, 4))] for _ in range(3)]
    params = jax.tree.map(jnp.float32, {"layers": layers})
    save(tmp_path / "deep", params)
    given = ["--model", f"{HERE}:listed", "--input-shape", 4, "--sites", "layers/[02]/*"]
    run("collapse", tmp_path / "deep", tmp_path / "out", *given, "--max-gap", 1)
    f = lcjax.collapsible(models.listed)
    want, _ = f.trace(params, X).collapse(["layers/0/0", "layers/2/0"], ANY)
    np.testing.assert_array_equal(f(lcjax.restore(tmp_path / "out"), X), f(want, X))


def test_rules_that_cannot_be_right_are_refused(tmp_path):
    kernel = jnp.ones((4, 4))
    params = {
        "a": {"w1": kernel, "b1": jnp.ones(4), "w2": kernel},
        "b": {"up": {"kernel": kernel, "lora_a": kernel}, "down": {"kernel": jnp.ones((3, 4))}},
    }
    save(tmp_path / "deep", params)
    said = [
        ("x/*,a/w2", "'x/*' matches no kernel; there are a/w1, a/w2, b/down, b/up, b/up/lora_a"),
        ("a/w1,a/w2", "a/b1 may be the bias of a/w1"),
        ("b/up,b/down", "b/up/kernel has b/up/lora_a next to it"),
        ("a/*,b/down", "nothing with the same text for each * matches 'b/down'"),
        ("b/down,a/w2", "a/b1 may be the bias of a/w2"),
        ("b/down,b/down", "b/down/kernel is in two pairs"),
    ]
    for rule, message in said:
        assert message in failed("collapse", tmp_path / "deep", tmp_path / "out", "--pair", rule)
    assert os.listdir(tmp_path) == ["deep"]


def test_stars_of_rules():
    rule = PairRule.parse("**/gate, **/up,**/down")
    assert rule.parts == ("**/up", "**/down", "**/gate")
    for text in ("", "a", "a,", "a,b,c,d"):
        with pytest.raises(ValueError, match="expected UP,DOWN or GATE,UP,DOWN"):
            PairRule.parse(text)


# wrong uses


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "nowhere:deep"], "model nowhere:deep: No module named 'nowhere'. Expected"),
        (["--model", f"{HERE}:nothing"], "has no attribute 'nothing'. Expected a module that can"),
        (["--model", "deep"], "model: got 'deep', expected MODULE:ATTRIBUTE"),
        (["--model", f"{HERE}:NOTHING"], "got an int, expected a model, a function apply("),
        (["--model", f"{HERE}:Net"], "got the class Net, expected a model"),
        (["--model", f"{HERE}:fails"], "calling it raised RuntimeError: no weights here. It runs"),
        (["--model", f"{HERE}:exits"], "calling it raised SystemExit: 0. It runs"),
        (["--model", "./nets/mine.py:deep"], "expected the module as Python imports it, not its"),
        ([], "For any other model give --model MODULE:FUNCTION, which returns the model and"),
        (["--sites", "*"], "or name the kernels with --pair UP,DOWN; see --help"),
        (["--model", f"{HERE}:alone"], "got no inputs; give --input-shape"),
        (["--model", f"{HERE}:wider"], "differ at 2 leaves: ! layers/1/up/bias: checkpoint (16,)"),
        (["--model", f"{HERE}:alone", "--input-shape", 5], "float32[1, 5], on which Net cannot"),
        (["--model", f"{HERE}:deep"], "none of 3 sites has a gap up to max_gap=0.05"),
        (["--model", f"{HERE}:deep", "--sites", "x/*"], "x/*"),
        (["--model", f"{HERE}:listed", "--input-shape", 4], "raised ValueError"),
        (["--params", "layers"], "--input-shape and --params: expected --model or --pair"),
        (["--model", f"{HERE}:deep", "--params", "x"], "no leaf under 'x', expected the path of"),
        (["--pair", "layers/*/upp,layers/*/down"], "matches no kernel; there are layers/0/down, l"),
        (["--pair", "layers/*/up,layers/*/down", "--plan", "none.json"], "none.json"),
    ],
    ids=lambda given: " ".join(map(str, given)) if isinstance(given, list) else "",
)  # fmt: skip
def test_wrong_uses_end_in_one_line_and_write_nothing(source, tmp_path, given, said):
    message = failed("collapse", source / "state", tmp_path / "out", *given)
    assert message.startswith("error: ") and said in message, message
    assert os.listdir(tmp_path) == []


def test_wrong_checkpoints_end_in_one_line(source, model, tmp_path):
    given = ["--model", f"{HERE}:deep"]
    exact = ["--sites", "layers/0/up", "--max-gap", 1]
    said = failed("collapse", source / "params", tmp_path / "a", *given, *exact)
    assert "layers/0/up: needs state that the checkpoint lacks" in said
    (tmp_path / "file").write_text("text")
    assert "is not a checkpoint" in failed("collapse", tmp_path / "file", tmp_path / "a", *given)
    said = failed("collapse", source / "training", tmp_path / "a", *given)
    assert "has the model's Params under model; give --params model" in said
    compact, _ = lcjax.nnx.collapse(model, X, sites="layers/1/up", fit=ANY)
    save(tmp_path / "compact", nnx.state(compact))
    said = failed("collapse", tmp_path / "compact", tmp_path / "a", *given)
    assert "only in model: layers/1/up/kernel" in said
    assert "already exists" in failed("collapse", source / "state", tmp_path / "file", *given)
    assert sorted(os.listdir(tmp_path)) == ["compact", "file"]


def test_merge_refuses_trees_of_other_models(source, tmp_path):
    given = ["--model", f"{HERE}:deep", "--max-gap", 1, "--sites", "layers/*"]
    run("collapse", source / "state", tmp_path / "out", *given)
    tree = lcjax.restore(tmp_path / "out")
    with pytest.raises(lcjax.CollapseError, match="the model has no such Param"):
        lcjax.nnx.merge(models.Plain(nnx.Rngs(0)), tree, X)
    with pytest.raises(lcjax.CollapseError, match="got a mapping of"):
        lcjax.nnx.merge(models.alone(), nnx.to_pure_dict(nnx.state(models.alone())), X)
    tree["model"]["layers"][0]["norm"]["mean"] = jnp.ones(3)
    with pytest.raises(lcjax.CollapseError, match="norm/mean: got an array of shape .3,. and dt"):
        lcjax.nnx.merge(models.alone(), tree, X)
