"""Checks of the functions that users pass, and explanations of errors in their calls."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.errors import (
    FlaxError,
    InvalidRngError,
    ModifyScopeVariableError,
    ScopeCollectionNotFound,
)
from jax.core import Tracer

from lcjax._messages import describe, first_few
from lcjax.errors import CollapseError
from lcjax.validation.modules import is_nnx_module

# Arguments of a Flax module's apply that are not passed on to its `__call__`.
OF_APPLY = frozenset({"rngs", "method", "mutable", "capture_intermediates"})

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_function(fn: Any, name: str = "apply_fn") -> None:
    """Raises TypeError unless this is a function of variables and inputs."""
    if isinstance(fn, nn.Module):
        raise TypeError(
            f"{name} is a Flax module, {type(fn).__name__}; expected a function of variables and "
            "inputs. Pass model.apply."
        )
    if is_nnx_module(fn):
        raise TypeError(
            f"{name} is a Flax NNX module, {type(fn).__name__}, which contains its params; "
            "expected a function of params and inputs. Pass it to lcjax.nnx, which gives "
            "modules back; or split it, graphdef, params, rest = nnx.split(model, nnx.Param, ...), "
            "and pass lambda params, rest, x: nnx.merge(graphdef, params, rest)(x) to "
            "lcjax.collapsible."
        )
    if not callable(fn):
        raise TypeError(
            f"{name} is {describe(fn)}; expected a function of variables and inputs. Pass "
            "model.apply."
        )


def check_inputs(inputs: Any) -> None:
    """Raises TypeError unless inputs are a sequence of arguments."""
    if hasattr(inputs, "shape") or not isinstance(inputs, Sequence) or isinstance(inputs, str):
        raise TypeError(
            f"inputs is {describe(inputs)}; expected a list or tuple of the arguments of apply_fn "
            "after the variables. Pass [x]."
        )


def check_not_traced(tree: Any, name: str) -> None:
    """Raises CollapseError under a transform of JAX, where arrays have no values."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise CollapseError(
            f"{name}: got traced values, under jax.jit or another transform; expected arrays, "
            "since it reads the statistics that it collects. Call it outside; it compiles itself."
        )


def check_metric(metric: Any) -> None:
    """Raises TypeError unless this is a function."""
    if not callable(metric):
        raise TypeError(
            f"metric is {describe(metric)}; expected a function metric(variables) that returns a "
            "number, higher is better. Wrap your measure: lambda variables: accuracy(variables)."
        )


def score(metric: Callable[[Any], Any], variables: Any) -> float:
    """Returns the value of a metric on variables.

    Raises:
      TypeError: if the metric takes other arguments, or does not return one number.
    """
    try:
        value = metric(variables)
    except TypeError as error:
        if _mismatch(metric, (variables,), {}):
            raise TypeError(
                f"metric{inspect.signature(metric)} was called with the variables alone: {error}. "
                "Close over the data: lambda variables: accuracy(variables, data)."
            ) from error
        raise
    if np.ndim(value) or not (isinstance(value, Real) or hasattr(value, "dtype")):
        raise TypeError(
            f"metric returned {describe(value)}; expected one number, higher is better. Return, "
            "for example, the mean as a float."
        )
    return float(value)


@contextmanager
def explained(
    fn: Any,
    variables: Any,
    inputs: Sequence[Any],
    what: str = "a batch",
    state: Sequence[Any] = (),
) -> Iterator[None]:
    """A context in which errors of a user's function say what was passed and what to do.

    Args:
      fn: called as `fn(variables, *state, *inputs)`, such as `model.apply`, jitted or not.
      variables: its first argument.
      inputs: its last arguments.
      what: name of the inputs in messages.
      state: the arguments between, which messages leave out.

    Raises:
      CollapseError: instead of Flax's errors.
      TypeError: instead of an error about the number of arguments, or on a dict.
    """
    try:
        yield
    except FlaxError as error:
        reason = str(error).partition(" (https://flax.")[0]
        named = re.search(r'collection "(\w+)"', reason)
        missing = named[1] if named and isinstance(error, ScopeCollectionNotFound) else None
        if missing and not state and missing not in variables:
            raise CollapseError(
                f"variables have {first_few(variables) or 'nothing'} and no {missing!r}; "
                f"model.apply expects variables with a collection {missing!r}. Pass "
                f"{{{missing!r}: {missing}}}{' with them' * (missing != 'params')}."
            ) from error
        raise CollapseError(
            f"the function cannot run on {what} of {_shapes(inputs)} with these variables: "
            f"{reason.rstrip('.')}. {_advice(error, missing)}"
        ) from error
    except (TypeError, IndexError, KeyError, AttributeError) as error:
        _explain_call(error, fn, (variables, *state), inputs, what)
        if any(isinstance(each, Mapping) for each in inputs):
            raise TypeError(
                f"{what} is {_shapes(inputs)}; the function expects something else "
                f"({type(error).__name__}: {error}). Give its arguments after the variables, such "
                "as [batch['image'] for batch in batches]."
            ) from error
        error.add_note(f"Raised when the function was called on {what} of {_shapes(inputs)}.")
        raise


def _advice(error: FlaxError, missing: str | None) -> str:
    """Returns what to do about an error of Flax, which may be that a collection is missing."""
    if isinstance(error, InvalidRngError):
        return "Pass rngs={name: key}, or call the model as at inference."
    if isinstance(error, ModifyScopeVariableError):
        return "Pass mutable=[collection], or call the model as at inference."
    if missing:
        return f"Pass variables with a collection {missing!r}, those of this model."
    return "Give inputs of the shapes that init had, and variables of this model."


def _explain_call(
    error: Exception, fn: Any, variables: Sequence[Any], inputs: Sequence[Any], what: str
):
    """Raises TypeError if a function cannot take this number of inputs after the variables."""
    fn, before, given = _unwrapped(fn)
    leading = (*before, *variables)
    if isinstance(getattr(fn, "__self__", None), nn.Module):
        if "method" in given:
            return
        fn, leading = fn.__self__.__call__, (*before, *variables[:1])[1:]
        given = {name: value for name, value in given.items() if name not in OF_APPLY}
    if not _mismatch(fn, (*leading, *inputs), given):
        return
    taken = inspect.signature(fn).parameters.values()
    expected = [each.name for each in taken if each.kind in _POSITIONAL][len(leading) :]
    loader = ": from a loader of images and labels, ((images,) for images, labels in loader)"
    raise TypeError(
        f"{what} has {len(inputs)} {'part' if len(inputs) == 1 else 'parts'} "
        f"({_shapes(inputs)}); the function expects "
        f"{', '.join(expected) or 'nothing'} after its variables ({error}). Pass only "
        f"those{loader * ('batch' in what)}."
    ) from error


def _mismatch(fn: Any, args: Sequence[Any], given: Mapping[str, Any]) -> bool:
    """Returns whether a function has a signature that does not take these arguments."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind(*args, **given)
    except TypeError:
        return True
    return False


def _unwrapped(fn: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Returns the function inside partial and jit, with the arguments that are already set."""
    before: tuple[Any, ...] = ()
    given: dict[str, Any] = {}
    while not isinstance(getattr(fn, "__self__", None), nn.Module):
        if isinstance(fn, partial):
            before, given = (*fn.args, *before), {**fn.keywords, **given}
            fn = fn.func
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        else:
            break
    return fn, before, given


def _shapes(inputs: Sequence[Any]) -> str:
    """Returns the inputs in a few words."""
    return ", ".join(map(_shape, inputs)) or "nothing"


def _shape(one: Any) -> str:
    if not isinstance(one, Mapping):
        return describe(one)
    return f"a dict of {first_few(one)}" if one else "an empty dict"
