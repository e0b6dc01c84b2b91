"""The command line of every kind of training: from flags to the summary."""

import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path

import jax
import tyro
from jax.sharding import Mesh

import lcjax
from lcjax._messages import printable_lines
from train.runs.comparison import count_parameters
from train.config.base import AnyConfig, Config, ConfigError, as_json, check
from train.config.from_json import booleans_of, restored
from train.runtime.devices import is_first, join, make_mesh, wait_for_all
from train.runtime.disk import full_disk
from train.runtime.memory import keep_freed_memory
from train.runtime.interrupts import say_when_stopped, stopped
from train.engine.loop import Diverged, TrainState
from train.runs.conclude import conclude
from train.runtime.sharding import batch_parts
from train.protocols import PROTOCOLS, Ending, Protocol
from train.engine.run_directory import (
    CONFIG,
    choose_directory,
    create_directory,
    read_json,
    reopen_directory,
)
from train.engine.stages import run_stages
from train.tasks.base import Task, keys

# How configurations become flags.
FLAGS = (tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that is ready to start; nothing is written yet."""

    task: Task
    protocol: Protocol
    state: TrainState


def run(
    prog: str,
    about: str | None,
    presets: Mapping[str, tuple[str, AnyConfig]],
    make_task: Callable[[AnyConfig], Task],
) -> None:
    """Runs a command line.

    Args:
      prog: how the command is called.
      about: what it does.
      presets: configurations to start from, each with what it is about.
      make_task: returns the task that a configuration asks for.
    """
    preset, flags = "".join(sys.argv[1:2]), sys.argv[2:]
    if preset in presets:
        default, called = presets[preset][1], f"{prog} {preset}"
        config = tyro.cli(
            type(default), default=default, prog=called, description=about, args=flags, config=FLAGS
        )
        quieten()
        config = as_started(config, default, called, flags)
    elif preset and not preset.startswith("-"):
        near = get_close_matches(preset, presets, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        told = f"error: {preset!r} is not a preset. {hint}The presets are {', '.join(presets)}."
        print(told, file=sys.stderr)
        sys.exit(2)
    else:
        config = tyro.extras.overridable_config_cli(
            dict(presets), prog=prog, description=about, config=FLAGS
        )
        quieten()
    keep_freed_memory()
    execute(config, make_task)


def as_started(config: AnyConfig, preset: AnyConfig, prog: str, flags: Sequence[str]) -> AnyConfig:
    """Returns, with --resume, the configuration that the run was started with and what flags say.

    Args:
      config: what the flags make of the preset.
      preset: the configuration without flags.
      prog: how the command is called.
      flags: all that is given.

    Raises:
      SystemExit: in one line, when the run is of another preset, or its configuration is damaged.
    """
    stored = Path(config.run.runs_dir, config.run.name or "", CONFIG)
    if not config.run.resume or not config.run.name or not stored.is_file():
        return config
    try:
        fields = read_json(stored)
        if fields.get("preset") != config.preset:
            raise ConfigError(
                f"{stored.parent} was started with {fields.get('preset')!r}, got "
                f"{config.preset!r}. Resume it with its own preset, or start another --name."
            )
        kept = restored(config, fields)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {printable_lines(error)}")
    # A flag is --flip or --no-flip after the preset's own value, so those values have to stay.
    default = booleans_of(kept, preset)
    started = tyro.cli(type(config), default=default, prog=prog, args=flags, config=FLAGS)
    started = booleans_of(started, kept, unless=preset)
    here = dataclasses.replace(
        started.run, name=config.run.name, resume=True, overwrite=config.run.overwrite,
        runs_dir=config.run.runs_dir,
    )  # fmt: skip
    return dataclasses.replace(started, run=here)


def execute(
    config: AnyConfig,
    make_task: Callable[[AnyConfig], Task],
    protocols: Mapping[str, type[Protocol]] = PROTOCOLS,
) -> None:
    """Does what a configuration asks for, from the data to the summary.

    Args:
      config: of the run.
      make_task: returns the task that a configuration asks for.
      protocols: by the names that a configuration gives.

    Raises:
      SystemExit: in one line, when the configuration cannot be carried out.
    """
    try:
        check(config)
        join(config.devices)
        mesh = make_mesh(config.devices)
        _check_batch(config, mesh)
    except ValueError as error:
        sys.exit(f"error: {error}")
    with nullcontext() if mesh is None else jax.set_mesh(mesh):
        _execute(config, make_task, protocols)


def _execute(
    config: AnyConfig,
    make_task: Callable[[AnyConfig], Task],
    protocols: Mapping[str, type[Protocol]],
) -> None:
    try:
        directory = choose_directory(config.run, _name(config), as_json(config))
        job = prepare(config, make_task, protocols)
        wait_for_all("the run is prepared")  # before its directory is there
        if is_first():
            if config.run.resume:
                reopen_directory(directory, as_json(config))
            else:
                create_directory(directory, as_json(config), overwrite=config.run.overwrite)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {printable_lines(error)}")
    say_when_stopped(
        f"stopped; the same command with --name {directory.name} --resume continues it"
    )
    wait_for_all("the run has a directory")
    _say(introduce(job, directory))
    try:
        _say(conclude(job.task, fit(job, directory), directory))
    except Diverged as error:
        sys.exit(f"error: {error}")
    except (OSError, ValueError) as error:
        told = full_disk(error, directory)
        if told is None:
            raise
        warnings.simplefilter("ignore")  # of what orbax then leaves undone
        sys.exit(f"error: {told}")
    except KeyboardInterrupt:
        raise stopped() from None


def _name(config: Config) -> str:
    """Returns how a run is called that was given no name."""
    student = config.protocol.collapsed_from is not None
    return f"{config.preset}-student" if student else config.preset


def _say(text: str) -> None:
    if is_first():
        print(text, flush=True)


def _check_batch(config: Config, mesh: Mesh | None) -> None:
    parts = batch_parts(mesh)
    if config.data.batch_size // config.optimizer.accumulate % parts:
        raise ConfigError(
            f"--batch-size is {config.data.batch_size}, in {config.optimizer.accumulate} parts; it "
            f"has to be cut over the {parts} devices on data and fsdp. Give a multiple of "
            f"{parts * config.optimizer.accumulate}, or another --mesh."
        )


def quieten() -> None:
    """Lets a user see warnings as one line each, and nothing of absl: its errors are raised too."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def prepare(
    config: AnyConfig,
    make_task: Callable[[AnyConfig], Task],
    protocols: Mapping[str, type[Protocol]] = PROTOCOLS,
) -> Job:
    """Returns the data, the model and the optimizer that a config asks for.

    Raises:
      ValueError: when a flag's value cannot be, or the data set or a run is not there.
    """
    chosen = protocols[config.protocol.protocol]
    task = make_task(chosen.adapted(config))
    if config.penalty.slope_learning_rate and not lcjax.find_sites(task.variables):
        raise ConfigError(
            "the model has no activation between two Dense layers, so no site. Give it hidden "
            "layers, such as --hidden 128 128 of an MLP, or train it as a plain network with "
            "--slope-learning-rate 0."
        )
    protocol = chosen(task)
    return Job(task, protocol, protocol.first())


def introduce(job: Job, directory: Path) -> str:
    """Returns three lines: the run, its data, its model."""
    task, variables = job.task, job.state.variables
    config, data, penalty = task.config, task.data, task.config.penalty
    return (
        f"run    {directory}: {config.preset}, seed {config.run.seed}, "
        f"{config.optimizer.epochs} epochs of {task.source.steps_per_epoch} steps, "
        f"batch {config.data.batch_size}, {penalty.penalty} strength {penalty.strength:g}, "
        f"protocol {config.protocol.protocol}\n"
        f"data   {data.name}: {len(data.train):,} to train on, {len(data.validation):,} to "
        f"validate, {data.about}\n"
        f"model  {type(task.classifier.module).__name__}: {count_parameters(variables):,} "
        f"parameters, {len(lcjax.find_sites(variables))} sites, {config.model.dtype} on "
        f"{jax.default_backend()}"
    )


def fit(job: Job, directory: Path) -> Ending:
    """Trains, or trains on from where the run broke off, and returns what it comes to."""
    task = job.task
    state, history = run_stages(
        directory,
        job.state,
        job.protocol,
        key=keys(task.config)[1],
        validate=task.validate,
        config=task.config,
    )
    return job.protocol.end(directory, history, state.variables)
