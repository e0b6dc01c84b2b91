"""Segments: the Dense layers that one replacement stands for, and what is between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lcjax.algebra.fingerprints import fingerprint
from lcjax.algebra.fuse import Affine, DenseParams, Norm


class Joint(NamedTuple):
    """What is between two Dense layers of a segment, unit by unit: `after ∘ activation ∘ before`.

    Every affine map is over the units that the next layer reads, in the order in which it reads
    them. None stands for the identity.

    Attributes:
      site: path of the activation to remove; None where an earlier collapse removed it, or where
        two layers are factors of one map.
      slope: its α, float (...); None where site is None.
      before: applied to the input of the activation; only traced functions have one.
      linear: what the activation becomes at slope 1, where that is not the identity: a gated unit
        of a traced function whose gate multiplies by constants has one. Solvers that replace the
        activation by fitted values leave it out.
      after: applied to the output of the activation: an affine map or a batch norm.
      bypass: affine map of the input of the layer before that is added to the output of the layer
        after, where an earlier collapse left one: bias, and perhaps kernel.
    """

    site: str | None
    slope: Any = None
    before: Affine | None = None
    linear: Affine | None = None
    after: Affine | Norm | None = None
    bypass: DenseParams | None = None


class Entry(NamedTuple):
    """A bypass of the pair before a segment, added to the output of the segment's first layer.

    Its kernel is stacked on that of the first layer, and its input precedes the segment's.

    Attributes:
      name: of the bypass; a params tree takes the path of the module.
      width: how many leading rows of the first layer's kernel are those of the bypass; 0 where it
        is a bias alone.
    """

    name: str
    width: int


class SegmentId(NamedTuple):
    """Which segment this is, without its arrays; hashable, for checking a calibration.

    Attributes:
      key: as of the segment.
      names: as of the segment.
      sites: as of the segment.
      widths: as of the segment.
      experts: as of the segment.
    """

    key: str
    names: tuple[str, ...]
    sites: tuple[str, ...]
    widths: tuple[int, ...]
    experts: tuple[int, ...] = ()

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.widths[0]

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return self.widths[-1]

    @property
    def parts(self) -> tuple["SegmentId", ...]:
        """Those of its experts, or itself where it has none."""
        if not self.experts:
            return (self,)
        return tuple(
            SegmentId(
                expert_name(self.key, index),
                tuple(expert_name(name, index) for name in self.names),
                tuple(expert_name(site, index) for site in self.sites),
                self.widths,
            )
            for index in np.ndindex(self.experts)
        )


def expert_name(name: str, index: Sequence[int]) -> str:
    """Returns the name of one expert of a layer, site or segment: `moe/wi[2]`."""
    return f"{name}[{','.join(map(str, index))}]"


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity: it holds arrays
class Segment:
    """Dense layers that one replacement stands for: all that solvers know of a model.

    The layers run one after another with a joint between two neighbours. Layers may be arrays of
    NumPy or JAX, tracers, or ShapeDtypeStructs. A front end makes segments; no two segments of one
    `segments` call share a layer.

    Attributes:
      layers: n + 1 Dense layers, kernel (..., d_in, d_out) and perhaps bias (..., d_out), each with
        the units that the joint after it takes, in the order that the next layer reads.
      joints: n of them.
      names: n + 1 names of the layers for messages; unique in the model. A params tree takes the
        paths of the modules.
      key: of the statistics of input and output; unique in the model.
      gates: Dense layers that read the segment's input too and go with it: those of gated units.
        Least squares takes their kernels into account when it weighs inputs.
      entry: a bypass that the first layer's kernel and bias include; None for none.
      experts: sizes of the leading axes of kernels that count experts, whose values are observed
        one by one: statistics have the keys of `parts`.
      ends: whether its last layer is the last of its chain.
    """

    layers: tuple[DenseParams, ...]
    joints: tuple[Joint, ...]
    names: tuple[str, ...]
    key: str
    gates: tuple[DenseParams, ...] = ()
    entry: Entry | None = None
    experts: tuple[int, ...] = ()
    ends: bool = True

    @property
    def sites(self) -> tuple[str, ...]:
        """Paths of the activations to remove, in forward order; at least one."""
        return tuple(joint.site for joint in self.joints if joint.site is not None)

    @property
    def pair(self) -> "Segment":
        """The two layers around its one site, without the factors that earlier collapses left."""
        if len(self.layers) == 2:
            return self
        (i,) = (i for i, joint in enumerate(self.joints) if joint.site is not None)
        return replace(
            self,
            layers=self.layers[i : i + 2],
            joints=self.joints[i : i + 1],
            names=self.names[i : i + 2],
            key=self.key if i + 2 == len(self.layers) else self.names[i + 1],
            gates=self.gates if i == 0 else (),
            entry=self.entry if i == 0 else None,
            ends=self.ends and i + 2 == len(self.layers),
        )

    @property
    def label(self) -> str:
        """The sites in one line, as messages name the segment."""
        return ", ".join(self.sites)

    @property
    def widths(self) -> tuple[int, ...]:
        """d_0, d_1, ..., d_n: the widths between, before and after the layers."""
        kernels = [layer["kernel"] for layer in self.layers]
        return (kernels[0].shape[-2], *(kernel.shape[-1] for kernel in kernels))

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.widths[0]

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return self.widths[-1]

    @property
    def stacked(self) -> tuple[int, ...]:
        """Leading axes of the kernels: layers that `nn.scan` or `lax.scan` stacks."""
        return tuple(self.layers[0]["kernel"].shape[:-2])

    @property
    def id(self) -> SegmentId:
        """Which segment this is: equal for the same place of a model, whatever its values."""
        return SegmentId(self.key, self.names, self.sites, self.widths, self.experts)

    @property
    def parts(self) -> tuple["Segment", ...]:
        """The segments of its experts, each with an index in its names; itself without experts."""
        if not self.experts:
            return (self,)
        parts = []
        for index, part in zip(np.ndindex(self.experts), self.id.parts, strict=True):
            one = partial(_of_expert, index=index)
            parts.append(
                replace(
                    self,
                    layers=tuple(map(one, self.layers)),
                    joints=tuple(_joint_of_expert(joint, index) for joint in self.joints),
                    names=part.names,
                    key=part.key,
                    gates=tuple(map(one, self.gates)),
                    experts=(),
                )
            )
        return tuple(parts)

    @cached_property
    def weights(self) -> str | None:
        """Fingerprint of the values; None where they are traced or abstract."""
        leaves = jax.tree.leaves((self.layers, self.gates, [joint[1:] for joint in self.joints]))
        return fingerprint([leaf for leaf in leaves if hasattr(leaf, "dtype")])


def _of_expert(params: Mapping[str, Any], index: tuple[int, ...]) -> dict[str, Any]:
    return {name: array[index] for name, array in params.items()}


def _joint_of_expert(joint: Joint, index: tuple[int, ...]) -> Joint:
    """Returns what is between the layers of one expert; maps may be the same for all of them."""

    def vector(array: Any) -> Any:
        return array if array is None or array.ndim < 2 else array[index]

    def one(each: Any) -> Any:
        return None if each is None else Affine(*map(vector, each))

    site = None if joint.site is None else expert_name(joint.site, index)
    slope = joint.slope if not np.ndim(joint.slope) else joint.slope[index]
    maps = (one(each) for each in (joint.before, joint.linear, joint.after))
    return Joint(site, slope, *maps, bypass=joint.bypass and _of_expert(joint.bypass, index))
