"""The report of a collapse."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lcjax._table import render
from lcjax.structure.choice import Skip
from lcjax.structure.front_end import Rebuilt
from lcjax.structure.replacement import Replacement, SegmentFit
from lcjax.structure.segment import Segment
from lcjax.structure.sites import Sites

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class CollapseReport:
    """What a collapse did; a pytree whose paths are static, so that it can leave `jax.jit`.

    Attributes:
      gaps: `|1 − α|` that every collapsed site had, by site path; float32, one for each of the
        layers that `nn.scan` stacks. A leaf, as `units`.
      collapsed: paths of the collapsed sites, in forward order.
      factored: those of them whose Dense pair stays two matrices, because one would be larger.
      skipped: the sites that stay, each with the reason.
      new_leaves: paths inside params of the leaves that surgery made; every other leaf is the
        input's.
      removed_leaves: paths inside params of the input's leaves that are not in the tree any more.
      parameters_before: of all params, slopes left out.
      parameters_after: the same of the compact params.
      flops_before: multiply-adds times two for one token through the chains that were touched.
      flops_after: the same once collapsed.
      fits: how well the fits do that took sites' places, and which ranks were lowered.
      units: indices of the hidden units that stay, increasing, by the site that was narrowed.
    """

    gaps: dict[str, Any]
    collapsed: tuple[str, ...] = field(metadata=_STATIC)
    factored: tuple[str, ...] = field(metadata=_STATIC)
    skipped: tuple[Skip, ...] = field(metadata=_STATIC)
    new_leaves: tuple[str, ...] = field(metadata=_STATIC)
    removed_leaves: tuple[str, ...] = field(metadata=_STATIC)
    parameters_before: int = field(metadata=_STATIC)
    parameters_after: int = field(metadata=_STATIC)
    flops_before: int = field(metadata=_STATIC)
    flops_after: int = field(metadata=_STATIC)
    fits: tuple[SegmentFit, ...] = field(default=(), metadata=_STATIC)
    units: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Returns a table of the sites, the totals, and how well fits do."""
        forms = {path: "two factors" for path in self.factored}
        rows = [
            (path, _shown(self.gaps[path]), forms.get(path, "one matrix"))
            for path in self.collapsed
        ]
        rows += [(skip.site, "", f"stays: {skip}") for skip in self.skipped]
        lines = [render(("site", "gap", "became"), rows, left=3)]
        if any(fit.tokens for fit in self.fits):
            headers = ("fit of", "tokens", "error", "R²", "held out", "error", "R²")
            lines.append(render(headers, [_row(fit) for fit in self.fits if fit.tokens]))
        lines += [f"{', '.join(fit.sites)}: {note}" for fit in self.fits for note in _notes(fit)]
        lines.append(
            f"parameters {self.parameters_before:,} → {self.parameters_after:,}, "
            f"FLOPs/token of the chains touched {self.flops_before:,} → {self.flops_after:,}"
        )
        return "\n".join(lines)


def make_report(
    sites: Sites,
    replacements: Mapping[Segment, Replacement],
    rebuilt: Rebuilt,
    skipped: Iterable[Skip],
    slopes: Mapping[str, Any] | None = None,
) -> CollapseReport:
    """Returns the report of a collapse.

    Args:
      sites: of the model before it.
      replacements: that were written.
      rebuilt: what the front end made of them.
      skipped: the sites that stay.
      slopes: by site, where others than the segments' own said which sites are linear.
    """
    collapsed = {site for each in replacements.values() for site in each.collapsed}
    joints = [joint for segment in replacements for joint in segment.joints]
    own = {joint.site: joint.slope for joint in joints if joint.site in collapsed}
    factored = {
        segment.joints[cut].site for segment, each in replacements.items() for cut in each.cuts
    }
    return CollapseReport(
        gaps={site: _gap((slopes or own)[site]) for site in own if site is not None},
        collapsed=tuple(path for path in sites.paths if path in collapsed),
        factored=tuple(path for path in sites.paths if path in factored & collapsed),
        skipped=tuple(skipped),
        new_leaves=rebuilt.written,
        removed_leaves=rebuilt.removed,
        parameters_before=rebuilt.before.parameters,
        parameters_after=rebuilt.after.parameters,
        flops_before=rebuilt.before.flops,
        flops_after=rebuilt.after.flops,
        fits=tuple(fit for each in replacements.values() for fit in each.fits),
        units={
            segment.sites[0]: each.units
            for segment, each in replacements.items()
            if each.units is not None
        },
    )


def _gap(slope: Any) -> Any:
    if isinstance(slope, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(slope.shape, jnp.float32)
    return jnp.abs(1 - jnp.asarray(slope)).astype(jnp.float32)


def _row(fit: SegmentFit) -> list[str]:
    numbers = [fit.error, fit.r2, fit.held_out_error, fit.held_out_r2]
    error, r2, held_out_error, held_out_r2 = ("–" if n is None else f"{n:.4f}" for n in numbers)
    name = f"{', '.join(fit.sites)} ({fit.fit})"
    return [
        name,
        f"{fit.tokens:,}",
        error,
        r2,
        f"{fit.held_out_tokens:,}",
        held_out_error,
        held_out_r2,
    ]


def _notes(fit: SegmentFit) -> list[str]:
    if fit.rank is None:
        return list(fit.notes)
    return [*fit.notes, f"factors of rank {fit.rank:,}, relative error {fit.truncation:.4f}"]


def _shown(gap: Any) -> str:
    if isinstance(gap, (Tracer, jax.ShapeDtypeStruct)):
        return "?"
    return f"{np.max(gap):.4f}"
