"""Trees, params and options that a traced function rejects."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import lcjax
from lcjax import CollapseError
from tests.helpers.functions import CHAIN, PAIR, X, chain, pair, sloped

PAIRED = lcjax.collapsible(pair(nn.relu))
DEEP = PAIRED.init(PAIR, X)
COMPACT, _ = PAIRED.trace(sloped(DEEP, 1), X).collapse()
(KEY,) = COMPACT["fused"]
WRONG = {
    "bare params": (
        PAIR,
        "got a mapping of .* expected a mapping of 'model', 'slopes' and 'fused'",
    ),
    "no mapping": (X, "got ArrayImpl, expected a mapping"),
    "another model's slopes": (
        DEEP | {"slopes": {"up": {"slope": jnp.zeros(())}}},
        r"^up: has a slope in this tree, but the function has no such site \(its sites: w1\)",
    ),
    "a vector of slopes": (
        DEEP | {"slopes": {"w1": {"slope": jnp.ones(3)}}},
        r"^w1: got a slope of shape \(3,\), expected \(\)",
    ),
    "another model's entry": (
        COMPACT | {"fused": {KEY.replace("w1 {", "up {"): COMPACT["fused"][KEY]}},
        "^up: is fused in this tree, but the function has no such site",
    ),
    "no key of ours": (
        COMPACT | {"fused": {"w1": COMPACT["fused"][KEY]}},
        "^fused/w1: got a key that no collapse",
    ),
    "another width": (
        COMPACT | {"fused": {KEY: {"kernel": jnp.ones((7, 4))}}},
        r"got a kernel of \(7, 4\), expected \(6, 4\)",
    ),
    "half collapsed": (
        COMPACT | {"model": PAIR},
        "^model/b1: the leaf is there, and an entry of `fused` says that it was fused away",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_call_rejects_tree(name):
    tree, message = WRONG[name]
    with pytest.raises(CollapseError, match=message):
        PAIRED(tree, X)


def test_call_without_fused_part_adds_note_to_error():
    with pytest.raises(KeyError) as error:
        PAIRED(COMPACT | {"fused": {}}, X)
    assert "a compact tree without its part `fused`?" in "".join(error.value.__notes__)


def test_collapse_rejects_wrong_uses():
    with pytest.raises(CollapseError, match="no site is left: w1 collapsed already"):
        PAIRED.trace(COMPACT, X).collapse()
    f = lcjax.collapsible(chain)
    some, _ = f.trace(sloped(f.init(CHAIN, X), 1), X).collapse("w1")
    with pytest.raises(CollapseError, match="^w1: is collapsed already in this tree"):
        f.trace(some, X).collapse(["w1", "w2"])
    with pytest.raises(CollapseError, match="'up' matches no site. The sites are: w1"):
        PAIRED.trace(DEEP, X).collapse("up")
    with pytest.raises(CollapseError, match="w1: gap is 1 .* over max_gap 0.05"):
        PAIRED.trace(DEEP, X).collapse("w1")
    with pytest.raises(ValueError, match="max_gap is -1"):
        PAIRED.trace(DEEP, X).collapse(fit=lcjax.Exact(max_gap=-1))
    with pytest.raises(CollapseError, match="take call.sites, call.collapse"):
        lcjax.collapse(DEEP)
    with pytest.raises(CollapseError, match="slopes/w1: got ShapeDtypeStruct.* expected an array"):
        PAIRED(jax.eval_shape(lambda: DEEP), X)
    nan = DEEP | {"slopes": {"w1": {"slope": jnp.nan}}}
    with pytest.raises(CollapseError, match="w1: the slope is nan"):
        PAIRED.trace(nan, X).collapse()


def test_init_rejects_other_params_and_functions_without_sites():
    with pytest.raises(
        CollapseError, match="act: got .* in params, expected an array.*eqx.partition"
    ):
        lcjax.collapsible(lambda p, x: p["act"](x @ p["w1"])).init(PAIR | {"act": nn.relu}, X)
    with pytest.raises(CollapseError, match="has no site(.|\n)*no Dense feeds another"):
        lcjax.collapsible(lambda p, x: x @ p["w1"]).init(PAIR, X)
