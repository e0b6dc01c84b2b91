"""What users pass in the place of a model, and the checks of it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import jax
from flax import nnx
from flax.errors import FlaxError

from lcjax._messages import describe
from lcjax.errors import CollapseError


def model_and_method(model: Any) -> tuple[nnx.Module, Callable[..., Any]]:
    """Returns the module that is meant, and the function that runs it.

    Args:
      model: a module; a method of one, `model.encode`; or `functools.partial(fn, model)`.

    Raises:
      TypeError: anything else.
    """
    if isinstance(model, nnx.Module):
        return model, _named("__call__", type(model))
    owner = getattr(model, "__self__", None)
    if isinstance(owner, nnx.Module) and callable(model):
        return owner, _named(model.__name__, type(owner))
    if isinstance(model, partial) and model.args and isinstance(model.args[0], nnx.Module):
        first, *rest = model.args
        if not rest:
            return first, partial(model.func, **model.keywords) if model.keywords else model.func
    raise TypeError(
        f"model is {describe(model)}; expected an nnx.Module, a method of one (model.encode), or "
        "functools.partial(fn, model) for a function fn(model, *inputs)."
    )


def _named(name: str, kind: type) -> Callable[..., Any]:
    """Returns the function that calls a method by its name, which a subclass may override."""

    @wraps(getattr(kind, name))
    def method(module: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(module, name)(*args, **kwargs)

    return method


def check_call(
    method: Callable[..., Any], model: nnx.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raises TypeError unless a method takes these arguments."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(model, *args, **kwargs)
    except TypeError as error:
        names = [name for name in signature.parameters][1:]
        raise TypeError(
            f"inputs: got {len(args)} and {sorted(kwargs) or 'none'} by name, expected "
            f"{', '.join(names) or 'none'}, the arguments of {type(model).__name__} ({error}). "
            "Give example inputs, arrays or ShapeDtypeStructs, after the model."
        ) from error


@contextmanager
def errors_of_inputs(
    model: nnx.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[None]:
    """A context in which errors of a model's own code say what inputs it got.

    Raises:
      CollapseError: from an error of the model's code.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ if isinstance(error, CollapseError) else error
        if cause is not error and not isinstance(cause, FlaxError):
            raise
        whole = f"{type(cause).__name__}: {cause}".partition(" (https://flax.")[0]
        reason = " ".join(whole.split()).removesuffix(".")
        named = [f"{name}={_shown(value)}" for name, value in kwargs.items()]
        given = ", ".join([*map(_shown, args), *named]) or "none"
        raise CollapseError(
            f"inputs: got {given}, on which {type(model).__name__} cannot run ({reason}). Give "
            "inputs of the shapes and dtypes that it takes."
        ) from cause


def _shown(value: Any) -> str:
    """Returns shape and dtype of an array, and a few words for anything else."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value) if isinstance(value, bool | int | float | str) else describe(value)


def argument_leaves(module: Any, method: Any, args: Any, kwargs: Any) -> list[Any]:
    """Returns the leaves of all arguments of a method, defaults included, in one order."""
    bound = inspect.signature(method).bind(module, *args, **kwargs)
    bound.apply_defaults()
    first, *_ = bound.arguments
    given = {name: value for name, value in bound.arguments.items() if name != first}
    return jax.tree.leaves(given, is_leaf=lambda leaf: leaf is None)
