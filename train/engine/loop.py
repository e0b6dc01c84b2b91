"""The training loop: steps on the device, records and checkpoints between them.

It knows no task: a loss, an optimizer and a source of batches make one.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from lcjax.tree.paths import is_slope, site_of
from train.data.batches import Source
from train.engine.checkpoints import Snapshots
from train.engine.flat_tokens import flat_tokens
from train.engine.gradient_accumulation import accumulated
from train.engine.metrics_writer import Recorder
from train.runtime.devices import any_of_all, is_first
from train.runtime.interrupts import interruption
from train.runtime.sharding import batches_stay_cut

Metrics = dict[str, Any]
# loss(params, stats, batch, key) -> (loss, (new stats, metrics))
Loss = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Any, Metrics]]]
# watch(step, state) -> whether training ends here
Watch = Callable[[int, "TrainState"], bool]
SLOPE = "slope/"


class Diverged(ArithmeticError):
    """The loss is not a finite number."""


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

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
        """The model's variables, as its apply takes them."""
        return {"params": self.params, **self.stats}


def make_dispatch(
    loss: Loss,
    tx: optax.GradientTransformation,
    source: Source,
    key: jax.Array,
    *,
    accumulate: int = 1,
    shardings: Any = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]:
    """Returns the jitted `dispatch(state, arrays, inputs)` that takes several steps.

    The state is donated. The random key of a step depends on `key` and the step's number alone.
    Metrics come one a step: the loss, what `loss` reports, and every slope after the step.

    Args:
      loss: of a batch.
      tx: the optimizer.
      source: of the batches.
      key: of all chance.
      accumulate: into how many parts a batch is cut, whose gradients are averaged.
      shardings: of the state, on a mesh; the new state has them too.
    """
    gradient = accumulated(jax.value_and_grad(loss, has_aux=True), accumulate)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        own_key = jax.random.fold_in(key, state.step)
        with batches_stay_cut(), flat_tokens():
            (value, (stats, metrics)), grads = gradient(state.params, state.stats, batch, own_key)
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        metrics = {"train/loss": value, **metrics, **_slopes(params)}
        return TrainState(state.step + 1, params, stats, opt_state), metrics

    placed = None if shardings is None else (shardings, None)

    @partial(jax.jit, donate_argnums=0, out_shardings=placed)
    def dispatch(state: TrainState, arrays: Any, inputs: Any) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda s, x: step(s, source.fetch(arrays, x)), state, inputs)

    return dispatch


def train(
    state: TrainState,
    dispatch: Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]],
    source: Source,
    *,
    end: int,
    validate: Callable[[Any], tuple[Metrics, float]],
    recorder: Recorder,
    snapshots: Snapshots,
    log_every: int,
    checkpoint_every: int,
    watch: Watch | None = None,
) -> TrainState:
    """Trains from where the state is to the end, and returns the last state.

    Args:
      state: where to train on from; it is donated.
      dispatch: from `make_dispatch`.
      source: of the batches.
      end: number of the last step, those that the state has behind it included.
      validate: `validate(variables)` returns metrics, and how good that is, higher is better; it
        is called once an epoch and at the end.
      recorder: of the metrics.
      snapshots: of the state; the best one that was validated is among them.
      log_every: steps between two records; the last step is recorded in any case.
      checkpoint_every: steps between two snapshots, at least; there is one at the end.
      watch: `watch(step, state)` is called before the first step and between dispatches, a snapshot
        coming after; where it returns True, training ends. It may be called twice with one state.

    Raises:
      Diverged: when a loss is not finite; noticed at the next record.
      KeyboardInterrupt: after Ctrl-C or SIGTERM, between two dispatches and behind a snapshot.
    """
    step = int(state.step)
    if step >= end or (watch is not None and watch(step, state)):
        return state
    best = snapshots.best
    with interruption() as stop, _progress(step, end) as bar:
        for inputs in source.inputs(step):
            inputs = jax.tree.map(lambda each, left=end - step: each[:left], inputs)
            state, metrics = dispatch(state, source.arrays, inputs)
            before, step = step, step + len(jax.tree.leaves(inputs)[0])
            _record(recorder, bar, before, step, metrics, log_every, end)
            merit = None
            if step % source.steps_per_epoch == 0 or step == end:
                metrics, merit = validate(state.variables)
                recorder.write(step, metrics)
            done = (watch is not None and watch(step, state)) or step == end
            stopping = any_of_all(stop.asked)
            due = step // checkpoint_every > before // checkpoint_every or done or stopping
            if due or (merit is not None and merit > best):
                recorder.flush()
                snapshots.save(step, state, merit=merit)
                best = max(best, -math.inf if merit is None else merit)
            bar.update(step - before)
            if done:
                break
            if stopping:
                raise KeyboardInterrupt
    return state


def _slopes(params: Any) -> Metrics:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {SLOPE + site_of(keys): slope for keys, slope in leaves if is_slope(keys)}


def _progress(step: int, total: int) -> tqdm:
    calm = 0.2 if sys.stderr.isatty() else 30  # a log file gets a line every half minute
    return tqdm(
        initial=step,
        total=total,
        desc="training",
        unit="step",
        mininterval=calm,
        maxinterval=calm,
        disable=not is_first(),
    )


def _record(
    recorder: Recorder,
    bar: tqdm,
    before: int,
    after: int,
    metrics: Metrics,
    log_every: int,
    total: int,
) -> None:
    """Records, of the steps in (before, after], the multiples of `log_every` and the very last."""
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
    bar.set_postfix_str(state, refresh=False)
