"""Configuration: every flag out of range is named, presets are what they say, JSON brings back."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest

from lcjax import find_sites
from tests.helpers.runs import configured
from train.config.base import as_json
from train.config.check import check
from train.config.protocol import PROTOCOL_CONFIGS, FitHealConfig, flag_names
from train.tasks.image.model import model_from_json
from train.tasks.image.presets import PRESETS
from train.validation import ConfigError

AT_LEAST_1 = ["batch_size", "epochs", "steps_per_dispatch", "log_every", "checkpoint_every"]
BAD = [
    *[("digits-mlp", name, bad) for name in AT_LEAST_1 for bad in (0, -3)],
    *[("digits-mlp", name, 0) for name in ("num_classes", "image_size")],
    *[("digits-mlp", "crop_padding", -1)],
    *[("digits-mlp", "validation", bad) for bad in (0.0, 1.0, -0.1, math.nan)],
    *[("digits-mlp", "dropout", bad) for bad in (-0.1, 1.0, math.nan)],
    *[("digits-mlp", "hidden", bad) for bad in ((0,), (8, -1))],
    *[("digits-mlp", "learning_rate", bad) for bad in (0.0, -1.0, math.inf, math.nan)],
    *[("digits-mlp", "warmup", bad) for bad in (-0.1, 1.0, math.nan)],
    *[("digits-mlp", "weight_decay", bad) for bad in (-0.1, math.inf, math.nan)],
    *[("digits-mlp", "clip_norm", bad) for bad in (0.0, -1.0, math.inf, math.nan)],
    *[("digits-mlp", name, 0) for name in ("accumulate", "keep")],
    *[("digits-mlp", "strength", bad) for bad in (-0.1, math.inf, math.nan)],
    *[("digits-mlp", "slope_learning_rate", bad) for bad in (-0.1, math.inf, math.nan)],
    *[("digits-mlp", "start", bad) for bad in (-0.1, 1.0, math.nan)],
    *[("digits-mlp", "max_gap", bad) for bad in (-0.1, math.nan)],
    *[("digits-mlp", "seed", bad) for bad in (-1, 2**32)],
    *[("digits-mlp", name, 0) for name in ("calibration_images", "sites_per_stage", "count")],
    *[("digits-mlp", "target_params", bad) for bad in (0, -0.5, math.nan)],
    *[("digits-mlp", "keep_units", bad) for bad in (0, -1, 1.5, math.inf, math.nan)],
    *[("digits-mlp", "max_drop", bad) for bad in (-0.1, 1.5, math.nan)],
    *[("digits-mlp", "heal_epochs", bad) for bad in (-1.0, math.inf, math.nan)],
    *[("digits-mlp", "heal_learning_rate", bad) for bad in (0.0, math.inf, math.nan)],
    *[("digits-mlp", "teacher_weight", bad) for bad in (-0.1, 1.1, math.nan)],
    *[("digits-mlp", "teacher_temperature", bad) for bad in (0.0, math.inf, math.nan)],
    *[("digits-mlp", "hidden_weight", bad) for bad in (-1.0, math.inf, math.nan)],
    *[("digits-mlp", "stage_epochs", bad) for bad in (0.0, math.inf, math.nan)],
    *[("digits-mlp", "ramp_start", bad) for bad in (0.0, 1.5, math.nan)],
    *[("digits-mlp", "linear_units", bad) for bad in (-0.1, 1.1, math.nan)],
    *[("digits-mlp", "anneal_fraction", bad) for bad in (0.0, 1.5, math.nan)],
    *[
        ("digits-mixer", name, 0)
        for name in ("patch_size", "depth", "width", "token_hidden", "channel_hidden")
    ],
    *[
        ("fashion-vit", name, bad)
        for name, bad in (("num_heads", 0), ("num_heads", 3), ("mlp_hidden", 0), ("depth", 0))
    ],
]
# Numbers whose range depends on the data or the sites.
ELSEWHERE = {"last"}
# A protocol for the flags that not all of them have.
PROTOCOL_OF = {
    "ramp_start": "ramp",
    "anneal_fraction": "anneal",
    "sites_per_stage": "progressive",
    "stage_epochs": "progressive",
}
PROTOCOL_OF |= dict.fromkeys(flag_names(FitHealConfig), "fit-heal")


@pytest.mark.parametrize(("preset", "name", "value"), BAD)
def test_a_flag_out_of_range_is_named_with_its_value(preset, name, value):
    config = configured(preset, protocol=PROTOCOL_OF.get(name, "penalty"), **{name: value})
    flag = f"--{name.replace('_', '-')} is {value}; expected "
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert str(caught.value).startswith(flag)


def test_linear_units_need_slopes_of_units():
    with pytest.raises(ConfigError, match=r"--linear-units is 0.5, .* expected --slope-per unit"):
        check(configured(linear_units=0.5))
    check(configured(linear_units=0.5, slope_per="unit"))


def test_every_number_there_is_has_a_range():
    numbers = set()
    for preset in ("digits-mlp", "digits-mixer", "fashion-vit"):
        config = PRESETS[preset][1]
        sections = ("data", "model", "optimizer", "penalty", "distillation", "run")
        parts = [getattr(config, section) for section in sections]
        for part in (*parts, *PROTOCOL_CONFIGS.values()):
            numbers |= {f.name for f in dataclasses.fields(part) if _is_number(f.type)}
    assert len(numbers) > 20
    assert numbers == {name for _, name, _ in BAD} | ELSEWHERE


def _is_number(kind):
    if hasattr(kind, "__metadata__"):  # of Annotated, whose own type is meant
        kind = kind.__origin__
    return any(word in str(kind) for word in ("int", "float")) and "Literal" not in str(kind)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_in_range_and_says_what_it_is(name):
    about, config = PRESETS[name]
    check(config)
    assert config.preset == name and about.endswith(".")
    for part in (config, config.data, config.model, config.penalty):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.seed = 1
    assert not config.run.resume and not config.run.overwrite and config.run.name is None


def _params(name, image_shape):
    module = PRESETS[name][1].model.build(10)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)["params"]


def test_fashion_mlp_is_the_network_of_the_published_comparison():
    config, params = PRESETS["fashion-mlp"][1], _params("fashion-mlp", (28, 28, 1))
    kernels = [params["mlp"][f"dense_{i}"]["kernel"].shape for i in range(4)]
    assert kernels == [(784, 512), (512, 512), (512, 512), (512, 10)]
    assert config.model.activation == "relu"
    assert (config.optimizer.epochs, config.data.batch_size) == (6, 256)
    assert (config.penalty.penalty, config.penalty.last, config.penalty.where) == ("l1", None, None)


@pytest.mark.parametrize(
    ("name", "shape", "sites"),
    [
        ("digits-mixer", (8, 8, 1), 8),
        ("digits-mlp", (8, 8, 1), 3),
        ("fashion-mixer", (28, 28, 1), 8),
        ("fashion-vit", (28, 28, 1), 4),
        ("cifar10-mixer", (32, 32, 3), 16),
        ("cifar10-vit", (32, 32, 3), 8),
        ("imagenet-vit-b16", (224, 224, 3), 12),
        ("imagenet-mixer-b16", (224, 224, 3), 24),
    ],
)
def test_a_preset_builds_a_model_for_its_images(name, shape, sites):
    assert len(find_sites(_params(name, shape))) == sites


@pytest.mark.parametrize("name", PRESETS)
def test_the_model_comes_back_from_json(name):
    config = PRESETS[name][1]
    fields = json.loads(json.dumps(as_json(config)))
    back, module = model_from_json(fields["model"]).build(7), config.model.build(7)
    assert type(back) is type(module)
    assert {f.name: getattr(back, f.name) for f in dataclasses.fields(back)} == {
        f.name: getattr(module, f.name) for f in dataclasses.fields(module)
    }


def test_a_whole_configuration_is_json():
    config = configured(data_dir="/data", clip_norm=1.0, hidden=(3, 4), last=0.5)
    fields = as_json(config)
    assert json.loads(json.dumps(fields)) == fields
    assert fields["model"]["hidden"] == [3, 4] and fields["data"]["data_dir"] == "/data"
    assert fields["optimizer"]["clip_norm"] == 1.0 and fields["penalty"]["last"] == 0.5


def test_an_unknown_published_size_lists_the_known():
    module = configured("imagenet-vit-b16", size="XL/16")
    with pytest.raises(ValueError, match="ViT: got preset .XL/16., expected one of Ti/16, S/16"):
        module.model.build(10)
