"""A checkpoint as the state of an NNX module."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from lcjax._messages import printable_lines
from lcjax.errors import CheckpointError, CollapseError
from lcjax.io.leaves import LeafPath, describe, diff, joined
from lcjax.io.traced.contents import Contents
from lcjax.io.traced.contents import shape as shape_of
from lcjax.io.traced.source import MODEL, TracedSource
from lcjax.nnx.abstract import Names, put_values, stored_shape, variables_of
from lcjax.nnx.arguments import model_and_method
from lcjax.nnx.functional import nested
from lcjax.nnx.modules import is_rewritten
from lcjax.nnx.rewritten import ATTRIBUTE, Slope
from lcjax.nnx.trace import trace

_MAX_DIFFERENCES = 6  # in a message
_SMALL = 2**20  # bytes: statistics of norms are below it, and caches above it stay abstract


def module_source(contents: Contents, model: Any, inputs: Sequence[Any]) -> TracedSource:
    """Returns a checkpoint of `nnx.state(model)`, of its pure dict, or of its Params alone.

    Args:
      contents: the state.
      model: as for `lcjax.nnx.trace`, of ShapeDtypeStructs; the values of slopes and statistics are
        written into it.
      inputs: example inputs; arrays or ShapeDtypeStructs.

    Raises:
      CheckpointError: leaves that differ from the model's.
      CollapseError: a model that is compact already, or as of `lcjax.nnx.trace`.
    """
    module, _ = model_and_method(model)
    _check_deep(module)
    found = variables_of(module)
    stored = {tuple(map(str, path)): place for path, place in contents.variables().items()}
    _check_same(contents, found, stored)
    small = {
        names: stored[names]
        for names, (_, variable) in found.items()
        if names in stored and _is_read(variable)
    }
    put_values(module, contents.read(small))
    call = trace(model, *inputs).call
    rest = {
        path: stored[names]
        for names, (path, variable) in found.items()
        if names in stored and not isinstance(variable, Slope)
    }
    shapes = {path: shape_of(contents.records[place]) for path, place in rest.items()}
    leaves: dict[LeafPath, LeafPath] = {(MODEL, *path): place for path, place in rest.items()}
    return TracedSource(contents, call, leaves, nested(shapes))


def _is_read(variable: nnx.Variable) -> bool:
    """Returns whether a variable is a slope, or state that may be the statistics of a norm."""
    value = variable.get_value()
    is_state = not isinstance(variable, nnx.Param | nnx.RngState | nnx.Cache)
    return isinstance(variable, Slope) or (is_state and value.size * value.dtype.itemsize <= _SMALL)


def _check_deep(module: nnx.Module) -> None:
    for path, node in nnx.iter_graph(module):
        if is_rewritten(node) and getattr(node, ATTRIBUTE).fused:
            name = "/".join(map(str, path)) or "the model"
            raise CollapseError(
                f"{name}: is compact already, expected a deep model, with slopes or without. "
                "Collapse a compact one in memory by lcjax.nnx.collapse."
            )


def _check_same(
    contents: Contents, found: Mapping[Names, Any], stored: Mapping[Names, LeafPath]
) -> None:
    """Raises unless a checkpoint has all Params of a model, and nothing else than its state."""
    ours: dict[LeafPath, str] = {
        names: describe(shape_of(contents.records[place])) for names, place in stored.items()
    }
    theirs: dict[LeafPath, str] = {
        names: describe(stored_shape(variable.get_value()))
        for names, (_, variable) in found.items()
        if names in stored or isinstance(variable, nnx.Param)
    }
    lines = diff(ours, theirs, "checkpoint", "model")
    if not lines:
        return
    if inside := _inside(found, stored):
        raise CheckpointError(
            f"{contents.checkpoint.path}: has the model's Params under {joined(inside)}; give "
            f"--params {joined(inside)}."
        )
    others = len(lines) - _MAX_DIFFERENCES
    shown = "; ".join(lines[:_MAX_DIFFERENCES]) + (f"; and {others} more" if others > 0 else "")
    raise CheckpointError(
        f"{contents.checkpoint.path}: checkpoint and model differ at {len(lines)} leaves: "
        f"{printable_lines(shown)}. Give the model that was saved."
    )


def _inside(found: Mapping[Names, Any], stored: Mapping[Names, LeafPath]) -> Names:
    """Returns the path under which a checkpoint has all Params of a model; () for none."""
    params = [names for names, (_, variable) in found.items() if isinstance(variable, nnx.Param)]
    first = params[0] if params else ()
    for names in stored:
        root = names[: len(names) - len(first)]
        if names[len(root) :] == first and all((*root, *each) in stored for each in params):
            return root
    return ()
