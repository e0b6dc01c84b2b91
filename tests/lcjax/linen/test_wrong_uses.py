"""Wrong uses of `lcjax.linen.Collapsed`: what each says, and the uses like them that are right."""

import flax.linen as nn
import jax
import pytest

import lcjax
from lcjax.linen import Collapsed
from tests.helpers.functions import close
from tests.lcjax.linen.models import Classifier

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(2), (8, 4))


class Layers(nn.Module):
    """Pairs one after another, a part of which `depth` leaves out of a call."""

    number: int

    @nn.compact
    def __call__(self, x, depth=3, train=False):
        for i in range(min(depth, self.number)):
            h = nn.gelu(nn.Dense(16, name=f"up_{i}")(x))
            x = x + nn.Dense(4, name=f"down_{i}")(nn.Dropout(0.5, deterministic=not train)(h))
        return x

    def first(self, x):
        return self(x, depth=1)


class WithTower(nn.Module):
    """A model with a pair that it runs for an optional input."""

    @nn.compact
    def __call__(self, x, other=None):
        run = lambda i, x: nn.Dense(4, name=f"down_{i}")(nn.relu(nn.Dense(9, name=f"up_{i}")(x)))
        return run(0, x) if other is None else run(0, x) + run(1, other)


@pytest.fixture(scope="module")
def trees():
    """The model's own variables, with slopes, and compact: of three layers."""
    own = jax.jit(Layers(3).init)(KEY, X)
    call = Collapsed(Layers(3)).trace(own, X)
    compact, _ = call.collapse(calibration=call.calibrate([X]))
    return {"own": own, "slopes": call.variables, "compact": compact}


@pytest.mark.parametrize("form", ["slopes", "compact"])
def test_tree_of_a_model_with_more_layers_is_refused(form, trees):
    module = Collapsed(Layers(2))
    message = "up_2: has a slope or is fused in this tree.*Layers runs up_[01] but not up_2; expect"
    with pytest.raises(lcjax.CollapseError, match=message):
        module.apply(trees[form], X)
    with pytest.raises(lcjax.CollapseError, match=message):
        module.trace(trees[form], X, train=False)


@pytest.mark.parametrize("form", ["own", "slopes", "compact"])
def test_tree_of_a_model_with_fewer_layers_is_refused(form, trees):
    module = Collapsed(Layers(4))
    message = 'run on the call of an array.*Could not find parameter.*"/up_3". Give .*this model'
    with pytest.raises(lcjax.CollapseError, match=message):
        module.apply(trees[form], X, depth=4)
    with pytest.raises(lcjax.CollapseError, match=message):
        module.trace(trees[form], X, 4)


@pytest.mark.slow
def test_a_part_of_the_model_may_run(trees):
    module, compact = Collapsed(Layers(3)), trees["compact"]
    first = module.apply(compact, X, depth=1)
    close(module.apply(compact, X, method="first"), first)
    assert module.trace(trees["slopes"], X, 1).sites.paths == ("up_0",)
    towers = Collapsed(WithTower())
    variables = towers.init(KEY, X, X)
    call = towers.trace(variables, X, X)
    compact, report = call.collapse(calibration=call.calibrate([(X, X)]))
    assert report.collapsed == ("up_0", "up_1")
    assert towers.apply(compact, X).shape == (8, 4)


@pytest.mark.parametrize("form", ["own", "slopes", "compact"])
def test_calls_that_cannot_run(form, trees):
    module, variables = Collapsed(Layers(3)), trees[form]
    for run in (module.apply, module.trace):
        with pytest.raises(TypeError, match=r"the call has 0 parts \(nothing\).*expects x, "):
            run(variables)
        with pytest.raises(lcjax.CollapseError, match=r"shape \(8, 3\).*kernel.*shapes that init"):
            run(variables, X[:, :3])
        with pytest.raises(lcjax.CollapseError, match=r'PRNG for "dropout"\. Pass rngs='):
            run(variables, X, train=True)


@pytest.mark.parametrize("form", ["own", "slopes", "compact"])
def test_variables_without_a_collection(form, trees):
    module = Collapsed(Layers(3))
    for run in (module.apply, module.trace):
        with pytest.raises(lcjax.CollapseError, match="collection 'params'"):
            run(trees[form]["params"], X)
        with pytest.raises(lcjax.CollapseError, match="collection 'params'"):
            run({}, X)


@pytest.mark.slow
def test_state_is_missing_or_cannot_change():
    module = Collapsed(Classifier())
    variables = module.init(KEY, X)
    own = {"params": variables["params"]["model"]}
    for run in (module.apply, module.trace):
        for tree in (own, {"params": variables["params"]}):
            with pytest.raises(lcjax.CollapseError, match="collection 'batch_stats'"):
                run(tree, X)
        with pytest.raises(lcjax.CollapseError, match=r'"batch_stats" is immutable\. Pass mutable'):
            run(variables, X, train=True)


def test_collapsed_in_collapsed_is_refused():
    nested = Collapsed(Collapsed(Layers(1)))
    for use in (lambda: nested.init(KEY, X), lambda: nested.trace({}, X)):
        with pytest.raises(lcjax.CollapseError, match="model: got a Collapsed module, expected"):
            use()
