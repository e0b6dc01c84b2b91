"""Layouts: how the tensor of another library's file stores a leaf of params."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How a tensor stores a leaf.

    Attributes:
      stored: function from the leaf's shape to the tensor's.
      read: function from the tensor and the leaf's shape to the leaf.
    """

    stored: Callable[[Shape], Shape]
    read: Callable[[np.ndarray, Shape], np.ndarray]


SAME = Layout(lambda leaf: leaf, lambda tensor, leaf: tensor)
FLAT = Layout(lambda leaf: (prod(leaf),), lambda tensor, leaf: tensor.reshape(leaf))
# Convolution: (out, in, height, width) in the file, (height, width, in, out) in params.
CONV = Layout(
    lambda leaf: (leaf[3], leaf[2], leaf[0], leaf[1]),
    lambda tensor, leaf: tensor.transpose(2, 3, 1, 0),
)


def linear(inputs: int = 1) -> Layout:
    """Returns the layout of `torch.nn.Linear`: (out, in) in the file.

    Args:
      inputs: number of leading axes of the leaf that are inputs; 2 for heads and head width.
    """
    return Layout(
        lambda leaf: (prod(leaf[inputs:]), prod(leaf[:inputs])),
        lambda tensor, leaf: tensor.T.reshape(leaf),
    )


def conv1d(inputs: int = 1) -> Layout:
    """Returns the layout of GPT-2's Conv1D: (in, out) in the file; arguments as of `linear`."""
    return Layout(
        lambda leaf: (prod(leaf[:inputs]), prod(leaf[inputs:])),
        lambda tensor, leaf: tensor.reshape(leaf),
    )


def one_of_qkv(which: int, layout: Layout, axis: int) -> Layout:
    """Returns the layout of query, key or value in a tensor that concatenates the three.

    Args:
      which: 0 for query, 1 for key, 2 for value.
      layout: layout of one of them alone.
      axis: axis of the tensor along which they are concatenated.
    """

    def stored(leaf: Shape) -> Shape:
        shape = list(layout.stored(leaf))
        shape[axis] *= 3
        return tuple(shape)

    return Layout(stored, lambda tensor, leaf: layout.read(np.split(tensor, 3, axis)[which], leaf))
