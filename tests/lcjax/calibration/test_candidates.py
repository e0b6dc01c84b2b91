"""Hidden units that are measured where all would be too many."""

import numpy as np
import pytest

from lcjax import CollapseError, LeastSquares, Units, calibrate, collapse, collapse_sequential
from lcjax.calibration.candidates import candidate_count, moment_bytes
from lcjax.structure.segment import Joint, Segment
from tests.helpers.narrowing import DATA, chain, error


def segment(d_in, width, d_out, dtype=np.float32):
    kernels = [np.broadcast_to(dtype(0), shape) for shape in ((d_in, width), (width, d_out))]
    layers = tuple({"kernel": kernel} for kernel in kernels)
    return Segment(layers=layers, joints=(Joint("act_0"),), names=("a", "b"), key="b")


@pytest.mark.parametrize(
    ("d", "width", "dtype"), [(4096, 14336, np.float32), (2048, 8192, np.float16)]
)
def test_default_candidates_keep_moments_below_three_times_the_kernels(d, width, dtype):
    pair = segment(d, width, d, dtype)
    count = candidate_count(Units(256), pair)
    kernels = 2 * d * width * np.dtype(dtype).itemsize
    assert 256 < count < width
    assert 2.9 * kernels < moment_bytes(d, count, d) <= 3 * kernels
    assert candidate_count(Units(width - 1), pair) == width - 1
    assert candidate_count(Units(256, candidates=500), pair) == 500


def test_all_units_are_candidates_where_moments_are_small():
    assert candidate_count(Units(192), segment(384, 1536, 384)) == 1536


@pytest.mark.slow
@pytest.mark.parametrize("norm", [None, "batch"])
def test_candidates_are_the_strongest_units(norm):
    model, variables = chain((12, 5), norm=norm)
    kernel = variables["params"]["dense_1"]["kernel"]
    weak = [1, 4, 10]
    kernel[weak] *= 1e-3
    stats = calibrate(model.apply, variables, DATA, fit=Units(4, candidates=9))
    (moments,) = stats.train.values()
    pool = moments.units
    assert len(pool) == 9 and not set(weak) & set(pool)
    assert moments.xx.shape == (15, 15)
    compact, report = collapse(variables, calibration=stats)
    assert set(report.units["act_0"]) <= set(pool)
    whole, _ = collapse(
        variables, calibration=calibrate(model.apply, variables, DATA, fit=Units(9))
    )
    nine, report = collapse(variables, fit=Units(9), calibration=stats)
    assert list(report.units["act_0"]) == list(pool)
    assert error(model, nine, variables) < 1.1 * error(model, whole, variables) + 1e-3
    with pytest.raises(CollapseError, match=r"10 units to keep, but moments of 9 candidates"):
        collapse(variables, fit=Units(10), calibration=stats)


@pytest.mark.slow
def test_candidates_of_neighbours_one_after_another():
    model, variables = chain()
    fit = LeastSquares() + Units(6, candidates=8)
    stats = calibrate(model.apply, variables, DATA, fit=fit)
    compact, _ = collapse(variables, calibration=stats)
    in_turn, report = collapse_sequential(model.apply, variables, DATA, fit=fit)
    assert [len(units) for units in report.units.values()] == [6, 6]
    assert error(model, in_turn, variables) <= error(model, compact, variables) < 0.5


def test_candidates_are_at_least_the_count_and_need_two_passes():
    with pytest.raises(ValueError, match="candidates is 3; expected .* at least count 4"):
        Units(4, candidates=3)
    model, variables = chain((12, 5))
    with pytest.raises(TypeError, match="can be iterated only once"):
        calibrate(model.apply, variables, iter(DATA.batches), fit=Units(4, candidates=9))
