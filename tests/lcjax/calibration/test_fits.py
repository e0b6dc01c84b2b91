"""Fits: how they print."""

import math

import numpy as np
import pytest

from lcjax.calibration.fits import Exact, LeastSquares, PerUnit, Remove, Units

FITS = {
    "Exact()": Exact(),
    "Exact(max_gap=inf)": Exact().at_any_gap(),
    "LeastSquares(rank='auto', tolerance=0.1)": LeastSquares(rank="auto", tolerance=0.1),
    "PerUnit(sequential=False)": PerUnit(sequential=False),
    "Units(64)": Units(64),
    "Units(64, linear=True)": LeastSquares() + Units(64),
    "Units(8, tolerance=0.1, candidates=9)": Units(8, tolerance=0.1, candidates=9),
    "Remove()": Remove(),
}


@pytest.mark.parametrize("text", FITS)
def test_repr_is_the_shortest_expression_of_a_fit(text):
    names = {kind.__name__: kind for kind in (Exact, LeastSquares, PerUnit, Remove, Units)}
    assert repr(FITS[text]) == str(FITS[text]) == text
    assert eval(text, {"inf": math.inf}, names) == FITS[text]


def test_numbers_of_numpy_become_numbers_of_python():
    fit = Units(np.int64(4), tolerance=np.float32(0.5))
    assert type(fit.count) is int and type(fit.tolerance) is float
    assert fit == Units(4, tolerance=0.5)
