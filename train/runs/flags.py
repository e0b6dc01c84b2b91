"""From command-line flags to the configuration of a run, new or resumed."""

import dataclasses
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tyro

from lcjax._messages import printable_lines
from train.config.base import AnyConfig, Config
from train.config.from_json import booleans_of, config_from_json
from train.config.protocol import RENAMED_PROTOCOLS, check_protocol_flags, convert_protocol
from train.engine.run_directory import CONFIG, read_json
from train.validation import ConfigError

# How configurations become flags.
FLAGS = (tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


@dataclasses.dataclass(frozen=True)
class _Directory:
    """The flags that decide which other flags there are."""

    protocol: str | None = None
    name: str | None = None
    runs_dir: Path = Path("runs")
    resume: bool = False


def parse_preset(prog: str, about: str | None, presets: Mapping[str, tuple[str, Any]]) -> Any:
    """Returns the configuration of a command line that begins with a preset's name.

    Args:
      prog: name of the command.
      about: description of the command.
      presets: description and configuration by name.

    Raises:
      SystemExit: with one line if a flag is wrong, or after --help.
    """
    preset, flags = "".join(sys.argv[1:2]), sys.argv[2:]
    if preset in presets:
        configure_warnings()
        return parse(presets[preset][1], f"{prog} {preset}", about, flags)
    if preset and not preset.startswith("-"):
        near = get_close_matches(preset, presets, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        message = f"error: {preset!r} is not a preset. {hint}The presets are {', '.join(presets)}."
        print(message, file=sys.stderr)
        sys.exit(2)
    config = tyro.extras.overridable_config_cli(
        dict(presets), prog=prog, description=about, config=FLAGS
    )
    configure_warnings()
    return config


def parse(default: AnyConfig, prog: str, about: str | None, flags: Sequence[str]) -> AnyConfig:
    """Returns the default configuration changed by flags; with --resume, that of the run.

    --protocol decides which flags of protocols there are.

    Args:
      default: the configuration without flags.
      prog: name of the command.
      about: description of the command.
      flags: all of them.

    Raises:
      SystemExit: with one line if a flag is wrong, if the run to resume is of another preset or
        protocol, or if its configuration is damaged.
    """
    given, _ = tyro.cli(
        _Directory, args=flags, config=FLAGS, return_unknown_args=True, add_help=False
    )
    try:
        stored = _stored(given, default)
        name = default.protocol.protocol if given.protocol is None else given.protocol
        if stored is not None:
            name = _protocol_of(stored, given, name)
        default = _with_protocol(default, name)
        check_protocol_flags(list(flags), default.protocol)
        config = _parse(default, prog, about, flags)
        return config if stored is None else _resumed(config, default, prog, about, flags, stored)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {printable_lines(error)}")


def configure_warnings() -> None:
    """Prints warnings as one line each, and hides absl's log: its errors are raised as well."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def _parse(default: AnyConfig, prog: str, about: str | None, flags: Sequence[str]) -> AnyConfig:
    return tyro.cli(
        type(default), default=default, prog=prog, description=about, args=flags, config=FLAGS
    )


def _with_protocol(config: AnyConfig, name: str) -> AnyConfig:
    return dataclasses.replace(config, protocol=convert_protocol(config.protocol, name))


def _stored(given: _Directory, default: Config) -> dict[str, Any] | None:
    """Returns config.json of the run to resume; None if there is none."""
    path = Path(given.runs_dir, given.name or "", CONFIG)
    if not given.resume or not given.name or not path.is_file():
        return None
    stored = read_json(path)
    if stored.get("preset") != default.preset:
        raise ConfigError(
            f"{path.parent} was started with {stored.get('preset')!r}, got {default.preset!r}. "
            "Resume it with its own preset, or start another --name."
        )
    return stored


def _protocol_of(stored: dict[str, Any], given: _Directory, name: str) -> str:
    """Returns the name of a stored run's protocol, which flags must not change."""
    protocol = stored.get("protocol")
    found = protocol.get("protocol") if isinstance(protocol, dict) else None
    if not isinstance(found, str):
        return name
    found = RENAMED_PROTOCOLS.get(found, found)
    if given.protocol not in (None, found):
        raise ConfigError(
            f"{Path(given.runs_dir, given.name or '')} was started with --protocol {found}, got "
            f"{given.protocol}. Resume it without this flag, or start another --name."
        )
    return found


def _resumed(
    config: AnyConfig,
    default: AnyConfig,
    prog: str,
    about: str | None,
    flags: Sequence[str],
    stored: dict[str, Any],
) -> AnyConfig:
    """Returns the configuration that a run was started with, changed by flags."""
    kept = config_from_json(config, stored)
    # A flag is --flip or --no-flip by the preset's value, so booleans start with that.
    started = _parse(booleans_of(kept, default), prog, about, flags)
    started = booleans_of(started, kept, unless=default)
    run = dataclasses.replace(
        started.run,
        name=config.run.name,
        resume=True,
        overwrite=config.run.overwrite,
        runs_dir=config.run.runs_dir,
    )
    return dataclasses.replace(started, run=run)
