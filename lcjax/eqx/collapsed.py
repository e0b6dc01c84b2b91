"""The module that runs a call of another with slopes and fused layers."""

from collections.abc import Callable
from typing import Any

from lcjax.eqx.library import equinox as eqx
from lcjax.eqx.places import split
from lcjax.transform.collapsible import collapsible


class Collapsed(eqx.Module):
    """An Equinox module, unchanged, whose calls run with slopes and fused layers.

    `lcjax.eqx.collapse` puts it in the place of the innermost module that runs a pair, where no
    `eqx.nn.Linear` can be. It is called as that module is and has its methods and fields. Its
    arrays are leaves as in any module; a call is traced anew each time, unless it is in a function
    that `eqx.filter_jit` has compiled.

    Attributes:
      module: the module, with None for the arrays that were fused.
      slopes: `{"slope": α}` by site, where there are any.
      fused: the layers that replace sites, by a key that `lcjax.FusedKey` reads. Paths in it are
        those inside the module.
      stack: sizes of the axes in front of every array of `fused`, where a `lax.scan` over layers
        runs the module.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp, lcjax
      >>> class MLP(eqx.Module):
      ...     up: jax.Array
      ...     down: jax.Array
      ...     def __call__(self, x):
      ...         return jax.nn.relu(x @ self.up) @ self.down
      >>> model = MLP(jnp.ones((4, 16)), jnp.ones((16, 4)))
      >>> small, _ = lcjax.eqx.collapse(model, jnp.ones((2, 4)), fit=lcjax.Exact(max_gap=1))
      >>> isinstance(small, lcjax.eqx.Collapsed), small(jnp.ones((2, 4))).shape
      (True, (2, 4))
    """

    module: Any
    slopes: dict[str, Any]
    fused: dict[str, Any]
    stack: tuple[int, ...] = eqx.field(static=True, default=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the module returns."""
        return self._run("__call__", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Returns a field of the module, or one of its methods, which runs as the call does."""
        if name.startswith("__") or "module" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if is_method(self.module, name):
            return lambda *args, **kwargs: self._run(name, args, kwargs)
        return getattr(self.module, name)

    def _run(self, method: str, args: Any, kwargs: Any) -> Any:
        params, static = split(self.module)
        tree = {"model": params, "slopes": self.slopes, "fused": self.fused}
        return collapsible(method_of(static, method))(tree, *args, **kwargs)


def method_of(static: Any, method: str) -> Callable[..., Any]:
    """Returns a method as a function of the module's arrays and its arguments."""

    def run(params: Any, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(eqx.combine(params, static), method)(*args, **kwargs)

    return run


def is_method(module: Any, name: str) -> bool:
    """Returns whether a module's class defines a method of this name."""
    return name not in vars(module) and callable(getattr(type(module), name, None))
