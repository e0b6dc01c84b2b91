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
      read: function from the tensor and the leaf's shape to the leaf, a view of the tensor.
      write: function from the leaf to the tensor; None where a tensor stores several leaves.
    """

    stored: Callable[[Shape], Shape]
    read: Callable[[np.ndarray, Shape], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray] | None


SAME = Layout(lambda leaf: leaf, lambda tensor, leaf: tensor, lambda leaf: leaf)
FLAT = Layout(
    lambda leaf: (prod(leaf),),
    lambda tensor, leaf: tensor.reshape(leaf),
    lambda leaf: leaf.reshape(-1),
)
# Convolution: (out, in, height, width) in the file, (height, width, in, out) in params.
CONV = Layout(
    lambda leaf: (leaf[3], leaf[2], leaf[0], leaf[1]),
    lambda tensor, leaf: tensor.transpose(2, 3, 1, 0),
    lambda leaf: leaf.transpose(3, 2, 0, 1),
)


def linear(inputs: int = 1) -> Layout:
    """Returns the layout of `torch.nn.Linear`: (out, in) in the file.

    Args:
      inputs: number of leading axes of the leaf that are inputs; 2 for heads and head width.
    """
    return Layout(
        lambda leaf: (prod(leaf[inputs:]), prod(leaf[:inputs])),
        lambda tensor, leaf: tensor.T.reshape(leaf),
        lambda leaf: leaf.reshape(prod(leaf.shape[:inputs]), -1).T,
    )


def conv1d(inputs: int = 1) -> Layout:
    """Returns the layout of GPT-2's Conv1D: (in, out) in the file; arguments as of `linear`."""
    return Layout(
        lambda leaf: (prod(leaf[:inputs]), prod(leaf[inputs:])),
        lambda tensor, leaf: tensor.reshape(leaf),
        lambda leaf: leaf.reshape(prod(leaf.shape[:inputs]), -1),
    )


def one_of(count: int, which: int, layout: Layout, axis: int) -> Layout:
    """Returns the layout of one leaf in a tensor that concatenates several, as query, key, value.

    Args:
      count: number of leaves.
      which: place of the leaf among them.
      layout: layout of one of them alone.
      axis: axis of the tensor along which they are concatenated.
    """

    def stored(leaf: Shape) -> Shape:
        shape = list(layout.stored(leaf))
        shape[axis] *= count
        return tuple(shape)

    def read(tensor: np.ndarray, leaf: Shape) -> np.ndarray:
        return layout.read(np.split(tensor, count, axis)[which], leaf)

    return Layout(stored, read, None)
