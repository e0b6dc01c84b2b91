"""The fits that are tried at a site, by its width."""

import pytest

from lcjax import Exact, LeastSquares
from lcjax.calibration.fits import Remove, Units
from lcjax.calibration.low_rank import LowRank
from lcjax.planning.candidates import Candidates, check_candidates, fits_for_width, fits_to_try
from lcjax.structure.params_tree import ParamsTree
from tests.helpers.trees import random_chain


def test_candidates_follow_the_width():
    tried = fits_for_width(Candidates(multiple_of=64), 1536)
    counts = [fit.count for fit in tried if isinstance(fit, Units) and not fit.linear]
    assert counts == [64, 128, 192, 384, 768, 1152]
    assert tried[0] == LeastSquares() and tried[-1] == Remove() and len(tried) == 13
    assert Units(192, linear=True) in tried and Units(1152, linear=True) not in tried
    few = Candidates(linear=False, remove=False, linear_and_units=False, multiple_of=16)
    assert fits_for_width(few, 48) == (Units(16), Units(32))


def test_ranks_follow_the_kernel():
    _, variables = random_chain((64, 16), 32)
    (segment,) = ParamsTree(variables).segments(["act_0"])
    fits = fits_to_try(Candidates(multiple_of=2), segment)
    ranks = [fit.rank for fit in fits if isinstance(fit, LowRank)]
    assert ranks == [2, 6, 10, 16]  # of 32 · 64 / (32 + 64), 1/8 to 3/4
    none = fits_to_try(Candidates(low_rank=False), segment)
    assert not any(isinstance(fit, LowRank) for fit in none)


def test_a_width_without_multiples_has_no_units_by_default():
    assert fits_for_width(Candidates(), 8) == (LeastSquares(), Remove())
    with pytest.raises(ValueError, match="got 64, which leaves no number of units under 48"):
        fits_for_width(Candidates(multiple_of=64), 48)


def test_a_list_of_fits_is_tried_where_it_fits():
    _, variables = random_chain((8, 3), 4)
    (segment,) = ParamsTree(variables).segments(["act_0"])
    fits = [Units(8), Remove(), Units(8)]
    assert fits_to_try(fits, segment) == (Units(8), Remove())
    with pytest.raises(ValueError, match="act_0: got Units.* expected at most its 8 units"):
        fits_to_try([Units(9)], segment)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("units", TypeError, "got a str, expected lcjax.Candidates"),
        (LeastSquares(), TypeError, "got a LeastSquares, expected lcjax.Candidates"),
        ([Units(3), 4], TypeError, "got an int, expected lcjax.Candidates"),
        ([], ValueError, "got none, expected at least one fit"),
        ([Exact()], ValueError, "got Exact.*, which takes no data; expected fits to data"),
    ],
)
def test_something_other_than_candidates_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        check_candidates(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.5, 1.0)}, "fractions: got 1.0, expected fractions in"),
        ({"multiple_of": 0}, "multiple_of: got 0, expected None or a number"),
        ({"fractions": (), "linear": False, "remove": False}, "got nothing to try"),
    ],
)
def test_candidates_reject_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Candidates(**options)
