"""The front end of params trees: models built with CollapsibleMLP and CollapsibleGLU."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from flax.core import meta

from lcjax.algebra.abstract import shapes_of
from lcjax.algebra.fuse import Norm
from lcjax.errors import BypassedError, CollapseError
from lcjax.nn.mlp import NORM_EPSILON
from lcjax.structure.chains.chain import Chain, join
from lcjax.structure.chains.find import find_chains
from lcjax.structure.front_end import Observe, Observed, Pull, Rebuilt, Size
from lcjax.structure.observation import observe_modules
from lcjax.structure.replacement import Replacement
from lcjax.structure.rewrite import Rewriter
from lcjax.structure.segment import Entry, Joint, Segment
from lcjax.structure.sites import (
    Sites,
    check_not_function_tree,
    forward_order,
    params_of,
    sites_of,
)
from lcjax.tree.paths import in_params, leaves_by_path, node_at, slope_paths
from lcjax.validation.arguments import check_tree
from lcjax.validation.functions import check_function


class ParamsTree:
    """A params tree as a `Collapsible` model.

    Args:
      variables: nested dicts: params alone, or variables with "params" and whatever else; plain or
        FrozenDict, leaves boxed or not; arrays, tracers or ShapeDtypeStructs.
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; None where
        nothing is observed.
      caller: name of the public function, for messages.

    Raises:
      TypeError: a tree that is not nested dicts; something other than a function.
      CollapseError: the tree of a collapsible function.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        apply_fn: Callable[..., Any] | None = None,
        caller: str = "ParamsTree",
    ):
        check_tree(variables, caller)
        check_not_function_tree(variables)
        if apply_fn is not None:
            check_function(apply_fn)
        self._variables, self._apply_fn = variables, apply_fn

    @property
    def variables(self) -> Mapping[str, Any]:
        """The tree."""
        return self._variables

    @cached_property
    def chains(self) -> list[Chain]:
        """The chains of the params."""
        return find_chains(params_of(self._variables))

    @property
    def sites(self) -> Sites:
        """The sites, in natural order of their paths."""
        return self._sites

    @property
    def collapsed(self) -> Collection[str]:
        """Nothing: a params tree forgets the sites that it had."""
        return ()

    @property
    def size(self) -> Size:
        """Parameters of the params, and FLOPs of all chains."""
        return Size(sum(self._sizes.values()), sum(chain.flops for chain in self.chains))

    def forward_order(self, batch: tuple[Any, ...] | None) -> Sequence[str] | None:
        """Returns the sites as apply_fn runs them on a batch; those that it does not run last."""
        if self._apply_fn is None or batch is None:
            return None
        run = forward_order(self._apply_fn, self._variables, batch)
        known = set(self.sites.paths)
        return [*(p for p in run if p in known), *(p for p in self.sites.paths if p not in run)]

    def segments(self, chosen: Collection[str]) -> list[Segment]:
        """Returns the segments that removing the chosen sites makes; see `Collapsible`."""
        return [segment for chain in self.chains for segment in self._segments(chain, chosen)]

    def observe(
        self, segments: Sequence[Segment], observed: Observed, pull: Pull | None = None
    ) -> Observe:
        """Returns a function that runs apply_fn and returns inputs and outputs of segments."""
        apply_fn = self._apply_fn
        if apply_fn is None:
            raise TypeError("apply_fn: got None, expected a function that runs the model.")
        return observe_modules(apply_fn, segments, observed, pull)

    def rebuild(self, replacements: Mapping[Segment, Replacement]) -> Rebuilt:
        """Returns the tree with segments replaced; see `Collapsible`."""
        rewriter, touched = Rewriter(self._variables), {}
        order = {site: place for place, site in enumerate(self._chain_of)}
        in_order = sorted(replacements.items(), key=lambda item: order[item[0].sites[0]])
        for segment, replacement in in_order:
            chain = self._chain_of[segment.sites[0]]
            touched[chain.sites] = chain
            if replacement.collapsed or replacement.units is not None:
                _check_reader(chain, segment, replacements)
            rewriter.write(chain, segment, replacement)
        written, removed = rewriter.written, rewriter.removed
        replaced = sum(self._sizes.get(path, 0) for path in {*written, *removed})
        slopes = {join(site, "slope") for site in self._chain_of}
        added = sum(_size(leaf) for path, leaf in written.items() if path not in slopes)
        parameters = self.size.parameters - replaced + added
        chains = touched.values()
        return Rebuilt(
            tree=rewriter.tree(),
            written=tuple(written),
            removed=removed,
            before=Size(self.size.parameters, sum(chain.flops for chain in chains)),
            after=Size(parameters, sum(map(rewriter.flops, chains))),
            touched=tuple(site for chain in chains for site in chain.sites),
        )

    def abstract(self) -> "ParamsTree":
        """Returns the tree with ShapeDtypeStructs, with their shardings, for arrays."""
        return ParamsTree(shapes_of(self._variables), self._apply_fn)

    def with_variables(self, variables: Mapping[str, Any]) -> "ParamsTree":
        """Returns the model with another tree."""
        return ParamsTree(variables, self._apply_fn)

    @cached_property
    def _sites(self) -> Sites:
        return sites_of(params_of(self._variables), self.chains)

    @cached_property
    def _chain_of(self) -> dict[str, Chain]:
        return {site: chain for chain in self.chains for site in chain.sites}

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Number of parameters of every leaf of the params, by path, slopes left out."""
        flat = leaves_by_path(params_of(self._variables))
        leaves = {in_params(path): leaf for path, leaf in flat.items()}
        slopes = slope_paths(leaves)
        return {path: _size(leaf) for path, leaf in leaves.items() if path not in slopes}

    def _segments(self, chain: Chain, chosen: Collection[str]) -> list[Segment]:
        groups: list[list[float]] = [[]]
        for i in chain.denses:
            groups[-1].append(i)
            if i in chain.acts and chain.site(i) not in chosen:
                groups.append([])
        groups = [group for group in groups if any(i in chain.acts for i in group[:-1])]
        if groups:
            _check_stacked(chain)
        return [self._segment(chain, group) for group in groups]

    def _segment(self, chain: Chain, group: list[float]) -> Segment:
        names = tuple(join(chain.path, chain.dense_name(i)) for i in group)
        joints = [
            Joint(
                chain.site(i),
                chain.acts[i],
                after=self._norm(chain, i),
                bypass=chain.bypasses.get(i),
            )
            if i in chain.acts
            else Joint(None)
            for i in group[:-1]
        ]
        bypass, entry = chain.before(group[0]), None
        if bypass is not None:
            kernel = chain.bypasses[bypass].get("kernel")
            width = 0 if kernel is None else kernel.shape[-2]
            entry = Entry(join(chain.path, chain.bypass_name(bypass)), width)
        return Segment(
            layers=(chain.entered(group[0]), *(chain.denses[i] for i in group[1:])),
            joints=tuple(joints),
            names=names,
            key=names[-1],
            gates=tuple(chain.gates.values())[:1],
            entry=entry,
            ends=group[-1] == max(chain.denses),
        )

    def _norm(self, chain: Chain, i: float) -> Norm | None:
        """Returns the norm after an activation, with the statistics that it needs."""
        path = join(chain.path, f"norm_{i}")
        whole = "params" in self._variables
        stats = node_at(self._variables, f"batch_stats/{path}") if whole else {}
        if not stats and i not in chain.norms:
            return None
        if not stats:
            raise CollapseError(
                f"{path}: its running statistics are not in the tree. Pass the "
                "whole variables, with batch_stats, not params alone."
            )
        return Norm(chain.norms.get(i, {}), meta.unbox(stats), NORM_EPSILON)


def _check_stacked(chain: Chain) -> None:
    """Raises where the axis of the kernels that counts the layers is ambiguous."""
    shapes = [tuple(dense["kernel"].shape) for dense in chain.denses.values()]
    if len(shapes[0]) > 2 and len({size for shape in shapes for size in shape}) == 1:
        raise CollapseError(
            f"{join(chain.path, chain.dense_name(min(chain.denses)))}: got kernels {shapes[0]} of "
            "stacked layers whose widths all equal the number of layers, so that the layers may be "
            "along any axis; expected them along the first. Unstack them with "
            "lcjax.unstack_layers(variables, path, axis=...), and collapse that."
        )


def _check_reader(chain: Chain, segment: Segment, replaced: Iterable[Segment]) -> None:
    """Raises where a bypass that stays reads the hidden units of a pair that is replaced."""
    (i,) = (i for i in chain.denses if join(chain.path, chain.dense_name(i)) == segment.names[-1])
    stays = i in chain.bypasses and all(chain.site(i) not in each.sites for each in replaced)
    if stays and "kernel" in chain.bypasses[i]:
        raise BypassedError(
            f"{segment.label}: {chain.bypass_name(i)}, the linear map that an earlier collapse put "
            f"next to the units of {chain.site(i)}, reads its output. Collapse {chain.site(i)} "
            "first, without a linear map, or both with one calibration.",
            segment.sites,
        )


def _size(leaf: Any) -> int:
    return math.prod(meta.unbox(leaf).shape)
