"""What a machine does at most: bandwidth, products, activations, and starts of operations.

Each rate is the difference between a long and a short program of the same kind, so that the call
itself cancels.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cost.roofline.operations import Operation
from benchmarks.harness.hlo import KINDS

START = "starts"
_SHORT, _LONG = 4, 24  # steps of a program
_CHAIN = 5  # products of 2 by 2 that are one step: the shortest operations


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a machine does at most, for arrays of one network.

    Attributes:
      bandwidth: bytes a second, read and written, of an elementwise map in place.
      products: FLOPs a second of the two products of an MLP.
      activation: seconds per element.
      operation: seconds to start an operation.
      call: seconds of a call that returns one number of its arguments.
    """

    bandwidth: float
    products: float
    activation: float
    operation: float
    call: float

    def bounds(self, program: Sequence[Operation]) -> dict[str, float]:
        """Returns the least seconds of a program, by kind of operation and for their starts."""
        found: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        for each in program:
            found[each.kind] += max(
                each.bytes / self.bandwidth,
                each.flops / self.products,
                each.elements * self.activation if each.kind == "activations" else 0.0,
            )
        found[START] = self.call + self.operation * len(program)
        return found


@dataclasses.dataclass(frozen=True)
class RatePrograms:
    """The programs whose times are the rates.

    Attributes:
      rows: of the matrices that an MLP maps.
      width: of its input and output.
      hidden: its hidden width.
      activation: its activation.
      arguments: of the call that returns one number.
    """

    rows: int
    width: int
    hidden: int
    activation: Callable[[jax.Array], jax.Array]
    arguments: tuple[Any, ...]

    def calls(self) -> dict[str, Callable[[], Any]]:
        """Returns the compiled calls, by name."""
        narrow, wide = jnp.ones((self.rows, self.width)), jnp.ones((self.rows, self.hidden))
        up, down = jnp.eye(self.width, self.hidden), jnp.eye(self.hidden, self.width)
        steps = {
            "bandwidth": (lambda x: 1 - x, (narrow,)),
            "products": (lambda x, up, down: (x @ up) @ down, (narrow, up, down)),
            "activation": (lambda x: self.activation(1 - x), (wide,)),
        }
        found = {"call": _compiled(_one_number, *self.arguments)}
        for length in (_SHORT, _LONG):
            for name, (step, arrays) in steps.items():
                found[f"{name}, {length}"] = _compiled(_repeated(step, length), *arrays)
            found[f"operation, {length}"] = _compiled(_chain(_CHAIN * length), jnp.eye(2))
        return found

    def rates(self, seconds: Mapping[str, list[float]]) -> Rates:
        """Returns the rates, given the times of the calls, of which the shortest count."""

        def step(name: str) -> float:
            short, long = (min(seconds[f"{name}, {length}"]) for length in (_SHORT, _LONG))
            return (long - short) / (_LONG - _SHORT)

        narrow, wide = self.rows * self.width, self.rows * self.hidden
        return Rates(
            bandwidth=2 * 4 * narrow / step("bandwidth"),
            products=4 * narrow * self.hidden / step("products"),
            activation=step("activation") / wide,
            operation=step("operation") / _CHAIN,
            call=min(seconds["call"]),
        )


def _compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    compiled = jax.jit(function, keep_unused=True).lower(*arguments).compile()
    return lambda: compiled(*arguments)


def _one_number(*arguments: Any) -> jax.Array:
    return jax.tree.leaves(arguments)[-1].ravel()[0]


def _repeated(step: Callable[..., jax.Array], length: int) -> Callable[..., jax.Array]:
    def run(x: jax.Array, *rest: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, length, lambda _, x: step(x, *rest), x)

    return run


def _chain(length: int) -> Callable[[jax.Array], jax.Array]:
    def run(x: jax.Array) -> jax.Array:
        return functools.reduce(lambda y, _: y @ x, range(length), x)

    return run
