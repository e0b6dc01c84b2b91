"""Baselines: MLPs pruned, of low rank, or dropped, healed as the run heals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from benchmarks.baselines import base, drop, magnitude, materialized, svd, trees
from lcjax import CollapsibleGLU
from tests.helpers.runs import configured
from tests.helpers.trees import random_chain
from train.config.base import as_json
from train.engine.metrics_writer import read_metrics
from train.engine.optimizers import make_adamw
from train.engine.run_directory import SUMMARY, create_directory, read_json, write_json
from train.runs import conclude as outcome
from train.runs.finished import DEEP
from train.tasks.image import task as image_task
from train.validation import ConfigError

pytestmark = pytest.mark.slow

SITES = ["mlp/act_0", "mlp/act_1"]


def network(features=(12, 9, 4), d_in=6, **how):
    """Returns variables of one chain, `mlp`."""
    _, variables = random_chain(features, d_in, **how)
    return {"params": {"mlp": jax.tree.map(jnp.asarray, variables["params"])}}


def logits(variables, x, features=(12, 9, 4)):
    model, _ = random_chain(features, x.shape[1])
    return model.apply({"params": variables["params"]["mlp"]}, x)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree)) - 2  # slopes


@pytest.mark.parametrize("bias", [True, False])
def test_prune_equals_narrower_network(bias):
    deep = network(bias=bias)
    compressed = magnitude.prune(deep, SITES[1:])
    fused, _ = lcjax.collapse(deep, SITES[1:])
    mlp = compressed.variables["params"]["mlp"]
    left = [np.flatnonzero(np.any(np.asarray(mlp[f"dense_{i}"]["kernel"]), 0)) for i in (0, 1)]
    worth = np.linalg.norm(deep["params"]["mlp"]["dense_0"]["kernel"], axis=0) * np.linalg.norm(
        deep["params"]["mlp"]["dense_1"]["kernel"], axis=1
    )
    assert set(left[0]) == set(np.argsort(-worth)[: len(left[0])])
    kept = [np.arange(6), *left, np.arange(4)]
    narrow = {
        f"dense_{i}": {
            name: leaf[np.ix_(kept[i], kept[i + 1])] if leaf.ndim == 2 else leaf[kept[i + 1]]
            for name, leaf in deep["params"]["mlp"][f"dense_{i}"].items()
        }
        for i in range(3)
    } | {f"act_{i}": deep["params"]["mlp"][f"act_{i}"] for i in (0, 1)}
    size = count(narrow)
    assert size == count(compressed.variables) - compressed.removed
    ((chain, budget),) = base.budgets(deep, SITES[1:])
    wider = [6, len(left[0]) + 1, 9 * (len(left[0]) + 1) // 12, 4]
    assert size <= budget == count(fused) + 1 < magnitude.size(chain, wider)
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    ours = logits(compressed.variables, x)
    theirs = logits({"params": {"mlp": narrow}}, x, (len(left[0]), len(left[1]), 4))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_factorize_keeps_largest_singular_values():
    deep = network((40, 30, 4), 20)
    compressed = svd.factorize(deep, SITES[1:])
    fused, _ = lcjax.collapse(deep, SITES[1:])
    mlp, old = compressed.variables["params"]["mlp"], deep["params"]["mlp"]
    rank = np.linalg.matrix_rank(mlp["dense_0"]["kernel"])
    assert rank == np.linalg.matrix_rank(mlp["dense_1"]["kernel"]) < 20
    assert mlp["dense_2"]["kernel"] is old["dense_2"]["kernel"]  # two factors would be larger
    for name in ("dense_0", "dense_1"):
        values = np.linalg.svd(old[name]["kernel"], compute_uv=False)
        error = np.linalg.norm(mlp[name]["kernel"] - old[name]["kernel"])
        np.testing.assert_allclose(error, np.linalg.norm(values[rank:]), rtol=1e-4)
    size = rank * (20 + 40 + 40 + 30) + 30 * 4 + 40 + 30 + 4
    assert size == count(deep) - compressed.removed
    assert size <= count(fused) + 1 < size + 130


@pytest.mark.promotes
def test_train_factors_equals_training_factors_directly():
    config = configured(weight_decay=0.1, learning_rate=0.1).optimizer
    inner, x = make_adamw(config, lambda _: 0.1), np.eye(6, dtype=np.float32)
    ranks = {"mlp/dense_0/kernel": 2, "mlp/dense_1/kernel": 1}
    whole, tx = network()["params"], svd.train_factors(inner, ranks)
    factors = svd.split(whole, ranks)
    direct = trees.replace_at(whole, factors)
    params = trees.replace_at(whole, {p: svd.product(f) for p, f in factors.items()})
    state, own = tx.init(params), inner.init(direct)

    def loss(params):
        return (logits({"params": params}, x) ** 2).mean()

    def through(direct):
        pairs = trees.at_paths(direct, ranks)
        kernels = {path: svd.product(pair) for path, pair in pairs.items()}
        return loss(trees.replace_at(direct, kernels))

    @jax.jit
    def step(params, state, direct, own):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        moves, own = inner.update(jax.grad(through)(direct), own, direct)
        return optax.apply_updates(params, updates), state, optax.apply_updates(direct, moves), own

    for _ in range(3):
        params, state, direct, own = step(params, state, direct, own)
    for path, pair in trees.at_paths(direct, ranks).items():
        (got,) = trees.at_paths(params, [path]).values()
        np.testing.assert_allclose(got, svd.product(pair), rtol=1e-4, atol=1e-5)
        assert np.linalg.matrix_rank(got, tol=1e-4) == ranks[path]
    last, other = (tree["mlp"]["dense_2"]["bias"] for tree in (params, direct))
    np.testing.assert_allclose(last, other, rtol=1e-4, atol=1e-5)


def test_drop_mlps_leaves_zeros_without_updates():
    deep = network()
    compressed = drop.drop_mlps(deep, SITES)
    mlp = compressed.variables["params"]["mlp"]
    assert compressed.removed == 6 * 4 + 4 == sum(leaf.size for leaf in jax.tree.leaves(mlp))
    tx = compressed.constrain(optax.sgd(1.0))
    ones = jax.tree.map(jnp.ones_like, compressed.variables["params"])
    updates, _ = tx.update(ones, tx.init(ones), ones)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((updates, mlp)))


def test_budgets_rejects_gated_norms_and_too_small():
    gated = CollapsibleGLU(8, 4).init(jax.random.key(0), jnp.ones((1, 4)))
    with pytest.raises(ConfigError, match="ffn: got a gated MLP, expected a plain chain of Dense"):
        base.budgets({"params": {"ffn": gated["params"]}}, ["ffn/act"])
    with pytest.raises(ConfigError, match="mlp: got a stacked MLP, or one with norms, expected"):
        base.budgets(network(norm="batch"), SITES)
    chain, _ = base.budgets(network(), SITES)[0]
    with pytest.raises(ConfigError, match="mlp: a budget of 9 parameters is too small for one un"):
        magnitude.narrowed(chain, 9)
    with pytest.raises(ConfigError, match="mlp: a budget of 9 parameters is too small for rank 1"):
        svd.largest_rank(chain, 9)


@pytest.mark.parametrize(
    ("compress", "distilled"),
    [(svd.factorize, True), pytest.param(magnitude.prune, False, marks=pytest.mark.slow)],
)
@pytest.mark.promotes
def test_heal_follows_the_run(compress, distilled, tmp_path, monkeypatch):
    monkeypatch.setattr(
        outcome, "evaluate_in_new_process", lambda *_: {"accuracy": 1.0, "loss": 0.0}
    )
    flags = {"protocol": "fit-heal", "heal_epochs": 0.2, "hidden": (32, 24), "learning_rate": 1e-2}
    config = configured(**flags, deep_teacher=distilled, log_every=1, runs_dir=tmp_path)
    task = image_task.make_task(config)
    create_directory(tmp_path / "run", as_json(config))
    lcjax.save(tmp_path / "run" / DEEP, task.variables)
    summary = {"collapsed": ["mlp/act_1"], "compact": {"parameters": 10_000}}
    write_json(tmp_path / "run" / SUMMARY, summary)
    command = base.BaselineConfig(tmp_path / "run", runs_dir=tmp_path, name="baseline")
    base.heal(command, base.from_weights(compress))
    summary = read_json(tmp_path / "baseline" / SUMMARY)
    compact, _ = lcjax.collapse(task.variables, ["mlp/act_1"], lcjax.Exact(max_gap=1.0))
    left = summary["compact"]["parameters"] - summary["removed"]
    assert 0.9 * count(compact) < left <= count(compact) + 1
    assert summary["steps"] == task.steps_in(0.2) > 0
    assert summary["collapsed"] == ["mlp/act_1"]
    records = [each for each in read_metrics(tmp_path / "baseline") if "train/loss" in each]
    assert all(("train/divergence" in record) == distilled for record in records)
    healed = lcjax.restore(tmp_path / "baseline/compact")
    assert jax.tree.map(jnp.shape, healed) == jax.tree.map(jnp.shape, task.variables)
    kernels = [healed["params"]["mlp"][f"dense_{i}"]["kernel"] for i in (0, 1)]
    begun = compress(task.variables, ["mlp/act_1"]).variables["params"]["mlp"]
    for i, kernel in enumerate(kernels):
        before = np.asarray(begun[f"dense_{i}"]["kernel"])
        assert np.linalg.norm(kernel - before) > 0
        if compress is magnitude.prune:
            assert not np.any(np.asarray(kernel)[before == 0])
        else:
            assert np.linalg.matrix_rank(kernel, tol=1e-3) == np.linalg.matrix_rank(
                before, tol=1e-3
            )
    assert summary["compact"]["validation"]["loss"] < task.scores(task.variables)["loss"]


def test_heal_rejects_directory_without_run(tmp_path):
    with pytest.raises(SystemExit, match="error: .*gone is not a run: it has no config.json"):
        base.heal(base.BaselineConfig(tmp_path / "gone"), base.from_weights(magnitude.prune))


@pytest.mark.parametrize(
    ("materialize", "compress", "sites"),
    [
        (materialized.narrow, magnitude.prune, SITES[1:]),
        (materialized.factored, svd.factorize, SITES[1:]),
        (materialized.without_mlps, drop.drop_mlps, SITES),
    ],
)
def test_materialized_size_and_outputs(materialize, compress, sites):
    widths, x = (40, 30, 20), np.random.default_rng(1).normal(size=(5, 20)).astype(np.float32)
    deep = network(widths, 20)
    compressed, small = compress(deep, sites), materialize(deep, sites)
    sizes = [sum(map(jnp.size, jax.tree.leaves(each))) for each in (small, compressed.variables)]
    assert sizes[0] == sizes[1] - compressed.removed
    with materialized.runnable():
        ours = logits(small, x, widths)
    np.testing.assert_allclose(ours, logits(compressed.variables, x, widths), rtol=1e-4, atol=1e-5)


def test_runnable_rejects_other_dtypes():
    model, _ = random_chain((12, 9, 4), 6)
    x, small = jnp.ones((2, 6)), materialized.narrow(network(), SITES)["params"]["mlp"]
    with materialized.runnable():
        whole = model.init(jax.random.key(0), x)
        assert jax.tree.leaves(whole)  # init is left alone
        with pytest.raises(ValueError, match="expected no norm and float32"):
            model.clone(dtype=jnp.bfloat16).apply({"params": small}, x)
