"""Rules that name sites: globs and regular expressions, the first match of a mapping, the log."""

import logging
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import lcjax
from lcjax import CollapseError
from lcjax.structure.choice import assign
from lcjax.tree.rules import matching

PATHS = [f"block_{i}/mlp/act_0" for i in (0, 1, 10)]
MODEL = lcjax.CollapsibleMLP((8, 8, 8, 4), nn.relu)
X = jax.random.normal(jax.random.key(0), (32, 4))


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(1), X)


@pytest.mark.parametrize(
    "rule, found",
    [
        ("block_1/mlp/act_0", [1]),
        ("block_1*", [1, 2]),
        ("params/block_1/*", [1]),
        (re.compile(r"block_\d/.*"), [0, 1]),
        (re.compile(r"block_(0|10)/mlp/act_\d+"), [0, 2]),
        (re.compile("(?i)BLOCK_0.*"), [0]),
    ],
)
def test_rule_matches_whole_paths(rule, found):
    assert matching(PATHS, rule) == [PATHS[i] for i in found]


@pytest.mark.parametrize("rule", ["block_2/*", re.compile("block_1"), re.compile("mlp/.*")])
def test_rule_that_matches_nothing_raises_with_the_paths(rule):
    message = "matches no site. The sites are: block_0/mlp/act_0, block_1/mlp/act_0, block_10/"
    with pytest.raises(CollapseError, match=message):
        matching(PATHS, rule)


def test_sites_takes_regular_expressions_everywhere(variables):
    rule = re.compile("act_[12]")
    compact, report = lcjax.collapse(variables, rule, lcjax.Exact(max_gap=1))
    assert report.collapsed == ("act_1", "act_2")
    stats = lcjax.calibrate(MODEL.apply, variables, [X], [rule, "act_0"])
    assert stats.sites == ("act_0", "act_1", "act_2")
    assert lcjax.select_sites(variables["params"], sites=rule) == ["act_1", "act_2"]
    assert lcjax.select_sites(variables["params"], where=rule, last=1) == ["act_2"]
    f = lcjax.collapsible(lambda p, x: nn.relu(x @ p["up"]) @ p["down"])
    call = f.trace({"up": jnp.ones((4, 8)), "down": jnp.ones((8, 4))}, X)
    assert call.collapse(re.compile("u."), lcjax.Exact(max_gap=1))[1].collapsed == ("up",)
    with pytest.raises(CollapseError, match="'u' matches no site. The sites are: up"):
        call.collapse(re.compile("u"), lcjax.Exact(max_gap=1))


def test_owner_of_a_slope_is_named_by_a_regular_expression():
    params = {"own": {"slope": jnp.zeros(())}, "mine": {"slope": jnp.zeros(())}}
    assert lcjax.select_sites(params, sites=re.compile("mi.*")) == ["mine"]


def test_first_match_gives_the_fit(variables):
    sites = lcjax.find_sites(variables)
    rules = {"act_1": 1, re.compile("act_[01]"): 2, "*": 3}
    assert assign(sites, rules) == {"act_1": 1, "act_0": 2, "act_2": 3}
    fits = {re.compile("act_2"): lcjax.Units(2), "*": lcjax.LeastSquares()}
    _, report = lcjax.collapse_sequential(MODEL.apply, variables, [X], fit=fits)
    assert report.collapsed == ("act_0", "act_1")
    with pytest.raises(CollapseError, match="'act_7' matches no site"):
        lcjax.collapse_sequential(MODEL.apply, variables, [X], fit=fits | {"act_7": lcjax.Units(1)})


def test_fits_of_rules_apply_to_checkpoints(variables, tmp_path):
    lcjax.save(tmp_path / "deep", variables)
    fits = {re.compile("act_[02]"): lcjax.Exact(max_gap=1)}
    report = lcjax.collapse_checkpoint(tmp_path / "deep", tmp_path / "out", fit=fits)
    assert report.collapsed == ("act_0", "act_2")


def test_matches_of_a_rule_are_logged_once(caplog):
    rule = re.compile("block_[01]/mlp/act_0|logged")
    with caplog.at_level(logging.INFO, logger="lcjax"):
        for _ in range(2):
            matching(PATHS, rule)
            matching(PATHS, PATHS[0])
    assert [record.getMessage() for record in caplog.records] == [
        "'block_[01]/mlp/act_0|logged' matches 2 of 3 sites: block_0/mlp/act_0, block_1/mlp/act_0"
    ]
    assert {record.name for record in caplog.records} == {"lcjax"}


@pytest.mark.parametrize("sites", [re.compile(b"act_0"), [re.compile(b"act_0")], [3]])
def test_other_rules_are_type_errors(sites, variables):
    with pytest.raises(TypeError, match="globs such as .* compiled regular expressions"):
        lcjax.collapse(variables, sites)
