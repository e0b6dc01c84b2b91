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
    w.compact, w.report = lcjax.collapse(w.V, threshold=2.0)
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


def plan(w, **asked):
    return lcjax.plan(w.apply, w.V, asked.pop("metric", w.metric), [w.x], progress=False, **asked)


def float16(w):
    return jax.tree.map(lambda leaf: (leaf * 60000).astype(jnp.float16), w.V)


class Use(NamedTuple):
    """A wrong use, and the error that it has to raise."""

    number: int
    use: object
    error: type[Exception]
    says: str


NESTED = "nested dicts"
NO_SITES = "no sites: the tree holds no leaf named `slope`.*lcjax.collapsible"
NO_MATCH = "matches no site. The sites are: act_0, act_1. Name some of them"
BARE = "params: got a mapping of .*wanted a mapping of 'model', 'slopes' and 'fused'. Pass"

ERRORS = [
    Use(1, lambda w: lcjax.collapse(w.model), TypeError, "got CollapsibleMLP.*model.init"),
    Use(2, lambda w: lcjax.collapse(None), TypeError, f"{NESTED}.*got NoneType. Pass"),
    Use(3, lambda w: lcjax.collapse({}), CollapseError, NO_SITES),
    Use(4, lambda w: lcjax.collapse(w.PV), CollapseError, NO_SITES),
    Use(6, lambda w: lcjax.collapse(w.V, "act_9"), CollapseError, "'act_9' " + NO_MATCH),
    Use(7, lambda w: lcjax.collapse(w.V, "Act_1"), CollapseError, "'Act_1' .*capitals count"),
    Use(9, lambda w: lcjax.collapse(w.V, sites=1), TypeError, "sites is 1, an int; expected paths"),
    Use(10, lambda w: lcjax.collapse(w.V, [0, 1]), TypeError, "sites holds an int; expected paths"),
    Use(12, lambda w: lcjax.collapse(w.V, threshold=-1), ValueError, "is -1, must be at least 0"),
    Use(
        13,
        lambda w: lcjax.collapse(w.V, threshold="5%"),
        TypeError,
        "threshold is '5%'; expected a number. Pass one such as 0.05",
    ),
    Use(
        14,
        lambda w: lcjax.collapse(w.V, threshold=float("nan")),
        ValueError,
        "threshold is nan, must be at least 0",
    ),
    Use(15, lambda w: lcjax.collapse(w.V, 0.1), TypeError, "sites is 0.1, a float.*threshold=0.1"),
    Use(
        17,
        lambda w: w.model.apply(w.compact["params"], w.x),
        CollapseError,
        "hold no params of this module; expected .*Pass what init returned, or {'params': params}",
    ),
    Use(
        18,
        lambda w: lcjax.collapse(w.V, fit="least_squares"),
        ValueError,
        "fit is 'least_squares', must be .*lcjax.calibrate.*then fit=stats",
    ),
    Use(19, lambda w: lcjax.collapse(w.V, fit="lsq"), ValueError, "fit is 'lsq', must be .*stats"),
    Use(20, lambda w: lcjax.calibrate(w.V, [w.x]), TypeError, "missing 1 .* argument: 'batches'"),
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
        r"batches is one .*wanted an iterable of batches: put it in a list, \[batch\]",
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
        lambda w: lcjax.plan(w.apply, w.V, w.metric, (each for each in [w.x]), count=1),
        TypeError,
        "batches is a generator, which can be gone through only once.*Give a list",
    ),
    Use(30, lambda w: plan(w), ValueError, "wanted one budget, target_params.*; got none"),
    Use(
        31,
        lambda w: plan(w, max_drop=0.1, count=1),
        ValueError,
        "wanted one budget, .*; got max_drop and count",
    ),
    Use(
        32,
        lambda w: plan(w, metric=lambda v: np.ones(2), count=1),
        TypeError,
        r"metric returned an array of shape \(2,\); expected one number.*Return",
    ),
    Use(
        33,
        lambda w: plan(w, metric=lambda v: float("nan"), count=1),
        ValueError,
        "metric returned nan, wanted a finite number, higher is better",
    ),
    Use(
        34,
        lambda w: plan(w, metric=lambda v, b: 0.0, count=1),
        TypeError,
        r"metric\(v, b\) was called with the variables alone.*Close over the data",
    ),
    Use(
        35,
        lambda w: plan(w, metric=0.5, count=1),
        TypeError,
        r"metric is a float; expected a function metric\(variables\).*Wrap",
    ),
    Use(36, lambda w: plan(w, max_drop=-1), ValueError, "max_drop is -1, must be at least 0, in"),
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
        lambda w: jax.jit(lambda v: lcjax.calibrate(w.apply, v, [w.x]).fitted)(w.V),
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
        "find_sites: got TrainState, whose optimizer state holds slopes too.*Pass state.params",
    ),
    Use(
        47,
        lambda w: lcjax.calibrate(w.apply, w.V["params"], [w.x]),
        CollapseError,
        "hold no params .*expected variables with a collection 'params'. .*{'params': params}",
    ),
    Use(
        49,
        lambda w: lcjax.collapse(Nnx()),
        TypeError,
        f"{NESTED}.*got Nnx.*NNX.*lcjax.collapsible",
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
        r"act_0: slope has shape \(8, 16\), wanted \(\), the leading axes of dense_0's kernel",
    ),
    Use(
        63,
        lambda w: lcjax.collapse(with_leaf(w.V, "dense_0", "kernel", [[1.0] * 16] * 8)),
        TypeError,
        "dense_0/kernel: got float, no array; expected NumPy or JAX arrays. Convert",
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
        lambda w: lcjax.with_linearity_penalty(optax.adam(1e-3), strength=1, where="blok*").init(
            w.V
        ),
        CollapseError,
        r"'blok\*' " + NO_MATCH,
    ),
    Use(
        77,
        lambda w: lcjax.with_linearity_penalty(optax.adam(1e-3), strength=1, last=2.5).init(w.V),
        ValueError,
        "last is 2.5; wanted a number of sites from 1 to 2.*or a fraction",
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
    Use(83, lambda w: lcjax.restore("nope"), FileNotFoundError, "nope: no such checkpoint; there"),
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
        lambda w: lcjax.collapse(w.V, threshold=2, rank="auto", tolerance=2),
        ValueError,
        r"tolerance is 2, must be in \[0, 1\): a relative error",
    ),
    Use(
        93,
        lambda w: lcjax.collapse(w.V, threshold=2, rank=0),
        ValueError,
        "rank is 0, must be None, 'auto' or a number of at least 1",
    ),
    Use(94, lambda w: lcjax.strength_for_gap(0.5, 0.2, 0), ValueError, "steps is 0, must be at le"),
    Use(
        96,
        lambda w: lcjax.sensitivity(w.apply, w.V, w.metric, [w.x]),
        TypeError,
        r"sites is the function <lambda>; expected.*sensitivity\(apply_fn, variables, sites, met",
    ),
    Use(
        97,
        lambda w: lcjax.collapse_sequential(w.apply, w.V, lcjax.find_sites(w.V), [w.x]),
        TypeError,
        "sites holds an array of shape.*expected paths.*order of arguments",
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
        "'layers' names no module of stacked layers in params. params holds act_0",
    ),
]


@pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning")  # of use 26
@pytest.mark.parametrize("case", ERRORS, ids=lambda case: str(case.number))
def test_a_wrong_use_says_what_came_what_was_expected_and_what_to_do(case):
    with pytest.raises(case.error, match=rf"(?s){case.says}") as caught:
        case.use(world())
    assert len(str(caught.value)) < 900, "nobody reads a page"


def test_wrong_uses_of_checkpoints(tmp_path):  # 84, 85, 86 and 88
    w = world()
    lcjax.save(tmp_path / "a", w.compact)
    with pytest.raises(FileExistsError, match="a exists and nothing is ever overwritten"):
        lcjax.save(tmp_path / "a", w.compact)
    with pytest.raises(TypeError, match="a: got str, wanted an array with values"):
        lcjax.save(tmp_path / "b", {"a": "text"})
    with pytest.raises(TypeError, match="metadata: .*wanted a dict that JSON can hold"):
        lcjax.save(tmp_path / "b", w.compact, metadata={"a": np.ones(2)})
    with pytest.raises(CheckpointError, match="(?s)checkpoint and like differ at .*Give a like wi"):
        lcjax.restore(tmp_path / "a", like=w.V)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_nnx_module_that_is_split_is_a_function_of_its_params():  # 52
    graphdef, params = nnx.split(Nnx())
    f = lcjax.collapsible(lambda params, x: nnx.merge(graphdef, params)(x))
    assert len(f.trace(params, world().x).sites) == 1


def test_statistics_say_before_a_fit_that_tokens_are_few():
    w = world()
    few = lcjax.calibrate(w.apply, w.V, [w.x[:6]])
    assert "tokens to fit on for 8 inputs; expected more" in str(few) and w.stats.notes == ()


def test_no_sites_print_what_to_do():  # 5
    assert "use f = lcjax.collapsible(apply_fn)" in str(lcjax.find_sites(world().PV))


def test_whole_paths_name_sites_too():  # 8
    _, report = lcjax.collapse(world().V, "params/act_1", threshold=2.0)
    assert report.collapsed == ("act_1",)


def test_a_collapse_that_takes_no_site_says_why_in_its_report():  # 11 and 57
    w = world()
    for compact, report in (lcjax.collapse(w.V), w.f.trace(w.P, w.x).collapse()):
        assert report.collapsed == () and "gap 1.0000 over 0.05" in str(report)
        assert jax.tree.structure(compact) in map(jax.tree.structure, (w.V, w.P))


def test_params_without_their_collection_collapse_alike():  # 16
    w = world()
    compact, _ = lcjax.collapse(w.V["params"], threshold=2)
    assert compact.keys() == w.compact["params"].keys()


def test_budgets_that_are_met_already_or_cannot_be_say_so():  # 37 and 38
    w = world()
    assert "target_params=1,000,000,000: met" in str(plan(w, target_params=10**9))
    assert "not met; this comes nearest" in str(plan(w, target_params=1))


def test_sites_are_found_under_jit():  # 44
    w, seen = world(), []
    jax.jit(lambda tree: seen.append(lcjax.find_sites(tree)))(w.V)
    assert seen[0].paths == ("act_0", "act_1") and seen[0][0].gap is None


def test_a_train_state_can_be_saved(tmp_path):  # 48
    state = world().train_state
    lcjax.save(tmp_path / "a", state)
    restored = lcjax.restore(tmp_path / "a", like=state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_collapsing_may_stand_first_in_a_chain():  # 78: what follows it moves slopes off 1
    w = world()
    tx = optax.chain(lcjax.with_linearity_penalty(optax.adam(1e-3), strength=0.1), optax.clip(1.0))
    updates, _ = tx.update(w.V, tx.init(w.V), w.V)
    assert jax.tree.structure(updates) == jax.tree.structure(w.V)


def test_widths_come_from_a_compact_tree():  # 82: its one Dense has the module's own output
    w = world()
    np.testing.assert_array_equal(w.other.apply(w.compact, w.x), w.apply(w.compact, w.x))


def test_the_least_strength_is_a_number():  # 95
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
def test_what_is_no_array_in_a_batch_is_named(batch, says):
    w = world()
    for calibrate, tree in ((functools.partial(lcjax.calibrate, w.apply), w.V),):
        with pytest.raises(TypeError, match=says):
            calibrate(tree, [batch])


@pytest.mark.parametrize(
    "tx",
    [
        lcjax.add_linearity_penalty(0.1),
        lcjax.proximal_linearity_penalty(0.1, 0.1),
        lcjax.anneal_slopes(optax.linear_schedule(0, 1, 4)),
    ],
)
def test_every_transform_names_carry_opt_state(tx):
    w = world()
    with pytest.raises(CollapseError, match="carry_opt_state"):
        tx.update(w.compact, tx.init(w.V), w.compact)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda w: lcjax.linearity_penalty(w.train_state), "linearity_penalty: got TrainState"),
        (lambda w: lcjax.carry_opt_state(optax.adam, 0, w.V, w.V, w.report), "tx is the function"),
        (lambda w: lcjax.calibrate(w.apply, w.V, [w.x], holdout="1"), "holdout is '1'; expected"),
        (lambda w: plan(w, count="1"), "count is '1'; expected a number"),
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
def test_the_same_mistakes_elsewhere(use, says):
    with pytest.raises(TypeError, match=says):
        use(world())


def test_errors_of_the_function_itself_stay_what_they_are():
    w = world()

    def broken(variables, x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        lcjax.calibrate(broken, w.V, [w.x])
    assert "on a batch of an array of shape (64, 8)" in "".join(caught.value.__notes__)
