"""Baselines that truncate kernels, remove MLPs, or cut blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from benchmarks.baselines import blocks, drop, svd, whitened
from benchmarks.baselines.base import Target
from benchmarks.baselines.pairs import dense_moments, find_pairs
from benchmarks.baselines.trees import at_path
from lcjax.models import MLP
from lcjax.structure.capture import ValueName, capture
from tests.helpers.compressible import NETWORKS, small_task
from train.protocols.fitting import calibration_data
from train.validation import ConfigError

pytestmark = pytest.mark.promotes


def logits(task, variables, module=None):
    run = task.classifier.logits if module is None else module.apply
    return np.asarray(run(variables, *task.calibration[0]))


@pytest.fixture(scope="module")
def chain():
    """A task whose network is a plain MLP, and the moments of its Dense layers."""
    task = small_task(MLP((16, 12, 4)))
    paths = whitened.dense_paths(find_pairs(task.variables["params"]))
    apply, data = task.classifier.logits, calibration_data(task)
    return task, dense_moments(apply, task.variables, data, paths)


def test_full_rank_in_the_metric_is_the_kernel(chain):
    task, moments = chain
    ranks = dict.fromkeys(moments, 64)
    for path, factors in whitened.truncated(task.variables["params"], moments, ranks).items():
        kernel = at_path(task.variables["params"], path)["kernel"]
        np.testing.assert_allclose(svd.product(factors), kernel, rtol=1e-4, atol=1e-5)


def test_truncation_in_the_metric_loses_least_output(chain):
    task, moments = chain
    path = "mlp/dense_1"
    own = whitened.truncated(task.variables["params"], moments, {path: 3})[path]
    plain = svd.split(task.variables["params"], {f"{path}/kernel": 3})[f"{path}/kernel"]
    kernel = np.asarray(at_path(task.variables["params"], path)["kernel"], np.float64)
    name = ValueName("input", path)
    found = capture(task.classifier.logits, task.variables, task.calibration[0], [name])
    x = np.asarray(found[name][0], np.float64)
    errors = [np.linalg.norm(x @ (kernel - np.asarray(svd.product(f)))) for f in (own, plain)]
    tail = np.linalg.svd(x @ kernel, compute_uv=False)[3:]  # the least that any rank 3 leaves
    np.testing.assert_allclose(errors[0], np.linalg.norm(tail), rtol=1e-3)
    assert errors[1] > 1.05 * errors[0]


def test_ranks_by_energy_keep_what_explains_most_for_a_parameter(chain):
    task, moments = chain
    params = task.variables["params"]
    ranks = whitened.ranks_by_energy(params, moments, lcjax.count_parameters(params) * 2 // 3)
    kept, dropped = [], []
    for path, rank in ranks.items():
        kernel = np.asarray(at_path(params, path)["kernel"], np.float64)
        values = np.linalg.svd(whitened.root(moments[path]) @ kernel, compute_uv=False) ** 2
        worth = values / values.sum() / sum(kernel.shape)
        kept += list(worth[1:rank])  # one is kept whatever it explains
        dropped += list(worth[rank:])
    assert min(kept) > max(dropped) and len(set(ranks.values())) > 1


def test_ranks_fill_the_budget(chain):
    task, _ = chain
    budget = lcjax.count_parameters(task.variables) * 2 // 3
    compressed = whitened.compress(task, Target((), budget))
    left = lcjax.count_parameters(compressed.variables) - compressed.removed
    assert budget - 180 < left <= budget  # a rank costs (64 + 16) + (16 + 12) + (12 + 4)
    run, small = compressed.small(compressed.variables)
    assert lcjax.count_parameters(small) == left
    ours = logits(task, compressed.variables)
    np.testing.assert_allclose(run(small, *task.calibration[0]), ours, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="a budget of 40 parameters is too small for rank 1"):
        whitened.compress(task, Target((), 40))


@pytest.mark.parametrize("name", ["mixer", pytest.param("swiglu", marks=pytest.mark.slow)])
def test_removed_mlps_leave_their_mean(name):
    task = NETWORKS[name]()
    params = task.variables["params"]
    pairs = find_pairs(params)
    apply, data = task.classifier.logits, calibration_data(task)
    moments = dense_moments(apply, task.variables, data, [pair.last for pair in pairs])
    last = pairs[-1]
    small = drop.removed_pairs(params, {last: moments[last.last].mean_t})
    module = last.site.rpartition("/")[0]
    value = ValueName("output", module)
    before, after = (
        np.asarray(capture(apply, {"params": each}, task.calibration[0], [value])[value][0])
        for each in (params, small)
    )
    expected = before.reshape(-1, before.shape[-1]).mean(0)
    np.testing.assert_allclose(after, np.broadcast_to(expected, after.shape), rtol=1e-4, atol=1e-5)
    assert np.isfinite(logits(task, {"params": small})).all()


@pytest.mark.slow
def test_removal_takes_as_many_mlps_as_needed_and_refuses_plain_mlps():
    task = NETWORKS["vit"]()
    whole = lcjax.count_parameters(task.variables)
    compressed = drop.remove_mlps(task, Target((), whole - 250))  # one has 212, without its bias
    gone = [
        name for name in ("block_0", "block_1", "block_2") if f"{name}/mlp:" in compressed.report
    ]
    assert len(gone) == 2
    with pytest.raises(ConfigError, match="removing all 3 MLPs leaves more than 10 parameters"):
        drop.remove_mlps(task, Target((), 10))
    with pytest.raises(ConfigError, match="an MLP without a residual connection"):
        drop.remove_mlps(NETWORKS["mlp"](), Target((), 100))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_cut_blocks_equal_a_shallower_network(name):
    task = NETWORKS[name]()
    params = task.variables["params"]
    budget = lcjax.count_parameters(params) - 1
    compressed = blocks.compress(task, Target((), budget))
    cut_names = compressed.report.splitlines()[0].split(";")[0].removeprefix("cut: ").split(", ")
    (gone,) = map(int, (each.removeprefix("block_") for each in cut_names))
    own = compressed.variables["params"]
    left = {key: value for key, value in own.items() if not key.startswith("block_")}
    kept = [i for i in range(3) if i != gone]
    left |= {f"block_{new}": own[f"block_{old}"] for new, old in enumerate(kept)}
    if name == "bert":  # the norm behind the cut belongs to the block before it
        before = f"block_{gone - 1}"
        left[before] = left[before] | {"norm_2": own[f"block_{gone}"]["norm_2"]}
    shallow = task.classifier.module.clone(depth=2)
    ours = logits(task, compressed.variables)
    np.testing.assert_allclose(ours, logits(task, {"params": left}, shallow), rtol=1e-4, atol=1e-4)
    assert lcjax.count_parameters(left) == lcjax.count_parameters(own) - compressed.removed
    run, small = compressed.small(compressed.variables)
    assert jax.tree.map(jnp.shape, small["params"]) == jax.tree.map(jnp.shape, left)
    np.testing.assert_allclose(run(small, *task.calibration[0]), ours, rtol=1e-4, atol=1e-4)
    tx = compressed.constrain(optax.sgd(1.0))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, own), tx.init(own), own)
    frozen = sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(updates))
    assert frozen == compressed.removed + 1  # and a slope


@pytest.mark.slow
def test_map_in_place_of_a_block_is_better_than_none():
    task = NETWORKS["vit"]()
    params = task.variables["params"]
    cuts = blocks.cuts(params, lcjax.count_parameters(params) - 1, post_norm=False)
    assert [cut.blocks for cut in cuts] == [("block_1",), ("block_2",)]
    compressed = blocks.compress(task, Target((), lcjax.count_parameters(params) - 1))
    without = [
        {"params": params | {block: jax.tree.map(jnp.zeros_like, params[block])}}
        for (block,) in (cut.blocks for cut in cuts)
    ]
    assert task.score(compressed.variables) > max(map(task.score, without))


def test_blocks_are_refused_without_blocks_and_where_none_would_stay():
    params = NETWORKS["mlp"]().variables["params"]
    with pytest.raises(ConfigError, match="the network has no blocks, so none can be cut"):
        blocks.cuts(params, 10, post_norm=False)
    params = NETWORKS["vit"]().variables["params"]
    with pytest.raises(ConfigError, match="blocks would have to be cut for 10 parameters"):
        blocks.cuts(params, 10, post_norm=False)
