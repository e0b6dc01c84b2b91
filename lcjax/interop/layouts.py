"""How a leaf of params stands in the file of another library: transposed, flat, or one of three."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How a leaf stands in a file.

    Attributes:
      stored: shape of the tensor in the file, from the leaf's.
      read: the leaf, from the tensor and the leaf's shape.
    """

    stored: Callable[[Shape], Shape]
    read: Callable[[np.ndarray, Shape], np.ndarray]


SAME = Layout(lambda leaf: leaf, lambda tensor, leaf: tensor)
FLAT = Layout(lambda leaf: (prod(leaf),), lambda tensor, leaf: tensor.reshape(leaf))
# A convolution: (out, in, height, width) in the file, (height, width, in, out) in params.
CONV = Layout(
    lambda leaf: (leaf[3], leaf[2], leaf[0], leaf[1]),
    lambda tensor, leaf: tensor.transpose(2, 3, 1, 0),
)


def linear(inputs: int = 1) -> Layout:
    """Returns the layout of `torch.nn.Linear`: (out, in) in the file.

    Args:
      inputs: how many leading axes of the leaf are inputs; 2 where it reads attention's heads.
    """
    return Layout(
        lambda leaf: (prod(leaf[inputs:]), prod(leaf[:inputs])),
        lambda tensor, leaf: tensor.T.reshape(leaf),
    )


def conv1d(inputs: int = 1) -> Layout:
    """Returns the layout of GPT-2's Conv1D: (in, out) in the file; args as for `linear`."""
    return Layout(
        lambda leaf: (prod(leaf[:inputs]), prod(leaf[inputs:])),
        lambda tensor, leaf: tensor.reshape(leaf),
    )


def third(which: int, layout: Layout, axis: int) -> Layout:
    """Returns the layout of one of query, key and value where a file holds them joined.

    Args:
      which: 0, 1 or 2.
      layout: of one by itself.
      axis: of the tensor in the file, along which the three are joined.
    """

    def stored(leaf: Shape) -> Shape:
        shape = list(layout.stored(leaf))
        shape[axis] *= 3
        return tuple(shape)

    return Layout(stored, lambda tensor, leaf: layout.read(np.split(tensor, 3, axis)[which], leaf))
