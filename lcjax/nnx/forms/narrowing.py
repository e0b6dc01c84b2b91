"""Sites that keep some units, as narrower kernels of the module's own layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lcjax.algebra.fuse import DenseParams
from lcjax.errors import CollapseError
from lcjax.nnx.calls.owners import Owner, Part
from lcjax.nnx.forms.same_program import same_program
from lcjax.nnx.functional import Path, as_path, node_at
from lcjax.transform.analysis.dense import DenseOp, root
from lcjax.transform.ir.primitives import PASSTHROUGH, RESHAPES
from lcjax.transform.ir.program import Value
from lcjax.transform.lowering.bound_call import BoundCall
from lcjax.transform.lowering.own_layout import in_own_layout
from lcjax.transform.matching.unit_path import UnitPath, unit_path
from lcjax.transform.params.entries import NarrowSite, read_entry


@dataclass(frozen=True, eq=False)
class _Edit:
    """A new value of a Param.

    Attributes:
      path: of the Param in the module.
      value: the value, in the layout of the Param.
      widths: input and output of the Dense before and after; None for what is no kernel.
      adds: the shape of a bias that the layer did not have, as it was.
    """

    path: Path
    value: Any
    widths: tuple[tuple[int, int], tuple[int, int]] | None = None
    adds: tuple[int, ...] | None = None


def narrow_in_place(model: nnx.Module, owner: Owner) -> list[Part]:
    """Writes entries that only keep units into the Params of a module, where its code allows.

    The module then runs its own code on narrower kernels. Its code may depend on the width, as by a
    constant: an entry is written only where the program for the new widths is the same.

    Args:
      model: the model, which is changed.
      owner: the module that the entries belong to.

    Returns:
      the entries that were written.
    """
    written = []
    for part in owner.parts:
        edits = _edits(owner, part)
        if edits and same_program(owner.run, *(_narrowed(owner, edits, a) for a in (True, False))):
            _write(node_at(model, owner.run.path), edits)
            written.append(part)
    return written


def _edits(owner: Owner, part: Part) -> list[_Edit] | None:
    """Returns the new values of all Params of an entry; None where Params cannot hold it."""
    if not part.key.units or not all(part.key.units):
        return None
    call, entry = owner.call, read_entry(part.entry, part.name, part.key)
    sites = {site.path: site for site in call.analysis.sites}
    chain = [sites[path] for path in part.key.sites]
    runs = (*entry.runs, *(narrow.gate for narrow in entry.narrow))
    if any(len(run) > 1 for run in runs) or any(site.stack for site in chain):
        return None
    denses = [chain[0].match.up, *(site.match.down for site in chain)]
    try:
        paths = [unit_path(call.analysis, site) for site in chain]
    except CollapseError:
        return None
    edits: list[_Edit | None] = []
    for i, (dense, (layer,)) in enumerate(zip(denses, entry.runs, strict=True)):
        bypass = entry.narrow[i - 1].bypass if i else None
        if i < len(paths) and _shares_kernel(paths[i], dense):
            (gate,) = entry.narrow[i].gate
            edits += [None] if bypass else _joined(owner, paths[i], dense, layer, gate)
            continue
        if bypass is not None and "kernel" in bypass:
            return None
        biases = [each["bias"] for each in (layer, bypass) if each and "bias" in each]
        edits += _layer(owner, dense, {"kernel": layer["kernel"]}, sum(biases) if biases else None)
    for path, site, narrow in zip(paths, chain, entry.narrow, strict=True):
        edits += _between(owner, path, site.match.up, narrow)
    return None if None in edits else [edit for edit in edits if edit is not None]


def _shares_kernel(path: UnitPath, up: DenseOp) -> bool:
    """Returns whether the Dense before a site is also that of its gate, in one kernel."""
    return sum(source.dense is up for source in path.sources.values()) > 1


def _joined(
    owner: Owner, path: UnitPath, up: DenseOp, layer: DenseParams, gate: DenseParams
) -> Iterator[_Edit | None]:
    """Yields the new values of a kernel that is gate and value; None where it cannot hold them."""
    found = in_own_layout(up, path, layer, gate)
    if found is None:
        yield None
        return
    parts = up.d_out // len(path.sources[path.value].columns)
    widths = (up.d_in, up.d_out), (up.d_in, parts * layer["kernel"].shape[-1])
    for leaf, value in found.items():
        kernel = leaf is up.leaf and value.shape == widths[1]
        yield _Edit(as_path(owner.call.name_of(leaf)), value, widths if kernel else None)


def _between(
    owner: Owner, path: UnitPath, up: DenseOp, narrow: NarrowSite
) -> Iterator[_Edit | None]:
    """Yields the new values of the gate and of vectors over units; None for what has no place."""
    for source in path.sources.values():
        if source.dense is up:
            continue
        if not np.array_equal(source.columns, np.arange(source.dense.d_out)):
            yield None
        else:
            for gate in narrow.gate:
                yield from _layer(owner, source.dense, gate, gate.get("bias"))
    for each, vector in zip(path.vectors, narrow.vectors, strict=True):
        yield _vector(owner.call, each.value, vector)


def _layer(owner: Owner, dense: DenseOp, layer: DenseParams, bias: Any) -> Iterator[_Edit | None]:
    """Yields the new values of a Dense; None where it cannot hold them."""
    leaf = _leaf(owner.call, dense.kernel)
    if leaf is None or len(dense.kernel_in) != 1 or len(dense.kernel_out) != 1:
        yield None
        return
    kernel = layer["kernel"]
    shape = [1] * len(dense.kernel.shape)
    (i,), (o,) = dense.kernel_in, dense.kernel_out
    shape[i], shape[o] = kernel.shape
    path = as_path(owner.call.name_of(leaf))
    widths = (dense.d_in, dense.d_out), tuple(kernel.shape)
    yield _Edit(path, jnp.reshape(kernel if i < o else kernel.T, shape), widths)
    if dense.bias is not None:
        zeros = jnp.zeros(kernel.shape[1], kernel.dtype)
        yield _vector(owner.call, dense.bias, zeros if bias is None else bias)
    elif bias is not None:
        node = node_at(owner.run.module, path[:-1])
        plain = isinstance(node, (nnx.Linear, nnx.Conv)) and node.bias is None
        yield _Edit((*path[:-1], "bias"), bias, adds=(dense.d_out,)) if plain else None


def _vector(call: BoundCall, value: Value, new: Any) -> _Edit | None:
    """Returns the new value of a Param that has one axis of units."""
    leaf = _leaf(call, value)
    sizes = [] if leaf is None else [size for size in leaf.shape if size != 1]
    if leaf is None or len(sizes) != 1:
        return None
    shape = [len(new) if size != 1 else 1 for size in leaf.shape]
    return _Edit(as_path(call.name_of(leaf)), jnp.reshape(new, shape))


def _leaf(call: BoundCall, value: Value) -> Value | None:
    """Returns the Param that a value is, but for its dtype and axes of size 1."""
    origin, ops = root(value)
    plain = all(op.name in (PASSTHROUGH | RESHAPES) - {"transpose"} for op in ops)
    return origin if plain and origin in call.program.leaves else None


def _narrowed(owner: Owner, edits: Sequence[_Edit], whole: bool) -> nnx.Module:
    """Returns the module with abstract new values, or with only new biases, of all units."""
    module = nnx.clone(owner.run.module)
    shapes = []
    for edit in edits:
        shape = jax.ShapeDtypeStruct(edit.value.shape, edit.value.dtype)
        if not whole:
            shapes.append(_Edit(edit.path, shape, edit.widths, edit.adds))
        elif edit.adds is not None:
            full = jax.ShapeDtypeStruct(edit.adds, edit.value.dtype)
            shapes.append(_Edit(edit.path, full, adds=edit.adds))
    _write(module, shapes)
    return module


def _write(module: nnx.Module, edits: Sequence[_Edit]) -> None:
    """Writes new values into the Params of a module, and widths into the layers' attributes."""
    for edit in edits:
        node = node_at(module, edit.path[:-1])
        if edit.adds is not None:
            node.bias, node.use_bias = nnx.Param(edit.value), True
            continue
        variable = node_at(module, edit.path)
        old = variable.get_value()
        variable.set_value(
            edit.value
            if isinstance(edit.value, jax.ShapeDtypeStruct)
            else (jnp.asarray(edit.value, old.dtype))
        )
        if edit.widths is not None:
            for name, before, after in zip(
                ("in_features", "out_features"), *edit.widths, strict=True
            ):
                if getattr(node, name, None) == before:
                    setattr(node, name, after)
            if getattr(node, "kernel_shape", None) == tuple(old.shape):
                node.kernel_shape = tuple(edit.value.shape)
