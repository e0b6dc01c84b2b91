"""A hundred wrong uses: each says what came, what was expected and what to do, or is harmless.

The numbers are those of the trial by a newcomer in which they were collected.
"""

import functools
from types import SimpleNamespace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import lcjax
from lcjax import CheckpointError, CollapseError


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(16)(nn.relu(nn.Dense(16)(x)))))


class Nnx(nnx.Module):
    def __init__(self):
        self.up = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
        self.down = nnx.Linear(16, 3, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))


@functools.cache
def world():
    """Returns what the uses are tried on: models, trees, statistics, optimizers."""
    key = jax.random.key(0)
    w = SimpleNamespace(x=jax.random.normal(key, (64, 8)), y=jnp.zeros(64, jnp.int32))
    w.model = lcjax.CollapsibleMLP((16, 16, 3), nn.relu)
    w.apply = jax.jit(w.model.apply)
    w.V = jax.jit(w.model.init)(key, w.x)
    w.plain = Plain()
    w.PV = jax.jit(w.plain.init)(key, w.x)
    w.metric = lambda tree: -float(jnp.abs(w.apply(tree, w.x)).mean())
    w.stats = lcjax.calibrate(w.apply, w.V, [w.x])
    w.compact, w.report = lcjax.collapse(w.V, fit=lcjax.Exact(max_gap=2.0))
    w.other = lcjax.CollapsibleMLP((32, 32, 3), nn.relu)
    w.V3 = jax.jit(w.other.init)(key, w.x)
    w.nan = jax.tree.map(lambda leaf: leaf, w.V)
    w.nan["params"]["dense_1"]["kernel"] = (
        w.nan["params"]["dense_1"]["kernel"].at[0, 0].set(jnp.nan)
    )
    w.f = lcjax.collapsible(w.plain.apply)
    w.P = w.f.init(w.PV, w.x)
    w.tx = lcjax.with_linearity_penalty(optax.adam(1e-3), strength=0.1)
    w.state = w.tx.init(w.V)
    w.train_state = TrainState.create(apply_fn=w.apply, params=w.V["params"], tx=w.tx)
    return w


def with_leaf(tree, module, leaf, value):
    params = {name: dict(node) for name, node in tree["params"].items()}
    params[module][leaf] = value
    return {"params": params}


def plan(w, budget, metric=None):
    data = lcjax.CalibrationData([w.x], progress=False)
    return lcjax.plan(w.apply, w.V, metric or w.metric, data, budget=budget)


def float16(w):
    return jax.tree.map(lambda leaf: (leaf * 60000).astype(jnp.float16), w.V)


class Use(NamedTuple):
    """A wrong use, and the error that it has to raise."""

    number: int
    use: object
    error: type[Exception]
    says: str


NESTED = "nested dicts"
NO_SITES = "no sites: the tree has no leaf named `slope`.*lcjax.collapsible"
NO_MATCH = "matches no site. The sites are: act_0, act_1. Name some of them"
BARE = "params: got a mapping of .*expected a mapping of 'model', 'slopes' and 'fused'. Pass"

ERRORS = [
    Use(1, lambda w: lcjax.collapse(w.model), TypeError, "got CollapsibleMLP.*model.init"),
    Use(2, lambda w: lcjax.collapse(None), TypeError, f"{NESTED}.*got NoneType. Pass"),
    Use(3, lambda w: lcjax.collapse({}), CollapseError, NO_SITES),
    Use(4, lambda w: lcjax.collapse(w.PV), CollapseError, NO_SITES),
    Use(6, lambda w: lcjax.collapse(w.V, "act_9"), CollapseError, "'act_9' " + NO_MATCH),
    Use(7, lambda w: lcjax.collapse(w.V, "Act_1"), CollapseError, "'Act_1' .*capitals count"),
    Use(9, lambda w: lcjax.collapse(w.V, sites=1), TypeError, "sites is 1, an int; expected paths"),
    Use(
        10,
        lambda w: lcjax.collapse(w.V, [0, 1]),
        TypeError,
        "sites contains an int; expected paths",
    ),
    Use(
        12,
        lambda w: lcjax.collapse(w.V, fit=lcjax.Exact(max_gap=-1)),
        ValueError,
        "max_gap is -1; expected a number of at least 0",
    ),
    Use(
        13,
        lambda w: lcjax.collapse(w.V, fit=lcjax.Exact(max_gap="5%")),
        TypeError,
        "max_gap is '5%'; expected a number. Pass one such as 0.05",
    ),
    Use(
        14,
        lambda w: lcjax.collapse(w.V, fit=lcjax.Exact(max_gap=float("nan"))),
        ValueError,
        "max_gap is nan; expected a number of at least 0",
    ),
    Use(15, lambda w: lcjax.collapse(w.V, 0.1), TypeError, "sites is 0.1, a float.*max_gap=0.1"),
    Use(
        17,
        lambda w: w.model.apply(w.compact["params"], w.x),
        CollapseError,
        "have no params for this module; expected .*Pass the result of init, or {'params': params}",
    ),
    Use(
        18,
        lambda w: lcjax.collapse(w.V, fit="least_squares"),
        TypeError,
        r"fit: got 'least_squares', expected .*lcjax.LeastSquares\(\).*Pass.*calibration=",
    ),
    Use(
        19,
        lambda w: lcjax.calibrate(w.apply, w.V, [w.x], fit="lsq"),
        TypeError,
        r"fit: got 'lsq', expected .*lcjax.LeastSquares\(\).*Pass one of these objects",
    ),
    Use(20, lambda w: lcjax.calibrate(w.V, [w.x]), TypeError, "missing 1 .* argument: 'data'"),
    Use(
        21,
        lambda w: lcjax.calibrate(w.model, w.V, [w.x]),
        TypeError,
        "apply_fn is a Flax module, CollapsibleMLP; expected a function.*Pass model.apply",
    ),
    Use(
        22,
        lambda w: lcjax.calibrate(w.apply, w.V, w.x),
        TypeError,
        r"batches is one .*expected an iterable of batches: put it in a list, \[batch\]",
    ),
    Use(
        23,
        lambda w: lcjax.calibrate(w.apply, w.V, [w.x[:, :5]]),
        CollapseError,
        r"cannot run on a batch of an array of shape \(64, 5\).*expected.*Give inputs",
    ),
    Use(
        24,
        lambda w: lcjax.calibrate(w.apply, w.V, [w.x[0]]),
        CollapseError,
        r"a single token counts.*expected.*x\[None\]",
    ),
    Use(
        25,
        lambda w: lcjax.calibrate(w.apply, w.V, [(w.x, w.y)]),
        TypeError,
        "a batch has 2 parts .*the function expects x after its variables.*for images, labels in",
    ),
    Use(
        26,
        lambda w: lcjax.calibrate(w.apply, w.V, [{"image": w.x}]),
        TypeError,
        r"a batch is a dict of image; the function expects.*batch\['image'\] for batch",
    ),
    Use(
        27,
        lambda w: lcjax.calibrate(w.apply, w.V, []),
        ValueError,
        "batches is empty: give at least one batch",
    ),
    Use(
        28,
        lambda w: lcjax.calibrate(w.apply, w.V, (each for each in ())),
        ValueError,
        "batches is empty: give at least one.*generator can be consumed only once",
    ),
    Use(
        29,
        lambda w: lcjax.plan(
            w.apply, w.V, w.metric, (each for each in [w.x]), budget=lcjax.Count(1)
        ),
        TypeError,
        "batches is a generator, which can be iterated only once.*Give a list",
    ),
    Use(
        30,
        lambda w: plan(w, None),
        TypeError,
        r"budget is a NoneType; expected one of lcjax.MaxDrop\(0.5\), .*Pass one",
    ),
    Use(
        31,
        lambda w: plan(w, (lcjax.MaxDrop(0.1), lcjax.Count(1))),
        TypeError,
        r"budget is a tuple; expected one of lcjax.MaxDrop\(0.5\), .*Pass one",
    ),
    Use(
        32,
        lambda w: plan(w, lcjax.Count(1), lambda v: np.ones(2)),
        TypeError,
        r"metric returned an array of shape \(2,\); expected one number.*Return",
    ),
    Use(
        33,
        lambda w: plan(w, lcjax.Count(1), lambda v: float("nan")),
        ValueError,
        "metric returned nan; expected a finite number, higher is better",
    ),
    Use(
        34,
        lambda w: plan(w, lcjax.Count(1), lambda v, b: 0.0),
        TypeError,
        r"metric\(v, b\) was called with the variables alone.*Close over the data",
    ),
    Use(
        35,
        lambda w: plan(w, lcjax.Count(1), 0.5),
        TypeError,
        r"metric is a float; expected a function metric\(variables\).*Wrap",
    ),
    Use(
        36,
        lambda w: plan(w, lcjax.MaxDrop(-1)),
        ValueError,
        "MaxDrop: got -1, expected at least 0, in the metric's unit",
    ),
    Use(
        39,
        lambda w: lcjax.calibrate(w.apply, w.V3, [w.x]),
        CollapseError,
        r"dense_0: the kernel is 32 wide in params, features\[0\] is 16. Give",
    ),
    Use(
        42,
        lambda w: jax.jit(lcjax.collapse)(w.V),
        CollapseError,
        "sites must be given where slopes are abstract or traced",
    ),
    Use(
        43,
        lambda w: jax.jit(lambda v: lcjax.calibrate(w.apply, v, [w.x]).train)(w.V),
        CollapseError,
        "calibrate: got traced values.*expected arrays.*Call it outside",
    ),
    Use(
        45,
        lambda w: lcjax.collapse(w.train_state),
        TypeError,
        "got TrainState, .*expected params or variables. Pass state.params",
    ),
    Use(
        46,
        lambda w: lcjax.find_sites(w.train_state),
        TypeError,
        "find_sites: got TrainState, whose optimizer state has slopes too.*Pass state.params",
    ),
    Use(
        47,
        lambda w: lcjax.calibrate(w.apply, w.V["params"], [w.x]),
        CollapseError,
        "have no params .*expected variables with a collection 'params'. .*{'params': params}",
    ),
    Use(
        49,
        lambda w: lcjax.collapse(Nnx()),
        TypeError,
        f"collapse: got a Flax NNX module, Nnx, expected {NESTED}.*Use lcjax.nnx.*trace",
    ),
    Use(
        49,
        lambda w: lcjax.find_sites(Nnx()),
        TypeError,
        "find_sites: got a Flax NNX module, Nnx.*Use lcjax.nnx",
    ),
    Use(
        49,
        lambda w: lcjax.calibrate(w.apply, Nnx(), [w.x]),
        TypeError,
        "calibrate: got a Flax NNX module, Nnx.*Use lcjax.nnx",
    ),
    Use(
        49,
        lambda w: lcjax.save("here", Nnx()),
        TypeError,
        r"save: got a Flax NNX module, Nnx, expected a tree.*Pass nnx.state\(model\)",
    ),
    Use(50, lambda w: lcjax.collapse(nnx.state(Nnx())), CollapseError, f"{NO_SITES}.*f.init"),
    Use(
        51,
        lambda w: lcjax.collapsible(Nnx()),
        TypeError,
        "fn is a Flax NNX module, Nnx.*expected a function.*nnx.split.*nnx.merge",
    ),
    Use(
        53,
        lambda w: lcjax.collapsible(w.plain),
        TypeError,
        "fn is a Flax module, Plain; expected a function.*Pass model.apply",
    ),
    Use(54, lambda w: w.f(w.PV, w.x), CollapseError, BARE),
    Use(
        55,
        lambda w: w.f(w.P, w.x[:, :5]),
        CollapseError,
        r"cannot run on the call of an array of shape \(64, 5\).*expected.*Give inputs",
    ),
    Use(
        56,
        lambda w: w.f.trace(w.P),
        TypeError,
        "the call has 0 parts .*the function expects x after its variables.*Pass",
    ),
    Use(
        59,
        lambda w: lcjax.collapse(w.P),
        CollapseError,
        "got the tree of a collapsible function.*take call.sites, call.collapse",
    ),
    Use(
        61,
        lambda w: lcjax.collapsible(lambda p, x: jnp.tanh(x) @ p["w"]).init(
            {"w": jnp.ones((8, 3))}, w.x
        ),
        CollapseError,
        "the function has no site: no Dense → activation → Dense",
    ),
    Use(
        62,
        lambda w: lcjax.collapse(with_leaf(w.V, "act_0", "slope", np.ones((8, 16)))),
        CollapseError,
        r"act_0: got a slope of shape \(8, 16\), expected \(\), the leading axes.*Give one",
    ),
    Use(
        63,
        lambda w: lcjax.collapse(with_leaf(w.V, "dense_0", "kernel", [[1.0] * 16] * 8)),
        TypeError,
        "dense_0/kernel: got float, not an array; expected NumPy or JAX arrays. Convert",
    ),
    Use(
        65,
        lambda w: lcjax.calibrate(w.apply, float16(w), [(w.x * 1000).astype(jnp.float16)]),
        CollapseError,
        "its values are not finite on this data. If it is padding",
    ),
    Use(
        66,
        lambda w: lcjax.collapse(with_leaf(w.V, "act_0", "slope", jnp.float32(jnp.nan))),
        CollapseError,
        "act_0: the slope is nan, not a finite number: .*Restore",
    ),
    Use(
        68,
        lambda w: lcjax.calibrate(w.apply, w.nan, [w.x]),
        CollapseError,
        "its values are not finite on this data",
    ),
    Use(
        69,
        lambda w: lcjax.with_linearity_penalty(1e-3, strength=0.1),
        TypeError,
        r"inner is a float; expected an optax optimizer. Pass one such as optax.adam\(1e-3\)",
    ),
    Use(
        70,
        lambda w: lcjax.with_linearity_penalty(optax.adam, strength=0.1),
        TypeError,
        r"inner is the function adam, not called yet; expected.*optax.adam\(learning_rate\)",
    ),
    Use(
        71,
        lambda w: lcjax.with_linearity_penalty(optax.adam(1e-3)),
        TypeError,
        "missing 1 required keyword-only argument: 'strength'",
    ),
    Use(
        72,
        lambda w: lcjax.with_linearity_penalty(optax.adam(1e-3), strength=-1),
        ValueError,
        "strength is -1, must be finite and at least 0",
    ),
    Use(73, lambda w: w.tx.init(w.PV), CollapseError, NO_SITES),
    Use(
        74,
        lambda w: w.tx.update(w.V, w.state),
        ValueError,
        "with_linearity_penalty needs `params`: call tx.update",
    ),
    Use(
        75,
        lambda w: lcjax.with_linearity_penalty(optax.adam(1e-3), strength=1, penalty="L1"),
        ValueError,
        "penalty is 'L1', must be 'l1' or 'l2'",
    ),
    Use(
        76,
        lambda w: lcjax.with_linearity_penalty(optax.adam(1e-3), strength=1, sites="blok*").init(
            w.V
        ),
        CollapseError,
        r"'blok\*' " + NO_MATCH,
    ),
    Use(
        77,
        lambda w: lcjax.with_linearity_penalty(
            optax.adam(1e-3), strength=1, sites=lcjax.SiteSelection(last=2.5)
        ).init(w.V),
        ValueError,
        "last is 2.5; expected a number of sites from 1 to 2.*or a fraction",
    ),
    Use(
        79,
        lambda w: lcjax.carry_opt_state(w.tx, w.state, w.compact, w.V, w.report),
        ValueError,
        "opt_state does not have the structure of .*: pass the optimizer and the params",
    ),
    Use(
        80,
        lambda w: w.tx.update(w.compact, w.state, w.compact),
        CollapseError,
        "optimizer state is of other params.*act_0.*opt_state = lcjax.carry_opt_state",
    ),
    Use(81, lambda w: lcjax.collapse(w.compact), CollapseError, "collapsed whole"),
    Use(
        83,
        lambda w: lcjax.restore("nope"),
        FileNotFoundError,
        "nope: no such checkpoint; this path does not",
    ),
    Use(
        87,
        lambda w: lcjax.save(w.compact, "here"),
        TypeError,
        r"path is a dict; expected the name of a directory.*save\(path, tree\)",
    ),
    Use(
        89,
        lambda w: lcjax.CollapsibleMLP(features=256).init(jax.random.key(0), w.x),
        TypeError,
        r"features is 256; expected the widths .*Pass a tuple such as \(256, 10\)",
    ),
    Use(
        90,
        lambda w: lcjax.CollapsibleMLP((16, 3), activation="relu").init(jax.random.key(0), w.x),
        TypeError,
        "activation is 'relu'; expected an elementwise function. Pass nn.relu",
    ),
    Use(
        91,
        lambda w: lcjax.CollapsibleMLP((16, 3), nn.softmax).init(jax.random.key(0), w.x),
        ValueError,
        "softmax uses reduce_max, reduce_sum, so it is not elementwise; expected.*Pass one",
    ),
    Use(
        92,
        lambda w: lcjax.collapse(w.V, fit=lcjax.Exact(rank="auto", tolerance=2)),
        ValueError,
        r"tolerance is 2; expected a relative error in \[0, 1\)",
    ),
    Use(
        93,
        lambda w: lcjax.collapse(w.V, fit=lcjax.Exact(rank=0)),
        ValueError,
        "rank is 0; expected None, 'auto' or a number of at least 1",
    ),
    Use(94, lambda w: lcjax.strength_for_gap(0.5, 0.2, 0), ValueError, "steps is 0, must be at le"),
    Use(
        96,
        lambda w: lcjax.collapse_sequential(w.apply, w.V, [w.x], w.metric),
        TypeError,
        r"sites is the function <lambda>; expected.*A metric comes third: \(apply_fn, variab",
    ),
    Use(
        97,
        lambda w: lcjax.collapse_sequential(w.apply, w.V, lcjax.find_sites(w.V), [w.x]),
        TypeError,
        "sites contains an array of shape.*expected paths.*order of arguments",
    ),
    Use(
        98,
        lambda w: lcjax.tabulate(w.apply, w.V, w.x),
        TypeError,
        r"inputs is an array of shape \(64, 8\); expected a list or tuple.*Pass \[x\]",
    ),
    Use(
        99,
        lambda w: lcjax.export(w.apply, w.V, w.x, "nowhere"),
        TypeError,
        r"inputs is an array of shape \(64, 8\); expected a list or tuple.*Pass \[x\]",
    ),
    Use(
        100,
        lambda w: lcjax.unstack_layers(w.V, "layers"),
        CollapseError,
        "'layers' names no module of stacked layers in params. params has act_0",
    ),
]


@pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning")  # of use 26
@pytest.mark.parametrize("case", ERRORS, ids=lambda case: str(case.number))
def test_wrong_use_raises_helpful_error(case):
    """The message says what came, what was expected and what to do."""
    with pytest.raises(case.error, match=rf"(?s){case.says}") as caught:
        case.use(world())
    assert len(str(caught.value)) < 900, "nobody reads a page"


def test_wrong_use_of_checkpoint_raises_helpful_error(tmp_path):  # 84, 85, 86 and 88
    w = world()
    lcjax.save(tmp_path / "a", w.compact)
    with pytest.raises(FileExistsError, match="a already exists; expected a new path"):
        lcjax.save(tmp_path / "a", w.compact)
    with pytest.raises(TypeError, match="a: got str, expected an array with values"):
        lcjax.save(tmp_path / "b", {"a": "text"})
    with pytest.raises(TypeError, match="metadata: .*expected a dict of strings, numbers"):
        lcjax.save(tmp_path / "b", w.compact, metadata={"a": np.ones(2)})
    with pytest.raises(CheckpointError, match="(?s)checkpoint and like differ at .*Give a like wi"):
        lcjax.restore(tmp_path / "a", like=w.V)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_collapsible_takes_split_nnx_module():  # 52
    graphdef, params = nnx.split(Nnx())
    f = lcjax.collapsible(lambda params, x: nnx.merge(graphdef, params)(x))
    assert len(f.trace(params, world().x).sites) == 1


def test_calibration_prints_that_tokens_are_few():
    w = world()
    few = lcjax.calibrate(w.apply, w.V, [w.x[:6]])
    assert "tokens to fit on for 8 inputs; expected more" in str(few) and w.stats.notes == ()


def test_find_sites_without_site_prints_what_to_do():  # 5
    assert "use f = lcjax.collapsible(apply_fn)" in str(lcjax.find_sites(world().PV))


def test_collapse_takes_path_with_collection():  # 8
    _, report = lcjax.collapse(world().V, "params/act_1", lcjax.Exact(max_gap=2.0))
    assert report.collapsed == ("act_1",)


def test_report_of_collapse_without_site_says_why():  # 11 and 57
    w = world()
    for compact, report in (lcjax.collapse(w.V), w.f.trace(w.P, w.x).collapse()):
        assert report.collapsed == () and "gap 1.0000 over 0.05" in str(report)
        assert jax.tree.structure(compact) in map(jax.tree.structure, (w.V, w.P))


def test_collapse_takes_params_without_collection():  # 16
    w = world()
    compact, _ = lcjax.collapse(w.V["params"], fit=lcjax.Exact(max_gap=2))
    assert compact.keys() == w.compact["params"].keys()


def test_plan_prints_budget_that_is_met_already_or_cannot_be_met():  # 37 and 38
    w = world()
    assert "Params(1,000,000,000): met" in str(plan(w, lcjax.Params(10**9)))
    assert "not met; this comes nearest" in str(plan(w, lcjax.Params(1)))


def test_find_sites_under_jit():  # 44
    w, seen = world(), []
    jax.jit(lambda tree: seen.append(lcjax.find_sites(tree)))(w.V)
    assert seen[0].paths == ("act_0", "act_1") and seen[0][0].gap is None


def test_save_and_restore_train_state(tmp_path):  # 48
    state = world().train_state
    lcjax.save(tmp_path / "a", state)
    restored = lcjax.restore(tmp_path / "a", like=state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)


@pytest.mark.slow
@pytest.mark.promotes  # optax.adam
def test_with_linearity_penalty_is_first_in_chain():  # 78: what follows it moves slopes off 1
    w = world()
    tx = optax.chain(lcjax.with_linearity_penalty(optax.adam(1e-3), strength=0.1), optax.clip(1.0))
    updates, _ = tx.update(w.V, tx.init(w.V), w.V)
    assert jax.tree.structure(updates) == jax.tree.structure(w.V)


def test_apply_takes_widths_from_compact_tree():  # 82: its one Dense has the module's own output
    w = world()
    np.testing.assert_array_equal(w.other.apply(w.compact, w.x), w.apply(w.compact, w.x))


def test_strength_for_gap_returns_number():  # 95
    assert lcjax.strength_for_gap(0.05, 0.2, 1000) == pytest.approx(0.00475)


# Of the same kinds.


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ((np.ones((4, 8)), False), r"batch\[1\] is False, a bool; expected .*Bind flags"),
        ((np.ones((4, 8)), "train"), r"batch\[1\] is 'train', a str; expected"),
        ((SimpleNamespace(shape=(4, 8)),), r"batch\[0\] is .* a SimpleNamespace; .*numpy.asarray"),
    ],
)
def test_calibrate_names_input_that_is_not_array(batch, says):
    w = world()
    with pytest.raises(TypeError, match=says):
        lcjax.calibrate(w.apply, w.V, [batch])
    with pytest.raises(TypeError, match=says):
        w.f.trace(w.P, w.x).calibrate([batch])


@pytest.mark.parametrize(
    "tx",
    [
        lcjax.add_linearity_penalty(0.1),
        lcjax.proximal_linearity_penalty(0.1, 0.1),
        lcjax.anneal_slopes(optax.linear_schedule(0, 1, 4)),
    ],
)
def test_update_of_compact_tree_names_carry_opt_state(tx):
    w = world()
    with pytest.raises(CollapseError, match="carry_opt_state"):
        tx.update(w.compact, tx.init(w.V), w.compact)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda w: lcjax.linearity_penalty(w.train_state), "linearity_penalty: got TrainState"),
        (lambda w: lcjax.carry_opt_state(optax.adam, 0, w.V, w.V, w.report), "tx is the function"),
        (lambda w: lcjax.CalibrationData([w.x], holdout="1"), "holdout is '1'; expected"),
        (lambda w: plan(w, lcjax.Count("1")), "Count is '1'; expected a number. Pass .* as 3"),
        (lambda w: plan(w, lcjax.Params("50%")), "Params is '50%'; expected a number. Pass"),
        (lambda w: plan(w, lcjax.Count), "budget is the class Count; expected .*Pass one"),
        (lambda w: plan(w, 0.5), "budget is a float; expected .*Pass one"),
        (lambda w: plan(w, "5%"), "budget is a str; expected .*Pass one"),
        (lambda w: plan(w, {"max_drop": 0.1}), "budget is a dict; expected .*Pass one"),
        (lambda w: lcjax.collapse(w.V, lcjax.Exact()), "sites is an Exact; .*by name: fit="),
        (lambda w: lcjax.collapse(w.V, w.stats), "sites is a Calibration; .* as calibration="),
        (lambda w: lcjax.collapse(w.V, None, w.stats), "fit: got a Calibration.*calibration=."),
        (lambda w: lcjax.collapse(w.V, fit=lcjax.Exact), "fit: got the class Exact, expected"),
        (lambda w: lcjax.collapse(w.V, calibration=[w.x]), "calibration is a list.*calibrate"),
        (lambda w: lcjax.collapse(w.V, w.metric), "sites is the function <lambda>; expected"),
        (lambda w: lcjax.collapse(w.V, lcjax.SiteSelection(last=1)), "lcjax.select_sites"),
        (lambda w: lcjax.calibrate(w.apply, w.V, [w.x], lcjax.PerUnit()), "sites is a PerUnit;"),
        (lambda w: lcjax.calibrate(w.apply, w.V, w.stats), "batches is a Calibration; expected"),
        (lambda w: w.f.trace(w.P, w.x).calibrate(w.x), "batches is one .*put it in a list"),
        (lambda w: w.f.trace(w.P, w.x).collapse(fit="exact"), "fit: got 'exact', expected"),
        (lambda w: lcjax.sensitivity(w.apply, w.V, [w.x], w.metric), "metric is a list; expected"),
        (lambda w: lcjax.linearity_penalty(w.V, sites=3), "sites is 3, an int; expected"),
        (
            lambda w: lcjax.with_linearity_penalty(optax.sgd(1.0), strength="1"),
            "strength is '1'; expected",
        ),
        (lambda w: lcjax.restore(w.V), "path is a dict; expected the name of a directory"),
        (lambda w: lcjax.find_sites(w.V, apply_fn=w.apply, inputs=w.x), r"Pass \[x\]"),
        (lambda w: lcjax.find_sites(w.V, apply_fn=w.model, inputs=[w.x]), "Pass model.apply"),
        (lambda w: lcjax.calibrate(w.apply, w.V, 3), "batches is an int; expected an iterable"),
        (lambda w: lcjax.CollapsibleActivation("relu").init(jax.random.key(0), w.x), "nn.relu"),
        (lambda w: lcjax.CollapsibleGLU(4, 4, "silu").init(jax.random.key(0), w.x), "nn.silu"),
    ],
)
def test_wrong_type_raises_helpful_error(use, says):
    with pytest.raises(TypeError, match=says):
        use(world())


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda w: lcjax.collapse(w.V, fit=lcjax.LeastSquares()), "calibration with it. Make one"),
        (
            lambda w: lcjax.collapse(w.V, fit=lcjax.PerUnit(), calibration=w.stats),
            "fit is PerUnit.* the calibration is for LeastSquares.* Leave fit out",
        ),
        (
            lambda w: lcjax.calibrate(w.apply, w.V, [w.x], fit=lcjax.Exact()),
            "fit: got Exact.*, which takes no data; expected .*call lcjax.collapse",
        ),
        (
            lambda w: lcjax.abstract_collapse(w.V, "act_0", lcjax.LeastSquares()),
            "whose shapes depend on data; expected .*Collapse",
        ),
    ],
)
def test_fit_rejects_calibration_that_does_not_belong_to_it(use, says):
    with pytest.raises(ValueError, match=says):
        use(world())


def test_sites_of_a_generator_or_plan_or_find_sites_are_paths():
    w, fit = world(), lcjax.Exact(max_gap=2)
    some, sites = (path for path in ["act_1"]), lcjax.find_sites(w.V)
    assert lcjax.collapse(w.V, some, fit)[1].collapsed == ("act_1",)
    taken = plan(w, lcjax.Count(1)).sites
    assert lcjax.collapse(w.V, plan(w, lcjax.Count(1)), fit)[1].collapsed == taken
    assert lcjax.collapse(w.V, sites[1], fit)[1].collapsed == ("act_1",)
    assert lcjax.select_sites(w.V, sites=sites) == ["act_0", "act_1"]
    assert lcjax.SiteSelection(sites=plan(w, lcjax.Count(1))).sites == taken


def test_calibrate_adds_note_to_error_of_function():
    w = world()

    def broken(variables, x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        lcjax.calibrate(broken, w.V, [w.x])
    assert "on a batch of an array of shape (64, 8)" in "".join(caught.value.__notes__)
