import numpy as np
import pytest

from lcjax import CollapseError
from lcjax.structure.sites import Site
from lcjax.tree.paths import natural_sort_key
from lcjax.tree.selection import choose, weigh

PATHS = [f"block_{i}/mlp/act_0" for i in (10, 2, 9, 0)]
ORDERED = [f"block_{i}/mlp/act_0" for i in (0, 2, 9, 10)]


def test_natural_order_counts_numbers():
    assert sorted(PATHS, key=natural_sort_key) == ORDERED
    assert choose(PATHS) == ORDERED
    assert natural_sort_key("block²_2") < natural_sort_key("block²_10")


@pytest.mark.parametrize(
    ("choice", "want"),
    [
        ({"last": 2}, ORDERED[-2:]),
        ({"last": 0.5}, ORDERED[-2:]),
        ({"last": 1.0}, ORDERED),
        ({"last": 0.01}, ORDERED[-1:]),
        ({"where": "*_1*/mlp/*"}, ORDERED[-1:]),
        ({"where": "block_[29]/*"}, ORDERED[1:3]),
        ({"where": "block_[29]/*", "last": 1}, ORDERED[2:3]),
        ({"sites": [ORDERED[3], ORDERED[0]]}, [ORDERED[0], ORDERED[3]]),
        ({"sites": ORDERED[1]}, ORDERED[1:2]),
    ],
)
def test_choose(choice, want):
    assert choose(PATHS, **choice) == want


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"where": "block_7/*"}, CollapseError, "'block_7/.*' matches no site. The sites are: b"),
        ({"sites": [ORDERED[0], "x"]}, CollapseError, "'x' matches no site"),
        ({"sites": []}, CollapseError, "sites is empty"),
        ({"last": 5}, ValueError, "last is 5; expected a number of sites from 1 to 4"),
        ({"last": 0}, ValueError, "last is 0"),
        ({"last": 1.5}, ValueError, "last is 1.5"),
        ({"last": True}, ValueError, "last is True"),
    ],
)
def test_choose_nothing_is_an_error(choice, error, message):
    with pytest.raises(error, match=message):
        choose(PATHS, **choice)
    with pytest.raises(CollapseError, match="no sites: the tree has no leaf named `slope`"):
        choose([])


def test_last_needs_an_order_that_names_decide_or_that_is_given():
    paths = ["decoder/act_0", "encoder/act_0", "encoder/act_1"]
    order = [Site(path="encoder/act_0", slope=0.0), "encoder/act_1", "decoder/act_0", "gone"]
    for last in (1, 2, 0.4):
        with pytest.raises(CollapseError, match="names do not show whether .* runs first. Pass or"):
            choose(paths, last=last)
    assert choose(paths, last=3) == paths
    assert choose(paths, last=1, where="encoder/*") == ["encoder/act_1"]
    assert choose(paths, last=1, order=order) == ["decoder/act_0"]
    assert choose(paths, order=order) == ["encoder/act_0", "encoder/act_1", "decoder/act_0"]
    with pytest.raises(CollapseError, match="order: got encoder/act_0, .* it lacks decoder/act_0"):
        choose(paths, order=["encoder/act_0", "encoder/act_1"])
    with pytest.raises(TypeError, match="order: got the string"):
        choose(paths, order="encoder/act_0")


def test_a_list_of_weights_needs_an_order_too():
    paths = ["decoder/act_0", "encoder/act_0"]
    assert weigh(paths, [1, 2]) == weigh(paths, {"encoder/*": 2})
    assert weigh(paths, [2, 2], ordered=False) == weigh(paths, 2)
    assert weigh(ORDERED, [1, 2, 3, 4], ordered=False) == weigh(ORDERED, [1, 2, 3, 4])
    with pytest.raises(CollapseError, match="a list of weights needs the forward order"):
        weigh(paths, [1, 2], ordered=False)


def test_weigh():
    assert weigh(ORDERED, 2) == dict.fromkeys(ORDERED, 2.0)
    assert list(weigh(ORDERED, [1, 2, 3, 4]).values()) == [1, 2, 3, 4]
    assert list(weigh(ORDERED, np.arange(4)).values()) == [0, 1, 2, 3]
    assert list(weigh(ORDERED, {"block_1*": 0.5}).values()) == [1, 1, 1, 0.5]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "weights has 2 numbers for 4 sites: block_0"),
        (-1.0, "block_0/mlp/act_0: weight is -1.0, must be finite"),
        ({"nowhere": 1.0}, "'nowhere' matches no site"),
    ],
)
def test_wrong_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        weigh(ORDERED, weights)
