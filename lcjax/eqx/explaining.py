"""Errors in calls of Equinox models, with what was passed and what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np

from lcjax._messages import describe
from lcjax.errors import CollapseError


@contextmanager
def explained(model: Any, inputs: Sequence[Any], fn: Any) -> Iterator[None]:
    """A context in which errors of a call say what was passed and what to do.

    Args:
      model: the model.
      inputs: those of the call.
      fn: called as `fn(model, *inputs)`; None where the model is called.

    Raises:
      CollapseError: in the place of an error of the model, such as for inputs of another shape.
      TypeError: another number of inputs than the model takes.
    """
    try:
        yield
    except CollapseError:
        raise
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        shown = ", ".join(map(describe, inputs)) or "none"
        called = type(model).__name__ if fn is None else f"fn with {type(model).__name__}"
        reason = str(error).strip().rstrip(".") or type(error).__name__
        message = f"inputs: got {shown}, on which {called} cannot run: {reason}. "
        if not _takes(model if fn is None else fn, () if fn is None else (model,), inputs):
            call = "the model, model(*inputs)" if fn is None else "fn, fn(model, *inputs)"
            raise TypeError(
                f"{message}Pass the arguments of {call}; in data, the tuple of them for each batch."
            ) from error
        raise CollapseError(f"{message}{_advice(inputs, fn, reason)}") from error


def _advice(inputs: Sequence[Any], fn: Any, reason: str) -> str:
    if "inference" in reason or "non-deterministic" in reason:
        return "Pass the model at inference, eqx.nn.inference_mode(model), or a key."
    if fn is None and any(np.ndim(each) > 1 for each in inputs if hasattr(each, "shape")):
        return (
            "Equinox modules take one example; for a batch pass fn=lambda model, x: "
            "jax.vmap(model)(x), or else inputs of the shapes that the model takes."
        )
    return "Expected inputs of the shapes that the model takes."


def _takes(function: Any, leading: Sequence[Any], inputs: Sequence[Any]) -> bool:
    """Returns whether a function takes this number of arguments, as far as is known."""
    try:
        signature(function).bind(*leading, *inputs)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True
