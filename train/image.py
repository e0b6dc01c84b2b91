"""Trains an image classifier, collapses it: `python -m train.image PRESET [--flag value ...]`."""

import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro

import lcjax
from train.classifier import Classifier
from train.comparison import count_parameters
from train.config import Config, as_json, check
from train.data import ImageData, load
from train.loop import Diverged, TrainState, make_dispatch, train
from train.optimizers import make_optimizer
from train.outcome import conclude
from train.presets import PRESETS
from train.recorder import Recorder
from train.run_dir import choose_directory, create_directory
from train.snapshots import Snapshots
from train.sources import Source, in_memory, streamed
from train.splits import Split


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that is ready to start; nothing is written yet."""

    config: Config
    data: ImageData
    classifier: Classifier
    source: Source
    state: TrainState
    dispatch: Callable[..., Any]


def main() -> None:
    """Runs the command line."""
    flags = (tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    config = tyro.extras.overridable_config_cli(
        PRESETS, prog="python -m train.image", description=__doc__, config=flags
    )
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        check(config)
        directory = choose_directory(config.run, config.preset, as_json(config))
        job = prepare(config)
        if not config.run.resume:
            create_directory(directory, as_json(config), overwrite=config.run.overwrite)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(introduce(job, directory), flush=True)
    try:
        variables = fit(job, directory)
        print(conclude(job.config, job.data, job.classifier, variables, directory))
    except Diverged as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped; the same flags with --name {directory.name} --resume continue it")


def prepare(config: Config) -> Job:
    """Returns the data, the model and the optimizer that a config asks for.

    Raises:
      ValueError: when a flag's value cannot be, or the data set is not there.
    """
    data = load(
        config.data.dataset,
        data_dir=config.data.data_dir,
        validation=config.data.validation,
        num_classes=config.data.num_classes,
        image_size=config.data.image_size,
    )
    classifier = Classifier(
        config.model.build(data.num_classes),
        mean=data.mean,
        std=data.std,
        crop_padding=config.data.crop_padding,
        flip=config.data.flip,
    )
    source = make_source(config, data)
    steps = config.optimizer.epochs * source.steps_per_epoch
    tx = make_optimizer(config.optimizer, config.penalty, steps)
    init_key, step_key = jax.random.split(jax.random.key(config.run.seed))
    state = TrainState.create(classifier.init(init_key, data.image_shape), tx)
    dispatch = make_dispatch(classifier.loss, tx, source, step_key)
    return Job(config, data, classifier, source, state, dispatch)


def make_source(config: Config, data: ImageData) -> Source:
    """Returns the batches of the training split."""
    size, seed = config.data.batch_size, config.run.seed
    if not isinstance(data.train, Split):
        return streamed(data.train, size, seed=seed)
    arrays = (data.train.images, data.train.labels)
    return in_memory(arrays, size, seed=seed, steps_per_dispatch=config.run.steps_per_dispatch)


def introduce(job: Job, directory: Path) -> str:
    """Returns three lines: the run, its data, its model."""
    config, data, variables = job.config, job.data, job.state.variables
    penalty, shape = config.penalty, "×".join(map(str, data.image_shape))
    return (
        f"run    {directory}: {config.preset}, seed {config.run.seed}, "
        f"{config.optimizer.epochs} epochs of {job.source.steps_per_epoch} steps, "
        f"batch {config.data.batch_size}, {penalty.penalty} strength {penalty.strength:g}\n"
        f"data   {data.name}: {len(data.train):,} to train on, {len(data.validation):,} to "
        f"validate, {shape}, {data.num_classes} classes\n"
        f"model  {type(job.classifier.module).__name__}: {count_parameters(variables):,} "
        f"parameters, {len(lcjax.find_sites(variables))} sites, {config.model.dtype} on "
        f"{jax.default_backend()}"
    )


def fit(job: Job, directory: Path) -> Any:
    """Trains, or trains on from the last checkpoint, and returns the deep variables."""
    run, evaluate = job.config.run, job.classifier.evaluator(job.config.data.batch_size)

    def validate(variables: Any) -> dict[str, float]:
        scores = evaluate(variables, job.data.validation)
        return {f"validation/{name}": value for name, value in scores.items()}

    with Snapshots(directory) as snapshots:
        state = snapshots.restore(like=job.state) or job.state
        with Recorder(directory, start_step=int(state.step)) as recorder:
            state = train(
                state,
                job.dispatch,
                job.source,
                epochs=job.config.optimizer.epochs,
                validate=validate,
                recorder=recorder,
                snapshots=snapshots,
                log_every=run.log_every,
                checkpoint_every=run.checkpoint_every,
            )
    return state.variables


if __name__ == "__main__":
    main()
