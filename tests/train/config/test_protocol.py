"""Each protocol has its own flags; those of another one are refused."""

import dataclasses
from pathlib import Path

import pytest

from train.config.protocol import (
    PROTOCOL_CONFIGS,
    AnnealConfig,
    FitHealConfig,
    check_protocol_flags,
    convert_protocol,
)
from train.protocols import PROTOCOLS
from train.runs.flags import parse
from train.tasks.image.presets import PRESETS
from train.tasks.modalities import MODALITIES, preset_config
from train.validation import ConfigError

PRESET = PRESETS["digits-mlp"][1]


def parsed(*flags):
    return parse(PRESET, "train.image digits-mlp", None, flags)


def test_every_protocol_has_a_config_of_its_name():
    assert PROTOCOLS.keys() == PROTOCOL_CONFIGS.keys()
    for name, kind in PROTOCOL_CONFIGS.items():
        assert kind().protocol == name


def test_convert_protocol_keeps_the_shared_fields():
    healed = FitHealConfig(count=2, calibration_images=8, heal_epochs=3.0)
    assert convert_protocol(healed, "anneal") == AnnealConfig(count=2, calibration_images=8)
    assert convert_protocol(healed, "fit-heal") is healed


@pytest.mark.parametrize(("old", "new"), [("natural", "penalty"), ("reference", "paper")])
def test_convert_protocol_names_the_new_name(old, new):
    with pytest.raises(ConfigError, match=f"--protocol is '{old}'; .* now called {new}."):
        convert_protocol(FitHealConfig(), old)


@pytest.mark.parametrize("flag", ["--count", "--count=3", "--no-sequential", "--ramp-start"])
def test_check_protocol_flags_refuses_flags_of_other_protocols(flag):
    with pytest.raises(ConfigError, match="is not a flag of --protocol penalty but of "):
        check_protocol_flags([flag], PRESET.protocol)


def test_parse_refuses_a_flag_of_another_protocol_in_one_line():
    with pytest.raises(SystemExit, match="error: --count is not a flag of --protocol ramp but of"):
        parsed("--protocol", "ramp", "--count", "3")


@pytest.mark.parametrize("fit", ["exact", "per_unit", "least_squares"])
def test_parse_accepts_fits_with_hyphens_and_underscores(fit):
    for name in (fit, fit.replace("_", "-")):
        config = parsed("--protocol", "fit-heal", "--fit", name, "--count", "3")
        assert config.protocol == FitHealConfig(fit=fit, count=3)
    assert dataclasses.replace(config, protocol=PRESET.protocol) == PRESET


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fit": "units"}, "--fit units needs --keep-units"),
        ({"fit": "units", "keep_units": 8, "count": 2}, "--fit units and --count are both set"),
        ({"keep_units": 8}, "--fit least_squares and --keep-units are both set"),
        ({"linear": True}, "--fit least_squares and --linear are both set"),
        ({"fit": "exact", "calibration_weighting": "influence"}, "--fit exact takes no data"),
        ({"fit": "mix"}, "--fit mix needs --target-params"),
        ({"fit": "mix", "count": 2}, "--fit mix and --count are both set"),
        ({"plan": Path("a"), "fit": "exact"}, "--plan and --fit are both set; leave --fit out"),
        ({"plan": Path("a"), "target_params": 0.5}, "--plan and --target-params are both set"),
        ({"plan": Path("a"), "keep_units": 0.5}, "--plan and --keep-units are both set"),
    ],
)
def test_flags_of_fits_that_contradict_one_another_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        FitHealConfig(**fields).check()


def test_fits_of_fit_heal_alone_are_not_those_of_other_protocols():
    config = parsed("--protocol", "fit-heal", "--fit", "units", "--keep-units", "0.25", "--linear")
    assert config.protocol == FitHealConfig(fit="units", keep_units=0.25, linear=True)
    assert parsed("--protocol", "fit-heal", "--keep-units", "64").protocol.keep_units == 64
    config.protocol.check()
    assert convert_protocol(config.protocol, "anneal").fit == "least_squares"
    with pytest.raises(SystemExit):
        parsed("--protocol", "progressive", "--fit", "units")


def test_preset_config_finds_presets_by_kind_and_name():
    for kind, modality in MODALITIES.items():
        for name, (_, config) in modality.presets.items():
            assert preset_config(kind, name) == preset_config(None, name) == config
            assert config.kind == kind
    assert preset_config("text", "digits-mlp") is None and preset_config(None, 3) is None
