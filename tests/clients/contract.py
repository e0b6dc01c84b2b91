"""What lcjax has to show with the model of every client, whatever front end delivers it."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lcjax
from tests.helpers.functions import sloped


class Client(NamedTuple):
    """A call of a client's model.

    Attributes:
      name: of the model, in the table.
      package: the distribution on PyPI.
      fn: of params and inputs.
      params: of the client's own making, with random weights.
      inputs: what the function takes besides.
      sites: written down by hand, in forward order.
    """

    name: str
    package: str
    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    sites: Sequence[str]


def check(client: Client, record: Callable[[str, Any], None]) -> tuple[Any, Any]:
    """Checks the sites, slopes of 0 and of 1, and FLOPs; returns f and its compact tree.

    Args:
      client: whose model it is.
      record: pytest's `record_property`, which takes the row of the table.
    """
    f = lcjax.collapsible(client.fn)
    tree = f.init(client.params, *client.inputs)
    assert f.trace(tree, *client.inputs).sites.paths == tuple(client.sites)

    deep = jax.jit(client.fn)(client.params, *client.inputs)
    agrees(jax.jit(f)(tree, *client.inputs), deep)

    linear = sloped(tree, 1)
    compact, report = f.trace(linear, *client.inputs).collapse()
    assert report.collapsed == tuple(client.sites)
    got, want = jax.jit(f)(compact, *client.inputs), jax.jit(f)(linear, *client.inputs)
    agrees(got, want)
    assert not same(want, deep), "a slope of 1 has to change the output"

    costs = flops(client.fn, client.params, *client.inputs), flops(f, compact, *client.inputs)
    assert costs[1] < costs[0]
    row(record, client.name, client.package, len(client.sites), *costs)
    return f, compact


class Module(NamedTuple):
    """An NNX module of a client.

    Attributes:
      name: of the model, in the table.
      package: the distribution on PyPI.
      model: with random weights.
      inputs: what it takes, at inference.
      sites: written down by hand, in forward order.
      output: takes the array to compare out of what the module returns.
    """

    name: str
    package: str
    model: nnx.Module
    inputs: tuple[Any, ...]
    sites: Sequence[str]
    output: Callable[[Any], Any] = lambda output: output

    def __call__(self, model: nnx.Module) -> Any:
        """Returns the array that a module of this kind returns for the inputs."""
        graph, state = nnx.split(model)
        run = lambda state, inputs: self.output(nnx.merge(graph, state, copy=True)(*inputs))
        return jax.jit(run)(state, self.inputs)

    def flops(self, model: nnx.Module) -> float:
        """Returns XLA's count of the FLOPs of a call."""
        graph, state = nnx.split(model)
        return flops(
            lambda state, *inputs: nnx.merge(graph, state, copy=True)(*inputs), state, *self.inputs
        )


def check_module(client: Module, record: Callable[[str, Any], None]) -> nnx.Module:
    """Checks sites, slopes of 0 and of 1, and FLOPs of a module; returns the compact module.

    Args:
      client: whose module it is.
      record: pytest's `record_property`, which takes the row of the table.
    """
    model = client.model
    assert lcjax.nnx.find_sites(model, *client.inputs).paths == tuple(client.sites)
    deep = client(model)

    sloped = lcjax.nnx.add_slopes(model, *client.inputs)
    agrees(client(sloped), deep)
    nnx.update(sloped, jax.tree.map(jnp.ones_like, nnx.state(sloped, lcjax.nnx.Slope)))
    linear = client(sloped)
    assert not same(linear, deep), "a slope of 1 has to change the output"

    compact, report = lcjax.nnx.collapse(sloped, *client.inputs)
    assert report.collapsed == tuple(client.sites)
    assert isinstance(compact, type(model))
    agrees(client(compact), linear)
    agrees(client(model), deep)

    costs = client.flops(model), client.flops(compact)
    assert costs[1] < costs[0]
    row(record, client.name, client.package, len(client.sites), *costs)
    return compact


def agrees(got: Any, want: Any) -> None:
    """Asserts that two trees of outputs agree to float32's rounding, relative to the largest."""
    jax.tree.map(_agree, got, want)


def same(got: Any, want: Any) -> bool:
    """Returns whether two trees of outputs agree to float32's rounding."""
    try:
        agrees(got, want)
    except AssertionError:
        return False
    return True


def flops(fn: Callable[..., Any], *arguments: Any) -> float:
    """Returns XLA's count of the FLOPs of a call."""
    return jax.jit(fn).lower(*arguments).cost_analysis()["flops"]


def row(
    record: Callable[[str, Any], None],
    name: str,
    package: str,
    sites: int,
    deep: float,
    compact: float,
) -> None:
    """Records a row of the table of clients; `conftest.py` collects them."""
    cells = {"client": name, "package": package, "version": version(package), "sites": sites}
    record("client", cells | {"deep_flops": deep, "compact_flops": compact})


def normal(tree: Any, seed: int = 0) -> Any:
    """Returns a tree of params with random values: kernels of unit gain, vectors near one."""
    rng = np.random.default_rng(seed)

    def leaf(array: Any) -> jax.Array:
        drawn = rng.normal(size=array.shape)
        values = drawn / np.sqrt(array.shape[-2]) if array.ndim > 1 else 1 + 0.1 * drawn
        return jnp.asarray(values, array.dtype)

    return jax.tree.map(leaf, tree)


def _agree(got: Any, want: Any) -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1.0, np.abs(want).max()))
