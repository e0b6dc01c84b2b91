"""Runs: neighbouring sites of a function, all of them linear, as the Dense chains they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from lcjax.algebra.fingerprints import fingerprint
from lcjax.algebra.fuse import Affine, Norm
from lcjax.algebra.fuse import DenseParams as Factor
from lcjax.structure import runs
from lcjax.structure.chains import Chain
from lcjax.surgery.checks import replaced
from lcjax.surgery.replacement import Replace
from lcjax.surgery.report import SegmentFit
from lcjax.transform.analysis.dense import DenseOp
from lcjax.transform.lowering.joints import joint_of, select_units, shaped, wide
from lcjax.transform.lowering.weights import Leaves, matrix, vector
from lcjax.transform.matching.find_sites import MatchedSite

# The factors that earlier collapses made of some sites, by these sites' paths.
EarlierFactors = Mapping[tuple[str, ...], Sequence[Factor]]


@dataclass(frozen=True, eq=False, repr=False)
class SiteChain:
    """Neighbouring sites of one chain, all of them linear: one matrix, or several factors.

    Attributes:
      sites: in forward order; the Dense after one is the Dense before the next.
    """

    sites: tuple[MatchedSite, ...]

    @property
    def first(self) -> DenseOp:
        """The Dense that the run starts with."""
        return self.sites[0].match.up

    @property
    def last(self) -> DenseOp:
        """The Dense that it ends with."""
        return self.sites[-1].match.down

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of its sites."""
        return tuple(site.path for site in self.sites)

    @property
    def leaves(self) -> frozenset[int]:
        """The leaves of the params that it alone needs, by index."""
        return frozenset().union(*(site.leaves for site in self.sites))


def site_chains(sites: Sequence[MatchedSite]) -> list[SiteChain]:
    """Returns the runs that these sites, in forward order, make."""
    found: list[list[MatchedSite]] = []
    for site in sites:
        before = [run for run in found if run[-1].match.down is site.match.up]
        if before:
            before[0].append(site)
        else:
            found.append([site])
    return [SiteChain(tuple(run)) for run in found]


def output_tokens(run: SiteChain) -> dict[int, int | None]:
    """Returns which token axis of a run's input each of its output is; None for one of size 1."""
    tokens: dict[int, int | None] = {}
    for site in run.sites:
        down = site.match.down
        rest = [axis for axis in range(len(down.x.shape)) if axis not in down.x_axes]
        roles = [site.match.roles[axis] for axis in rest]
        numbers = [None if role is None else role[1] for role in roles]
        if site is not run.sites[0]:
            numbers = [None if number is None else tokens[number] for number in numbers]
        tokens = dict(enumerate(numbers))
    return tokens


def summary(run: SiteChain, held: EarlierFactors) -> runs.Run:
    """Returns a run as statistics and fits know it: its new sites, and what flows in and out.

    It is called by its sites: by the first one's path on the way in, by the last one's on the way
    out.
    """
    old = {path for paths in held for path in paths}
    acts = tuple(i for i, site in enumerate(run.sites) if site.path not in old)
    return runs.Run(
        path="",
        denses=tuple(range(len(run.sites) + 1)),
        acts=acts,
        first=run.paths[0],
        last=run.paths[-1],
        sites=tuple(run.paths[i] for i in acts),
        d_in=run.first.d_in,
        d_out=run.last.d_out,
    )


def weights_of(
    run: SiteChain, held: EarlierFactors, leaves: Sequence[Any], slopes: Mapping[str, Any]
) -> str | None:
    """Returns a fingerprint of a run's weights; None where they are traced or abstract.

    Args:
      run: the sites.
      held: what earlier collapses made of some of the sites.
      leaves: of the model's params; ShapeDtypeStructs of those that are fused away.
      slopes: by the paths of the sites.
    """
    earlier = [factors for paths, factors in held.items() if set(paths) <= set(run.paths)]
    gone = {path for paths in held for path in paths}
    away = {i for site in run.sites if site.path in gone for i in site.leaves}
    own = [leaves[i] for i in sorted(run.leaves - away)]
    bent = [slopes[path] for path in run.paths if path in slopes]
    return fingerprint(jax.tree.leaves((own, earlier, bent)))


def fuse_run(
    run: SiteChain, leaves: Leaves, held: EarlierFactors, instead: Replace, *, apart: bool
) -> tuple[list[Factor], set[str], tuple[SegmentFit, ...]]:
    """Returns the factors of a run, the paths of the sites they are cut at, and how well they do.

    Args:
      run: the sites, those fused earlier among them.
      leaves: arrays or ShapeDtypeStructs of the leaves that are held.
      held: what earlier collapses made of some of the sites.
      instead: says what takes the place of the run.
      apart: whether what stands before an activation is kept apart from what stands after it.
    """
    denses: list[Factor] = []
    norms: dict[int, Norm] = {}
    sites: dict[int, MatchedSite] = {}  # by the index of the Dense before
    dtypes: list[Any] = []
    for piece, joint in _pieces(run, leaves, held):
        denses += piece
        dtypes += [factor["kernel"].dtype for factor in piece]
        if joint is None:
            continue
        steps = joint_of(joint, leaves)
        units = steps.input_units[steps.output_units]
        dense = {name: select_units(array, units) for name, array in denses[-1].items()}
        if apart and steps.before is not None:
            dense = _scaled(dense, steps.before)
        between = steps.after if apart else steps.both
        if between is not None and between.shift is None and not apart:
            dense, between = _scaled(dense, between), None
        sites[len(denses) - 1] = joint
        denses[-1] = dense
        if between is not None:
            norms[len(denses)] = _as_norm(between)
    whole = replace(summary(run, held), denses=tuple(range(len(denses))), acts=tuple(sites))
    chain = Chain("", dict(enumerate(denses)), dict.fromkeys(sites))
    parts, fits = replaced(instead, chain, whole, norms)
    factors = [
        _stored(denses[members[-1]], dtypes[members[-1]]) if part is None else part
        for members, part in parts
    ]
    cut = {sites[members[-1]].path for members, _ in parts[:-1] if members[-1] in sites}
    return factors, cut, fits


def _scaled(dense: Factor, affine: Affine) -> Factor:
    """Returns a Dense followed by a scale and a shift, as one, in wide floats."""

    def scaled(dense: Factor, affine: Affine) -> Factor:
        scale, shift = affine
        made = {"kernel": wide(dense["kernel"]) * scale[..., None, :]}
        if "bias" in dense:
            bias = wide(dense["bias"]) * scale
            made["bias"] = bias if shift is None else bias + shift
        elif shift is not None:
            made["bias"] = shift
        return made

    return shaped(scaled, dict(dense), affine)


def _stored(dense: Factor, dtype: Any) -> Factor:
    """Returns a Dense in the dtype in which its kernel is stored, where it was computed anew."""
    if dense["kernel"].dtype == dtype:
        return dense
    return shaped(lambda dense: {n: array.astype(dtype) for n, array in dense.items()}, dense)


def _as_norm(affine: Affine) -> Norm:
    """Returns a scale and a shift as the norm that they are."""
    width = affine.scale.shape[-1]
    stats = {"mean": np.zeros(width, np.float32), "var": np.ones(width, np.float32)}
    params = {"scale": affine.scale} | ({} if affine.shift is None else {"bias": affine.shift})
    return Norm(params, stats, 0.0)


def _pieces(
    run: SiteChain, leaves: Leaves, held: EarlierFactors
) -> Iterator[tuple[list[Factor], MatchedSite | None]]:
    """Yields the Dense layers and earlier factors of a run, each with the site that comes after."""
    earlier = {paths[0]: (len(paths), factors) for paths, factors in held.items()}
    position = 0
    while position <= len(run.sites):
        ahead = run.sites[position:]
        if ahead and ahead[0].path in earlier:
            covered, factors = earlier[ahead[0].path]
            position, piece = position + covered, list(factors)
        else:
            piece = [_arrays(ahead[0].match.up if ahead else run.last, run, leaves)]
        yield piece, run.sites[position] if position < len(run.sites) else None
        position += 1


def _arrays(dense: DenseOp, run: SiteChain, leaves: Leaves) -> Factor:
    kernel = matrix(dense, leaves)
    if dense.bias is None:
        return {"kernel": kernel}
    scans = run.sites[0].scans
    bias = vector(dense.bias, dense.roles, dense.out.shape, leaves, scans)
    return {"kernel": kernel, "bias": bias}
