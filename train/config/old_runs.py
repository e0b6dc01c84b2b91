"""Reads configurations that earlier versions wrote: other names, and fields that were not there."""

import dataclasses
from typing import Any

from train.config.base import DistillationConfig, InitConfig, PenaltyConfig
from train.config.protocol import PROTOCOL_CONFIGS, RENAMED_PROTOCOLS, flag_names

FITS = {"moments": "per_unit"}
_INIT = ("deep", "collapsed_from")
_SECTIONS: dict[str, type] = {
    "penalty": PenaltyConfig,
    "init": InitConfig,
    "distillation": DistillationConfig,
}
_DISTILLATION = ("teacher", "teacher_weight", "teacher_temperature")


def upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a config.json in the current layout; current ones are unchanged.

    Values are not checked. Fields of other protocols than the run's are dropped; options of the
    penalty, of distillation and of the protocol that the version did not have yet take their
    defaults.
    """
    new = _translated_layout(fields)
    for name, section in _SECTIONS.items():
        if isinstance(new.get(name), dict):
            new[name] = _with_defaults(section, new[name])
    protocol = new.get("protocol")
    if isinstance(protocol, dict):
        config = PROTOCOL_CONFIGS.get(str(protocol.get("protocol")))
        new["protocol"] = protocol if config is None else _with_defaults(config, protocol)
    return new


def _with_defaults(config: type, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a section with the defaults of those that it lacks."""
    known = {field.name: field.default for field in dataclasses.fields(config)}
    defaults = {name: one for name, one in known.items() if one is not dataclasses.MISSING}
    return {**defaults, **fields}


def _translated_layout(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns fields under their current names, in their current sections."""
    new = dict(fields)
    for section, old, name in (("penalty", "threshold", "max_gap"), ("model", "gated", "glu")):
        if isinstance(fields.get(section), dict):
            new[section] = renamed(fields[section], old, name)
    protocol = fields.get("protocol")
    if not isinstance(protocol, dict) or not {*_INIT, *_DISTILLATION} <= protocol.keys():
        return new
    name = _translated(RENAMED_PROTOCOLS, protocol.get("protocol"))
    own = flag_names(PROTOCOL_CONFIGS[name]) if name in PROTOCOL_CONFIGS else set()
    new["protocol"] = {key: value for key, value in protocol.items() if key in own}
    new["protocol"]["protocol"] = name
    if "fit" in new["protocol"]:
        new["protocol"]["fit"] = _translated(FITS, protocol["fit"])
    new["init"] = {key: protocol[key] for key in _INIT}
    new["distillation"] = {key: protocol[key] for key in _DISTILLATION}
    return new


def renamed(fields: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Returns fields with one of them renamed, if it is there."""
    return {new if name == old else name: value for name, value in fields.items()}


def _translated(names: dict[str, str], value: Any) -> Any:
    return names.get(value, value) if isinstance(value, str) else str(value)
