"""Layouts: a leaf is a view of its tensor, so that it can be written there, and comes back."""

import numpy as np
import pytest

from lcjax.interop.layouts import CONV, FLAT, SAME, conv1d, linear, one_of

CASES = {
    "same": (SAME, (5, 3)),
    "flat": (FLAT, (2, 3)),
    "convolution": (CONV, (3, 2, 4, 5)),
    "linear": (linear(), (6, 2, 3)),
    "linear from heads": (linear(inputs=2), (2, 3, 6)),
    "conv1d": (conv1d(), (6, 2, 3)),
    "conv1d from heads": (conv1d(inputs=2), (2, 3, 6)),
    "rows of one": (one_of(3, 1, linear(), axis=0), (6, 2, 3)),
    "columns of one": (one_of(3, 2, conv1d(), axis=1), (6, 2, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_leaf_is_a_view_of_its_tensor(case):
    layout, shape = CASES[case]
    leaf = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1
    tensor = np.zeros(layout.stored(shape), np.float32)
    layout.read(tensor, shape)[...] = leaf
    np.testing.assert_array_equal(layout.read(tensor, shape), leaf)
    assert np.count_nonzero(tensor) == leaf.size
    if layout.write is not None:
        np.testing.assert_array_equal(layout.write(leaf), tensor)
