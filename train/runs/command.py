"""Runs a configuration: from the data to the summary."""

import dataclasses
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import jax
from jax.sharding import Mesh

import lcjax
from lcjax._messages import printable_lines
from train.config.base import Config, as_json
from train.config.check import check
from train.engine.loop import Diverged, TrainState
from train.engine.optimizers import with_slopes_for
from train.engine.run_directory import choose_directory, create_directory, reopen_directory
from train.engine.stages import run_stages
from train.runs.conclude import conclude
from train.runs.finished import start_from_runs
from train.runs.flags import parse_preset
from train.runs.protocol import Protocol, RunResult
from train.runtime.devices import barrier, initialize_distributed, is_main_process, make_mesh
from train.runtime.disk import disk_full_message
from train.runtime.interrupts import set_stop_message, stopped
from train.runtime.memory import keep_freed_memory
from train.runtime.sharding import batch_parts
from train.tasks.base import Task, keys
from train.tasks.modalities import MODALITIES
from train.validation import ConfigError

Protocols = Mapping[str, type[Protocol]]


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that is ready to start; nothing is written yet."""

    task: Task
    protocol: Protocol
    state: TrainState


def run(prog: str, about: str | None, kind: str, protocols: Protocols) -> None:
    """Runs a training command.

    Args:
      prog: name of the command.
      about: description of the command.
      kind: modality of the data.
      protocols: by the names of --protocol.
    """
    config = parse_preset(prog, about, MODALITIES[kind].presets)
    keep_freed_memory()
    execute(config, protocols)


def execute(config: Config, protocols: Protocols) -> None:
    """Carries out a run, from the data to the summary.

    Args:
      config: of the run.
      protocols: by the names of --protocol.

    Raises:
      SystemExit: with one line, if the configuration cannot be carried out.
    """
    try:
        check(config)
        initialize_distributed(config.devices)
        mesh = make_mesh(config.devices)
        _check_batch(config, mesh)
    except ValueError as error:
        sys.exit(f"error: {error}")
    with nullcontext() if mesh is None else jax.set_mesh(mesh):
        _execute(config, protocols)


def _execute(config: Config, protocols: Protocols) -> None:
    try:
        directory = choose_directory(config.run, _default_name(config), as_json(config))
        job = prepare(config, protocols)
        barrier("the run is prepared")  # before its directory exists
        if is_main_process():
            if config.run.resume:
                reopen_directory(directory, as_json(config))
            else:
                create_directory(directory, as_json(config), overwrite=config.run.overwrite)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {printable_lines(error)}")
    set_stop_message(
        f"stopped; add --name {directory.name} --resume to the same command to continue"
    )
    barrier("the run has a directory")
    _print(describe_run(job, directory))
    try:
        _print(conclude(job.task, train_job(job, directory), directory))
    except (Diverged, lcjax.CheckpointError, ConfigError) as error:
        sys.exit(f"error: {printable_lines(error)}")
    except (OSError, ValueError) as error:
        message = disk_full_message(error, directory)
        if message is None:
            raise
        warnings.simplefilter("ignore")  # about files that orbax leaves behind
        sys.exit(f"error: {message}")
    except KeyboardInterrupt:
        raise stopped() from None


def _default_name(config: Config) -> str:
    """Returns the name of a run without --name."""
    is_student = config.init.collapsed_from is not None
    return f"{config.preset}-student" if is_student else config.preset


def _print(text: str) -> None:
    if is_main_process():
        print(text, flush=True)


def _check_batch(config: Config, mesh: Mesh | None) -> None:
    shards = batch_parts(mesh)
    if config.data.batch_size // config.optimizer.accumulate % shards:
        raise ConfigError(
            f"--batch-size is {config.data.batch_size}, in {config.optimizer.accumulate} "
            f"microbatches, to be sharded over the {shards} devices on data and fsdp; expected a "
            f"multiple of {shards * config.optimizer.accumulate}, or another --mesh."
        )


def prepare(config: Config, protocols: Protocols) -> Job:
    """Returns the data, the model and the optimizer of a configuration.

    Raises:
      ValueError: if a flag does not fit, or the data set, the weights or a run do not exist.
      FileNotFoundError: if pretrained weights do not exist.
      ImportError: if a package of an extra is not installed.
    """
    chosen = protocols[config.protocol.protocol]
    config = chosen.override_config(config)
    task = start_from_runs(MODALITIES[config.kind].make_task(config))
    variables = with_slopes_for(config.penalty, task.variables)
    task = dataclasses.replace(task, variables=variables)
    if config.penalty.slope_learning_rate and not lcjax.find_sites(task.variables):
        raise ConfigError(
            "the model has no activation between two Dense layers, so it has no site. Give it "
            "hidden layers, such as --hidden 128 128 of an MLP, or train it as a plain network "
            "with --slope-learning-rate 0."
        )
    protocol = chosen(task)
    return Job(task, protocol, protocol.initial_state())


def describe_run(job: Job, directory: Path) -> str:
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
        f"model  {type(task.classifier.module).__name__}: {lcjax.count_parameters(variables):,} "
        f"parameters, {len(lcjax.find_sites(variables))} sites, {config.model.dtype} on "
        f"{jax.default_backend()}"
    )


def train_job(job: Job, directory: Path) -> RunResult:
    """Trains a new run, or continues an interrupted one, and returns the result."""
    task = job.task
    state, history = run_stages(
        directory,
        job.state,
        job.protocol,
        key=keys(task.config)[1],
        validate=task.validate,
        config=task.config,
    )
    return job.protocol.finish(directory, history, state.variables)
