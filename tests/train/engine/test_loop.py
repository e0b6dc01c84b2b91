"""The loop: what a step sees, what is recorded and saved when, and that it goes on bit for bit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcjax import with_linearity_penalty
from tests.helpers.runs import same_bits
from train.data.batches import in_memory
from train.engine.loop import Diverged, Stage, TrainState, make_dispatch, train

COUNT, BATCH, EPOCHS = 44, 4, 3  # eleven steps an epoch
X = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
TX = with_linearity_penalty(optax.adam(1e-2), strength=0.1)
KEY = jax.random.key(5)


def loss(params, stats, batch, key):
    """Least squares with noise from the step's key; counts its steps in stats."""
    (x,) = batch
    noise = jax.random.normal(key, ())
    slope = params["act_0"]["slope"]
    value = jnp.mean((x @ params["kernel"] - 1) ** 2) + 0.01 * (noise + slope) ** 2
    return value, ({"seen": stats["seen"] + 1}, {"noise": noise})


def fresh():
    params = {"kernel": jnp.ones(3), "act_0": {"slope": jnp.zeros(())}}
    return TrainState.create({"params": params, "seen": jnp.zeros((), jnp.int32)}, TX)


class Records(list):
    """Takes the recorder's and the snapshots' place; keeps what comes in the order it comes.

    No state is better than the best that it says it has, unless `best` is set lower.
    """

    best = math.inf

    def write(self, step, metrics):
        self.append(("write", step, dict(metrics)))

    def flush(self):
        self.append(("flush",))

    def save(self, step, state, *, score=None):
        self.append(("save", step, jax.device_get(state), score))

    def steps(self, kind):
        return [each[1] for each in self if each[0] == kind]

    def recorded(self, name):
        return {each[1]: each[2][name] for each in self if each[0] == "write" and name in each[2]}


@functools.cache
def compiled(loss, steps_per_dispatch):
    source = in_memory((X,), BATCH, seed=1, steps_per_dispatch=steps_per_dispatch)
    return make_dispatch(loss, TX, source, KEY), source


def run(
    state=None,
    *,
    steps_per_dispatch=4,
    loss=loss,
    log_every=1,
    checkpoint_every=100,
    merits=None,
    records=None,
):
    """Trains and returns the last state and the records; merits are those of the epochs."""
    records = Records() if records is None else records
    merits = iter([0.0] * EPOCHS if merits is None else merits)

    def validate(variables):
        return {"validation/loss": float(variables["params"]["kernel"][0])}, next(merits)

    dispatch, source = compiled(loss, steps_per_dispatch)
    state = train(
        state or fresh(),
        dispatch,
        Stage(loss, None, source, EPOCHS * 11),
        validate=validate,
        recorder=records,
        snapshots=records,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
    )
    return state, records


@pytest.fixture(scope="module")
def whole():
    return run()


def test_every_step_is_taken_and_recorded_once(whole):
    state, records = whole
    assert int(state.step) == int(state.stats["seen"]) == 33
    assert list(records.recorded("train/loss")) == list(range(1, 34))
    assert set(records[0][2]) == {"train/loss", "noise", "slope/act_0"}
    assert records.recorded("slope/act_0")[33] == float(state.params["act_0"]["slope"]) > 0


def test_a_steps_key_depends_on_its_number_alone(whole):
    noise = whole[1].recorded("noise")
    for step in (1, 2, 12, 33):
        want = jax.random.normal(jax.random.fold_in(KEY, step - 1), ())
        np.testing.assert_allclose(noise[step], want, rtol=1e-6)
    assert len(set(noise.values())) == 33


@pytest.mark.promotes
@pytest.mark.parametrize("steps_per_dispatch", [1, 11])
def test_steps_a_dispatch_change_nothing(whole, steps_per_dispatch):
    state, records = run(steps_per_dispatch=steps_per_dispatch)
    for name in ("train/loss", "slope/act_0", "validation/loss"):
        got, want = records.recorded(name), whole[1].recorded(name)
        assert list(got) == list(want)
        np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.promotes
def test_it_goes_on_bit_for_bit_from_any_snapshot(whole):
    _, records = run(checkpoint_every=1)
    assert len(records.steps("save")) == 9
    for _, step, saved, _ in (each for each in records if each[0] == "save"):
        state, again = run(jax.device_put(saved))
        same_bits(state, whole[0])
        rest = [each for each in whole[1] if each[0] == "write" and each[1] > step]
        assert [each for each in again if each[0] == "write"] == rest


def test_validation_is_once_an_epoch_on_the_state_of_then(whole):
    assert list(whole[1].recorded("validation/loss")) == [11, 22, 33]
    last = whole[1].recorded("validation/loss")[33]
    assert last == float(whole[0].params["kernel"][0])


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("every", "saved"), [(100, [33]), (11, [11, 22, 33]), (5, [7, 11, 18, 22, 25, 33])]
)
def test_snapshots_come_at_least_so_often_and_at_the_end(every, saved):
    _, records = run(checkpoint_every=every)
    assert records.steps("save") == saved
    for i, each in enumerate(records):
        if each[0] == "save":
            assert records[i - 1] == ("flush",), "lines go to disk before the state that skips them"
            assert int(each[2].step) == each[1]


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("best", "merits", "saved"),
    [
        (-math.inf, (0.3, 0.2, 0.1), [(11, 0.3), (33, 0.1)]),
        (-math.inf, (0.3, 0.4, 0.4), [(11, 0.3), (22, 0.4), (33, 0.4)]),
        (0.35, (0.3, 0.4, 0.2), [(22, 0.4), (33, 0.2)]),
    ],
)
def test_a_state_that_validates_better_than_the_best_is_saved(best, merits, saved):
    records = Records()
    records.best = best
    run(records=records, merits=merits)
    assert [(each[1], each[3]) for each in records if each[0] == "save"] == saved


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("every", "steps"), [(10, [10, 20, 30, 33]), (33, [33]), (1000, [33]), (11, [11, 22, 33])]
)
def test_records_come_every_so_often_and_at_the_end(every, steps):
    _, records = run(log_every=every)
    assert list(records.recorded("train/loss")) == steps


def test_a_state_at_the_end_is_returned_as_it_is(whole):
    state, records = run(whole[0])
    assert state is whole[0] and records == []


@pytest.mark.promotes
@pytest.mark.parametrize(("log_every", "step"), [(1, "18"), (1000, "30")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(log_every, step):
    """With rare records it is noticed in the dispatch of the next one, here the last."""
    with pytest.raises(Diverged, match=f"step {step}: the loss is inf. Lower --learning-rate or"):
        run(loss=infinite_from_step_18, log_every=log_every)


def infinite_from_step_18(params, stats, batch, key):
    value, aux = loss(params, stats, batch, key)
    return jnp.where(stats["seen"] >= 17, math.inf, value), aux
