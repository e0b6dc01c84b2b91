"""Pairs of layers that are named by rules, where there is no model."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lcjax._messages import first_few, printable
from lcjax.errors import CollapseError
from lcjax.io.containers import VARIABLE, assemble
from lcjax.io.leaves import LeafPath, joined
from lcjax.io.traced.contents import Contents
from lcjax.io.traced.contents import shape as shape_of
from lcjax.io.traced.source import MODEL, TracedSource
from lcjax.transform.collapsible import collapsible

_KERNELS, _BIASES = ("kernel", "weight", "w"), ("bias", "b")


class PairRule(NamedTuple):
    """Which kernels make pairs: globs of the layers, in which `*` is the same in each layer.

    Attributes:
      up: of the Dense before the activation.
      down: of the Dense after it.
      gate: of the Dense inside the activation of a gated unit, `act(x G) * (x U)`; None for none.
    """

    up: str
    down: str
    gate: str | None = None

    @classmethod
    def parse(cls, text: str) -> "PairRule":
        """Returns the rule `UP,DOWN` or `GATE,UP,DOWN`.

        Raises:
          ValueError: another number of parts.

        Example:
          >>> PairRule.parse("layers/*/gate,layers/*/up,layers/*/down").gate
          'layers/*/gate'
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) not in (2, 3) or not all(parts):
            raise ValueError(
                f"pair: got {text!r}, expected UP,DOWN or GATE,UP,DOWN, globs of paths of layers, "
                "such as layers/*/up,layers/*/down."
            )
        return cls(*parts) if len(parts) == 2 else cls(parts[1], parts[2], parts[0])

    @property
    def parts(self) -> tuple[str, ...]:
        """Its globs: up, down, and gate if there is one."""
        return (self.up, self.down) if self.gate is None else (self.up, self.down, self.gate)


class _Layer(NamedTuple):
    """The leaves of a Dense."""

    kernel: LeafPath
    bias: LeafPath | None

    def __call__(self, leaves: Mapping[LeafPath, Any], x: jax.Array) -> jax.Array:
        """Returns its output for x, (..., d_in)."""
        y = x.astype(leaves[self.kernel].dtype) @ leaves[self.kernel]
        return y if self.bias is None else y + leaves[self.bias].astype(y.dtype)


def pairs_source(contents: Contents, rules: Sequence[PairRule]) -> TracedSource:
    """Returns a checkpoint as the params of a function that is the pairs of some rules.

    A kernel is (d_in, d_out), or (layers, d_in, d_out) for stacked layers. Its bias is the leaf
    `bias` or `b` next to it. The slopes are 1: what is between the two layers of a pair is taken
    for the identity, and the gate of a gated unit for 1.

    Args:
      contents: the params.
      rules: each may name many pairs.

    Raises:
      CollapseError: a rule that matches no pair, with the layers that there are; a layer in two
        pairs; shapes that do not compose; leaves next to a kernel of which the use is not known.
    """
    stored = contents.variables()
    shapes = {path: shape_of(contents.records[place]) for path, place in stored.items()}
    pairs = [pair for rule in rules for pair in _matches(rule, shapes)]
    _check_pairs(pairs, shapes)
    kinds = {path: kind for path, kind in contents.kinds.items() if kind != VARIABLE}
    model = assemble(shapes, kinds)

    def fn(params: Any, *inputs: jax.Array) -> list[jax.Array]:
        leaves = {path: _at(params, path) for path in shapes}
        return [_run(pair, leaves, x) for pair, x in zip(pairs, inputs, strict=True)]

    inputs = [
        jax.ShapeDtypeStruct((1, shapes[up.kernel].shape[-2]), shapes[up.kernel].dtype)
        for up, *_ in pairs
    ]
    traced = collapsible(fn)
    call = traced.trace({MODEL: model, "slopes": {}, "fused": {}}, *inputs)
    if len(call.sites) != len(pairs):
        raise CollapseError(f"pair: found {len(call.sites)} sites.\n{call.explain()}")
    slopes = {
        site.path: {"slope": np.ones(shapes[pair[0].kernel].shape[:-2], np.float32)}
        for site, pair in zip(call.sites, pairs, strict=True)
    }
    call = call.with_variables({MODEL: model, "slopes": slopes, "fused": {}})
    leaves = {(MODEL, *path): stored[path] for path in shapes}
    return TracedSource(contents, call, leaves, model, keeps_slopes=False)


def _run(pair: Sequence[_Layer], leaves: Mapping[LeafPath, Any], x: jax.Array) -> jax.Array:
    """Returns the output of a pair; of stacked layers that of each."""
    up, down, *gates = pair
    names = [name for layer in pair for name in layer if name is not None]

    def one(own: Mapping[LeafPath, Any]) -> jax.Array:
        hidden = up(own, x)
        for gate in gates:
            hidden = jax.nn.silu(gate(own, x)).astype(hidden.dtype) * hidden
        return down(own, hidden if gates else jax.nn.relu(hidden))

    own = {name: leaves[name] for name in names}
    if leaves[up.kernel].ndim == 2:
        return one(own)
    keys = list(own)
    return jax.lax.scan(
        lambda _, layer: (None, one(dict(zip(keys, layer, strict=True)))), None, list(own.values())
    )[1]


def _matches(rule: PairRule, shapes: Mapping[LeafPath, Any]) -> list[tuple[_Layer, ...]]:
    """Returns the layers of each pair of a rule: up, down and perhaps gate.

    Raises:
      CollapseError: none; a layer for which there is no partner.
    """
    found = []
    for part in rule.parts:
        layers = {}
        for path, leaf in shapes.items():
            match = _pattern(part).fullmatch(_name(path)) or _pattern(part).fullmatch(joined(path))
            if match and len(leaf.shape) >= 2 and path[-1] not in _BIASES:
                layers[match.groups()] = path
        found.append(layers)
        if not layers:
            known = {_name(path) for path, leaf in shapes.items() if len(leaf.shape) >= 2}
            raise CollapseError(
                f"pair: {printable(part)!r} matches no kernel; there are {first_few(known)}."
            )
    for part, layers in zip(rule.parts, found, strict=True):
        for other, others in zip(rule.parts, found, strict=True):
            if lonely := layers.keys() - others.keys():
                name = joined(layers[min(lonely)])
                raise CollapseError(
                    f"pair: {name} matches {printable(part)!r}, and nothing with the same text for "
                    f"each * matches {printable(other)!r}. Give globs of the layers of one pair."
                )
    return [tuple(_layer(layers[key], shapes) for layers in found) for key in found[0]]


def _layer(kernel: LeafPath, shapes: Mapping[LeafPath, Any]) -> _Layer:
    """Returns a kernel with its bias.

    Raises:
      CollapseError: other leaves next to it.
    """
    if kernel[-1] not in _KERNELS:
        return _Layer(kernel, _bias_of_name(kernel, shapes))
    beside = [path for path in shapes if path[:-1] == kernel[:-1] and path != kernel]
    biases = [path for path in beside if path[-1] in _BIASES]
    if len(biases) < len(beside) or len(biases) > 1:
        others = [path for path in beside if path not in biases[:1]]
        raise CollapseError(
            f"pair: {joined(kernel)} has {first_few(map(joined, others))} next to it, expected a "
            "kernel and at most a bias. Give the model with --model."
        )
    return _Layer(kernel, biases[0] if biases else None)


def _bias_of_name(kernel: LeafPath, shapes: Mapping[LeafPath, Any]) -> LeafPath | None:
    """Returns None for a kernel with a name of its own, of which no bias is known.

    Raises:
      CollapseError: vectors of its width next to it, which may be its bias.
    """
    *stack, _, width = shapes[kernel].shape
    for path, leaf in shapes.items():
        if path[:-1] == kernel[:-1] and leaf.shape == (*stack, width):
            raise CollapseError(
                f"pair: {joined(path)} may be the bias of {joined(kernel)}, expected a kernel "
                f"named {', '.join(_KERNELS)} with a bias named {' or '.join(_BIASES)}. Give the "
                "model with --model."
            )
    return None


def _check_pairs(pairs: Sequence[Sequence[_Layer]], shapes: Mapping[LeafPath, Any]) -> None:
    seen: set[LeafPath] = set()
    for up, down, *gates in pairs:
        for layer in (up, down, *gates):
            if layer.kernel in seen:
                raise CollapseError(
                    f"pair: {joined(layer.kernel)} is in two pairs, expected one. Give the model "
                    "with --model, which collapses chains of more layers."
                )
            seen.add(layer.kernel)
        first, last = shapes[up.kernel].shape, shapes[down.kernel].shape
        alike = all(shapes[gate.kernel].shape == first for gate in gates)
        if not alike or len(first) not in (2, 3) or first[:-2] + first[-1:] != last[:-1]:
            raise CollapseError(
                f"pair: {joined(up.kernel)} is {first} and {joined(down.kernel)} {last}, expected "
                "(d_in, d_hidden) and (d_hidden, d_out), or such kernels stacked on a first axis, "
                "and gates as the first. Give the model with --model."
            )


def _name(path: LeafPath) -> str:
    """Returns the path of a layer: that of its kernel without a last word for kernel."""
    return joined(path[:-1] if path[-1] in _KERNELS and len(path) > 1 else path)


def _pattern(glob: str) -> re.Pattern[str]:
    """Returns a glob as a pattern with a group for every star; `*` stays within a name."""
    parts = re.split(r"(\*\*|\*)", glob)
    star = {"*": "([^/]*)", "**": "(.*)"}
    return re.compile("".join(star.get(part) or re.escape(part) for part in parts))


def _at(tree: Any, path: LeafPath) -> Any:
    for key in path:
        tree = tree[key]
    return tree
