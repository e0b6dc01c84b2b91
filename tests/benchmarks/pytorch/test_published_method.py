"""lcjax's `--protocol paper` agrees with the published method in PyTorch."""

import copy
import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="extra torch")

from benchmarks.harness.timing import interleaved  # noqa: E402
from benchmarks.pytorch import (  # noqa: E402
    agreement,
    method,
    networks,
    published_method,
    timing,
    training,
)
from tests.helpers.runs import configured  # noqa: E402
from train.tasks.image.model import ViTConfig  # noqa: E402

pytestmark = pytest.mark.promotes  # optax raises a float to an integer

MLP = dict(
    **{"protocol": "paper", "hidden": (24, 24, 24), "last": 2, "strength": 10.0},
    **{"learning_rate": 0.02, "warmup": 0.3, "epochs": 4, "weight_decay": 0.1},
)
MIXER = dict(
    **{"preset": "digits-mixer", "protocol": "paper", "where": "*channels*", "last": None},
    **{"depth": 1, "width": 8, "token_hidden": 8, "channel_hidden": 16, "crop_padding": 0},
    **{"learning_rate": 0.01, "warmup": 0.0, "epochs": 2},
)


def test_agreement_of_mlp_after_fifty_steps():
    found = agreement.agreement(configured(**MLP), 50, max_gap=0.5)
    assert found["agrees"]
    for name in agreement.COMPARED:
        assert found[name]["lcjax - PyTorch as optax"] < 1e-5
    assert min(found["slopes reached"]["lcjax"]) > 0.5
    assert found["collapsed"]["lcjax"] == ["mlp/act_1", "mlp/act_2"]


def test_agreement_of_mixer():
    found = agreement.agreement(configured(**MIXER), 10)
    assert found["agrees"]
    assert found["collapsed"]["PyTorch"] == ["block_0/mlp_2_channels/act_0"]


@pytest.mark.parametrize("wrong", ["penalty", "decay"])
def test_agreement_fails_for_changed_method(wrong, monkeypatch):
    if wrong == "penalty":
        monkeypatch.setattr(training, "penalty", lambda prelus: 1.001 * method.penalty(prelus))
    else:
        plain = functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)
        monkeypatch.setattr(training, "adamw", lambda net, _, **how: plain(net.parameters()))
    assert not agreement.agreement(configured(**MLP), 10)["agrees"]


def test_training_keeps_relus_at_other_sites():
    job = agreement.ready(configured(**MLP))
    network = agreement.torch_training(job).network
    kinds = [type(network.get_submodule(f"mlp.act_{i}")).__name__ for i in range(3)]
    assert kinds == ["ReLU", "PReLU", "PReLU"]
    assert [p.numel() for p in network.mlp.act_1.parameters()] == [1]


@pytest.mark.parametrize(
    "max_gap, left", [(0.05, ["dense_1", "act_1", "dense_2"]), (0.5, ["dense_2"])]
)
def test_fuse_takes_small_gaps_as_linear(max_gap, left):
    network = torch.nn.Module()
    network.add_module("mlp", networks.chain(5, 6, 7, 4))
    swapped = method.swap_in(network, ["mlp.act_0", "mlp.act_1"])
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for each, slope in zip(swapped, (0.96, 0.7), strict=True):
            each.weight.fill_(slope)
        compact = copy.deepcopy(network)
        removed = method.fuse(compact, max_gap)
        for site in removed:
            network.get_submodule(site).weight.fill_(1.0)
        np.testing.assert_allclose(compact.mlp(x), network.mlp(x), rtol=1e-5, atol=1e-6)
    assert [name for name, _ in compact.mlp.named_children()] == left
    assert removed == [f"mlp.act_{i}" for i in range(2) if f"act_{i}" not in left]


def test_build_rejects_vit():
    config = ViTConfig(patch_size=2, depth=1, width=8, num_heads=1, mlp_hidden=8)
    with pytest.raises(TypeError, match="got ViTConfig, expected MLPConfig or MixerConfig"):
        networks.build(config, (8, 8, 1), 10)


def test_step_and_forward_calls_run():
    job = agreement.ready(configured(**MLP))
    calls = timing.step_calls(job, 2, compiled=False)
    seconds = interleaved(calls, rounds=2, warmup=1)
    assert list(seconds) == ["lcjax", "PyTorch", "PyTorch, fused AdamW"]
    assert published_method.compared(seconds, 2)["lcjax"]["over lcjax"]["of_medians"] == 1
    for form in ("deep", "compact"):
        calls = timing.repeated(timing.forward_calls(job, form, 4, compiled=False), 2)
        shapes = {name: [out.shape for out in call()] for name, call in calls.items()}
        assert shapes == {"lcjax": [(4, 10)] * 2, "PyTorch": [(4, 10)] * 2}
