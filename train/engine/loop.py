"""The training loop: steps on the device, metrics and checkpoints between dispatches.

It does not depend on the task: it takes a loss, an optimizer and a stream of batches.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

import lcjax
from train.data.batches import BatchStream
from train.engine.checkpoints import Snapshots
from train.engine.flat_tokens import flat_tokens
from train.engine.gradient_accumulation import accumulate_gradient
from train.engine.metrics_writer import MetricsWriter
from train.runtime.devices import any_process, is_main_process
from train.runtime.interrupts import interruption
from train.runtime.sharding import constrain_activations, optimizer_shardings, shardings

Metrics = dict[str, Any]
# loss(params, stats, batch, key) -> (loss, (new stats, metrics))
LossFn = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Any, Metrics]]]
# watch(step, state) -> whether training ends here; called before the first step and between
# dispatches, before a checkpoint; maybe twice with the same state
Watch = Callable[[int, "TrainState"], bool]
SLOPE, LINEAR_UNITS = "slope/", "linear_units/"


class Diverged(ArithmeticError):
    """The loss is not finite."""


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: steps taken; int32 scalar.
      params: of the model.
      stats: its other collections, such as batch_stats.
      opt_state: of the optimizer.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any

    @classmethod
    def create(cls, variables: Any, tx: optax.GradientTransformation) -> "TrainState":
        """Returns the state before the first step."""
        stats = {name: tree for name, tree in variables.items() if name != "params"}
        params = variables["params"]
        return cls(jnp.zeros((), jnp.int32), params, stats, tx.init(params))

    @property
    def variables(self) -> dict[str, Any]:
        """Variables for the model's apply."""
        return {"params": self.params, **self.stats}


def state_shardings(state: TrainState, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns the sharding of every leaf of a state; arrays or ShapeDtypeStructs."""
    variables = shardings(state.variables, mesh)
    return TrainState(
        step=NamedSharding(mesh, PartitionSpec()),  # type: ignore
        params=variables.pop("params"),
        stats=variables,
        opt_state=optimizer_shardings(tx, state.opt_state, state.params, mesh),
    )


def make_dispatch(
    loss: LossFn,
    tx: optax.GradientTransformation,
    source: BatchStream,
    key: jax.Array,
    *,
    accumulate: int = 1,
    state_sharding: Any = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]:
    """Returns the jitted `dispatch(state, arrays, inputs)`, which takes several steps.

    The state is donated. The random key of a step depends on `key` and the step's number only.
    Metrics have one value per step: the loss, those of `loss`, and every slope after the step; of
    a site with a slope for each unit the mean, and the number of those at exactly 1.

    Args:
      loss: of a batch.
      tx: the optimizer.
      source: of the batches.
      key: random key.
      accumulate: number of microbatches whose gradients are averaged.
      state_sharding: of the old and the new state, on a mesh; from `state_shardings`.
    """
    gradient = accumulate_gradient(jax.value_and_grad(loss, has_aux=True), accumulate)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        own_key = jax.random.fold_in(key, state.step)
        with constrain_activations(), flat_tokens():
            (value, (stats, metrics)), grads = gradient(state.params, state.stats, batch, own_key)
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        metrics = {"train/loss": value, **metrics, **_slopes(params)}
        return TrainState(state.step + 1, params, stats, opt_state), metrics

    placed = None if state_sharding is None else (state_sharding, None)

    @partial(jax.jit, donate_argnums=0, out_shardings=placed)
    def dispatch(state: TrainState, arrays: Any, inputs: Any) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda s, x: step(s, source.fetch(arrays, x)), state, inputs)

    return dispatch


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run's training.

    Attributes:
      loss: of a batch.
      tx: the optimizer.
      source: of the batches.
      end: number of the last step at the latest, counted from the first step of the run.
      watch: may end the stage earlier; see `train`.
    """

    loss: LossFn
    tx: optax.GradientTransformation
    source: BatchStream
    end: int
    watch: Watch | None = None


def train(
    state: TrainState,
    dispatch: Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]],
    stage: Stage,
    *,
    validate: Callable[[Any], tuple[Metrics, float]],
    recorder: MetricsWriter,
    snapshots: Snapshots,
    log_every: int,
    checkpoint_every: int,
) -> TrainState:
    """Trains to the last step, and returns the last state.

    Args:
      state: the first state; it is donated.
      dispatch: from `make_dispatch`.
      stage: with the batches, the last step and what may end training before.
      validate: `validate(variables)` returns metrics and a score, higher is better; it is called
        once per epoch and at the end.
      recorder: of the metrics.
      snapshots: checkpoints of the state; the state with the best score is kept.
      log_every: steps between two records; the last step is always recorded.
      checkpoint_every: least number of steps between two checkpoints; the last state is saved too.

    Raises:
      Diverged: if a loss is not finite; noticed at the next record.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, between two dispatches and after a checkpoint.
    """
    step, end, watch, source = int(state.step), stage.end, stage.watch, stage.source
    if step >= end or (watch is not None and watch(step, state)):
        return state
    best = snapshots.best
    with interruption() as stop, _progress(step, end) as bar:
        for inputs in source.inputs(step):
            inputs = jax.tree.map(lambda each, left=end - step: each[:left], inputs)
            state, metrics = dispatch(state, source.arrays, inputs)
            before, step = step, step + len(jax.tree.leaves(inputs)[0])
            _record(recorder, bar, before, step, metrics, log_every, end)
            score = None
            if step % source.steps_per_epoch == 0 or step == end:
                metrics, score = validate(state.variables)
                recorder.write(step, metrics)
            done = (watch is not None and watch(step, state)) or step == end
            stopping = any_process(stop.requested)
            due = step // checkpoint_every > before // checkpoint_every or done or stopping
            if due or (score is not None and score > best):
                recorder.flush()
                snapshots.save(step, state, score=score)
                best = max(best, -math.inf if score is None else score)
            bar.update(step - before)
            if done:
                break
            if stopping:
                raise KeyboardInterrupt
    return state


def _slopes(params: Any) -> Metrics:
    found = lcjax.slopes(params)
    means = {SLOPE + site: slope.mean() if slope.ndim else slope for site, slope in found.items()}
    units = {site: slope for site, slope in found.items() if slope.ndim}
    return means | {LINEAR_UNITS + site: (slope == 1).sum() for site, slope in units.items()}


def _progress(step: int, total: int) -> tqdm:
    interval = 0.2 if sys.stderr.isatty() else 30  # a log file gets a line every half minute
    return tqdm(
        initial=step,
        total=total,
        desc="training",
        unit="step",
        mininterval=interval,
        maxinterval=interval,
        disable=not is_main_process(),
    )


def _record(
    recorder: MetricsWriter,
    bar: tqdm,
    before: int,
    after: int,
    metrics: Metrics,
    log_every: int,
    total: int,
) -> None:
    """Records the steps in (before, after] that are multiples of `log_every`, or the last."""
    due = [s for s in range(before + 1, after + 1) if s % log_every == 0 or s == total]
    if not due:
        return
    fetched = jax.device_get(metrics)
    for step, loss in enumerate(fetched["train/loss"], before + 1):
        if not math.isfinite(loss):
            raise Diverged(
                f"step {step}: the loss is {loss}. Lower --learning-rate or "
                "--slope-learning-rate, or set --clip-norm."
            )
    for step in due:
        record = {name: float(values[step - before - 1]) for name, values in fetched.items()}
        recorder.write(step, record)
    linear = [value == 1 for name, value in record.items() if name.startswith(SLOPE)]
    state = f"loss {record['train/loss']:.3f}, {sum(linear)}/{len(linear)} linear"
    units = [value for name, value in record.items() if name.startswith(LINEAR_UNITS)]
    state += f", {sum(units):,.0f} units" if units else ""
    bar.set_postfix_str(state, refresh=False)
