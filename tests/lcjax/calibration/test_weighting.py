"""Tokens that weigh by how much errors there change the model's output."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax import CollapseError
from lcjax.calibration.weighting import directions

D, CLASSES, TOKENS = 6, 2, 5
X = np.random.default_rng(0).normal(size=(160, TOKENS, D)).astype(np.float32)


class Classifier(nn.Module):
    """Classifies rows by a sum over some tokens of a residual MLP."""

    classes: int = CLASSES
    read: tuple[float, ...] = (1.0, 0.5, 0.0, 0.0, 2.0)

    @nn.compact
    def __call__(self, x):
        x = x + lcjax.CollapsibleMLP((12, D), nn.relu, name="mlp")(x)
        x = jnp.einsum("btd,t->bd", x, jnp.asarray(self.read))
        return nn.Dense(self.classes, name="head")(jnp.tanh(x))


MODEL = Classifier()
VARIABLES = MODEL.init(jax.random.key(0), X[:1])


def expected():
    """Values of the MLP and the weights of its tokens, written out."""
    params = VARIABLES["params"]
    mlp = lcjax.CollapsibleMLP((12, D), nn.relu)
    t = mlp.apply({"params": params["mlp"]}, X)
    read = jnp.asarray(MODEL.read)

    def logits(t, x):
        y = jnp.tanh(jnp.einsum("td,t->d", x + t, read))
        return y @ params["head"]["kernel"] + params["head"]["bias"]

    jacobian = jax.vmap(jax.jacobian(logits))(t, X)
    squares = ((jacobian[:, 1] - jacobian[:, 0]) ** 2).sum(-1)
    return np.asarray(t), np.asarray(squares / squares.sum(1, keepdims=True))


def of_tree(data):
    return lcjax.calibrate(MODEL.apply, VARIABLES, data)


def of_traced(data):
    return lcjax.collapsible(MODEL.apply).trace(VARIABLES, X[:1]).calibrate(data)


@pytest.mark.parametrize("calibrate", [of_tree, of_traced])
@pytest.mark.parametrize("rows", [160, 32])
def test_tokens_weigh_by_squared_gradients_of_the_logits_difference(calibrate, rows):
    batches = [X[i : i + rows] for i in range(0, len(X), rows)]
    stats = calibrate(lcjax.CalibrationData(batches, holdout=0, weighting="influence"))
    ((_, got),) = stats.train.items()
    t, weights = expected()
    w = weights.reshape(-1).astype(np.float64)
    x, t = (np.float64(each.reshape(-1, D)) for each in (X, t))
    assert (weights[:, 2:4] == 0).all() and (weights[:, 4] > 0).all()
    tokens = w.sum() ** 2 / (w**2).sum()
    assert got.count == pytest.approx(tokens, rel=1e-4) and tokens < 3 * len(X)
    mean_x, mean_t = (np.average(each, axis=0, weights=w) for each in (x, t))
    np.testing.assert_allclose(got.mean_x, mean_x, atol=1e-5)
    covariance = np.einsum("n,ni,nj->ij", w / w.sum(), x - mean_x, t - mean_t)
    np.testing.assert_allclose(got.xt / got.count, covariance, atol=1e-5)


def test_masked_rows_have_no_weight():
    keep = np.arange(len(X)) % 2 == 0
    x = np.where(keep[:, None, None], X, 1e6).astype(np.float32)
    data = lcjax.CalibrationData(
        [(x, keep)], holdout=0, mask=lambda x, keep: keep[:, None], weighting="influence"
    )
    apply = lambda variables, x, keep: MODEL.apply(variables, x)
    got = lcjax.calibrate(apply, VARIABLES, data)
    want = lcjax.calibrate(
        MODEL.apply,
        VARIABLES,
        lcjax.CalibrationData([X[keep]], holdout=0, weighting="influence"),
    )
    for part in ("count", "mean_x", "xx", "xt"):
        one, other = (getattr(each.train["mlp/dense_1"], part) for each in (got, want))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "fit", [lcjax.LeastSquares(), lcjax.Units(4), lcjax.LowRank(2), lcjax.PerUnit()]
)
def test_fits_of_a_classifier_of_one_token_are_nearer_to_its_answers(fit):
    model = Classifier(read=(1.0, 0.0, 0.0, 0.0, 0.0))
    x = X * np.array([1, 3, 3, 3, 3], np.float32)[:, None]

    def divergence(weighting):
        data = lcjax.CalibrationData([x], weighting=weighting)
        compact, _ = lcjax.collapse_sequential(model.apply, VARIABLES, data, fit=fit)
        p, q = (jax.nn.log_softmax(model.apply(each, x)) for each in (VARIABLES, compact))
        return float(jnp.mean(jnp.sum(jnp.exp(p) * (p - q), -1)))

    assert divergence("influence") < 0.9 * divergence("equal")


def test_candidates_among_units_are_weighted_too():
    data = lcjax.CalibrationData([X], weighting="influence")
    fit = lcjax.Units(3, candidates=6)
    stats = lcjax.calibrate(MODEL.apply, VARIABLES, data, fit=fit)
    assert len(stats.train["mlp/dense_1"].units) == 6
    compact, _ = lcjax.collapse(VARIABLES, calibration=stats)
    assert compact["params"]["mlp"]["dense_1"]["kernel"].shape == (3, D)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_random_directions_favor_no_difference_of_classes(classes):
    v = np.asarray(directions(jax.random.key(0), (40_000, classes)), np.float64)
    np.testing.assert_allclose(v.sum(1), 0, atol=2e-3)
    want = (np.eye(classes) - 1 / classes) / (classes - 1)
    np.testing.assert_allclose(v.T @ v / len(v), want, atol=0.02)


@pytest.mark.parametrize(
    "output",
    [lambda y: y[..., :1], lambda y: y[:, 0], lambda y: {"a": y, "b": jnp.tanh(y)}],
    ids=["one class", "no class", "several arrays"],
)
def test_any_outputs_of_floats_weigh_tokens(output):
    data = lcjax.CalibrationData([X], holdout=0, weighting="influence")
    apply = lambda variables, x: output(MODEL.apply(variables, x))
    count = float(lcjax.calibrate(apply, VARIABLES, data).train["mlp/dense_1"].count)
    assert len(X) < count < 3 * len(X)


@pytest.mark.parametrize("output", [lambda y: jnp.argmax(y, -1), lambda y: jnp.sum(y)])
def test_outputs_that_are_not_floats_of_rows_are_refused(output):
    data = lcjax.CalibrationData([X], weighting="influence")
    apply = lambda variables, x: output(MODEL.apply(variables, x))
    with pytest.raises(TypeError, match='weighting="influence" needs a model that returns arrays'):
        lcjax.calibrate(apply, VARIABLES, data)


def test_values_that_an_earlier_collapse_replaced_have_no_weights():
    call = lcjax.collapsible(MODEL.apply).trace(VARIABLES, X)
    (path,) = call.sites.paths
    compact, _ = call.collapse_sequential([X], fit={path: lcjax.Units(8)})
    again = lcjax.collapsible(MODEL.apply).trace(compact, X)
    data = lcjax.CalibrationData([X], weighting="influence")
    fewer = again.calibrate(data, fit=lcjax.Units(4))
    assert len(X) < float(fewer.train[path].count) < 3 * len(X)
    with pytest.raises(CollapseError, match="an earlier collapse of a neighbour replaced it"):
        again.calibrate(data, fit=lcjax.PerUnit())


def test_rows_of_one_token_count_alike():
    model = lcjax.CollapsibleMLP((12, 3), nn.relu)
    x = X[:, 0]
    variables = model.init(jax.random.key(0), x)
    counts = [
        lcjax.calibrate(
            model.apply, variables, lcjax.CalibrationData([x], holdout=0, weighting=weighting)
        ).train["dense_1"]
        for weighting in ("equal", "influence")
    ]
    for one, other in zip(*map(jax.tree.leaves, counts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting is 'uniform'; expected 'equal' or 'influence'"):
        lcjax.CalibrationData([X], weighting="uniform")


def test_batches_may_have_keys_and_no_rows():
    def apply(variables, x, key):
        return MODEL.apply(variables, x)

    batches = [(X, jax.random.key(3)), (X[:0], jax.random.key(4))]
    data = lcjax.CalibrationData(batches, weighting="influence", progress=False)
    stats = lcjax.calibrate(apply, VARIABLES, data)
    (moments,) = stats.train.values()
    assert 10 < moments.count < len(X) * TOKENS
