"""The report of a collapse."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax._document import Document, Table
from lcjax.algebra.abstract import is_abstract
from lcjax.plots.network import plot_network
from lcjax.plots.picture import Picture
from lcjax.structure.chains.chain import bypass_of
from lcjax.structure.choice import Skip
from lcjax.structure.front_end import Rebuilt
from lcjax.structure.replacement import Replacement, SegmentFit
from lcjax.structure.segment import Segment
from lcjax.structure.sites import Sites
from lcjax.surgery.widths import HiddenWidth, Narrowed, blocks_of, hidden_widths
from lcjax.tree.paths import tree_order

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class CollapseReport(Document):
    """What a collapse did; a pytree whose paths are static, so that it can leave `jax.jit`.

    Attributes:
      gaps: `|1 − α|` that every collapsed site had, by site path; float32, one for each of the
        layers that `nn.scan` stacks. A leaf, like `units`.
      collapsed: paths of the sites whose activations were removed, in forward order.
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
      narrowed: the sites of which some hidden units stay, in forward order.
      removed: paths of the collapsed sites that a bias replaced.
      hidden_widths: of the sites before the collapse, in forward order, unpaired ones left out.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3), jax.nn.relu)
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 4)))
      >>> compact, report = lcjax.collapse(params, fit=lcjax.Exact(max_gap=1))
      >>> report.collapsed, report.parameters_before, report.parameters_after
      (('act_0',), 131, 15)
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
    narrowed: tuple[Narrowed, ...] = field(default=(), metadata=_STATIC)
    removed: tuple[str, ...] = field(default=(), metadata=_STATIC)
    hidden_widths: tuple[HiddenWidth, ...] = field(default=(), metadata=_STATIC)

    @property
    def hidden_width(self) -> int | None:
        """The hidden width of all MLPs, where the collapse left them the same; otherwise None.

        The model is then a standard one of that width. For params of Flax modules,
        `lcjax.without_bypasses` gives its tree.
        """
        narrowed = {each.site for each in self.narrowed}
        whole = {each.width for each in self.hidden_widths if each.site not in narrowed}
        counts = {each.count for each in self.narrowed} | whole
        unchanged = any(skip.reason != "unpaired" for skip in self.skipped)
        linear = any(each.linear for each in self.narrowed)
        others = unchanged or self.collapsed or linear or self.ranks
        return None if others or not narrowed or len(counts) != 1 else counts.pop()

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of the kernels by the site that `LowRank` was fitted to."""
        found = {site: fit for fit in self.fits if fit.fit == "low_rank" for site in fit.sites}
        return {site: fit.rank for site, fit in found.items() if fit.rank is not None}

    def plot(self, path: str | os.PathLike[str] | None = None) -> Picture:
        """Returns a picture of the network before and after: a block for each MLP, by its width.

        Args:
          path: writes it to this file as well, as SVG, PNG or PDF by the suffix.

        Raises:
          ImportError: without matplotlib, which lcjax's extra `plots` brings.
          ValueError: another suffix.
        """
        forms = dict.fromkeys(self.collapsed, "one matrix")
        forms |= dict.fromkeys(self.factored, "two factors") | dict.fromkeys(
            self.removed, "removed"
        )
        blocks = blocks_of(self.hidden_widths, forms, self.narrowed, self.ranks)
        picture = plot_network(blocks, (self.parameters_before, self.parameters_after))
        return picture if path is None else picture.saved(path)

    def _parts(self) -> list[Table | str]:
        """Returns a table of the sites, the totals, and how well fits do."""
        forms = dict.fromkeys(self.factored, "two factors") | dict.fromkeys(self.removed, "removed")
        rows = [
            (path, _shown(self.gaps[path]), forms.get(path, "one matrix"))
            for path in self.collapsed
        ]
        rows += [(each.site, "", str(each)) for each in self.narrowed]
        rows += [(site, "", f"kernels of rank {rank:,}") for site, rank in self.ranks.items()]
        rows += [(skip.site, "", f"stays: {skip}") for skip in self.skipped]
        lines: list[Table | str] = [Table(("site", "gap", "became"), rows, left=3)]
        if any(fit.tokens for fit in self.fits):
            headers = ("fit of", "tokens", "error", "R²", "held out", "error", "R²")
            lines.append(Table(headers, [_row(fit) for fit in self.fits if fit.tokens]))
        lines += [f"{', '.join(fit.sites)}: {note}" for fit in self.fits for note in _notes(fit)]
        lines.append(
            f"parameters {self.parameters_before:,} → {self.parameters_after:,}, "
            f"FLOPs/token of the chains touched {self.flops_before:,} → {self.flops_after:,}"
        )
        if self.hidden_width is not None:
            text = (
                f"every MLP has {self.hidden_width:,} hidden units: a standard model of that width"
            )
            of_modules = {f"{bypass_of(each.site)}/bias" for each in self.narrowed}
            if of_modules <= set(self.new_leaves):
                text += ", whose tree lcjax.without_bypasses gives"
            lines.append(text)
        return lines


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
    narrowed = {
        segment.sites[0]: Narrowed(
            segment.sites[0],
            len(each.units),
            segment.layers[-1]["kernel"].shape[-2],
            "kernel" in (each.bypass or ()),
        )
        for segment, each in replacements.items()
        if each.units is not None
    }
    removed = {s for each in replacements.values() if not each.layers for s in each.collapsed}
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
        narrowed=tuple(narrowed[path] for path in sites.paths if path in narrowed),
        removed=tuple(path for path in sites.paths if path in removed),
        hidden_widths=hidden_widths(sites),
    )


def merge_reports(
    parts: Sequence[CollapseReport], sites: Sites, skipped: Iterable[Skip], parameters: int
) -> CollapseReport:
    """Returns the report of a collapse that was made in parts, each of some chains alone.

    Args:
      parts: of trees with those chains only.
      sites: of the whole model before.
      skipped: the sites that stay.
      parameters: of the whole model before.
    """
    place = {path: i for i, path in enumerate(sites.paths)}

    def together(name: str, key: Any) -> tuple[Any, ...]:
        return tuple(sorted((one for part in parts for one in getattr(part, name)), key=key))

    saved = sum(part.parameters_before - part.parameters_after for part in parts)
    return CollapseReport(
        gaps={site: gap for part in parts for site, gap in part.gaps.items()},
        collapsed=together("collapsed", place.get),
        factored=together("factored", place.get),
        skipped=tuple(skipped),
        new_leaves=together("new_leaves", tree_order),
        removed_leaves=together("removed_leaves", tree_order),
        parameters_before=parameters,
        parameters_after=parameters - saved,
        flops_before=sum(part.flops_before for part in parts),
        flops_after=sum(part.flops_after for part in parts),
        fits=tuple(fit for part in parts for fit in part.fits),
        units={site: units for part in parts for site, units in part.units.items()},
        narrowed=together("narrowed", lambda each: place[each.site]),
        removed=together("removed", place.get),
        hidden_widths=hidden_widths(sites),
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
    if is_abstract(gap):
        return "?"
    return f"{np.max(gap):.4f}"
