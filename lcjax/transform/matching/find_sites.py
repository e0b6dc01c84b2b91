"""Analysis of a program: its sites in forward order, and what is not a site and why."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lcjax.transform.analysis.adapters import Adapters
from lcjax.transform.analysis.dense import DenseOp, find_denses, layer_scans
from lcjax.transform.analysis.dependence import Dependence, Dependences, find_dependences
from lcjax.transform.analysis.dropout import is_dropout
from lcjax.transform.analysis.experts import with_experts
from lcjax.transform.analysis.kernels import (
    indexed_kernels,
    leaves_of,
    name_of,
    why_not_a_leaf,
    why_quantized,
)
from lcjax.transform.analysis.other_products import Others
from lcjax.transform.analysis.reasons import Cause, Reason, Rejected
from lcjax.transform.ir.dead_code import find_dead_code
from lcjax.transform.ir.primitives import holds_products
from lcjax.transform.ir.program import Program, Region, Value, blocks_around
from lcjax.transform.matching.exclusive_use import why_not_alone
from lcjax.transform.matching.match import Match, Matcher, Rejection
from lcjax.tree.encoding import readable


@dataclass(frozen=True, eq=False, repr=False)
class MatchedSite:
    """A site of a program.

    Attributes:
      path: its name, from the path of its first kernel.
      match: the Dense layers and what is between them.
      scans: the scans for which its kernels stack one layer a step, the outermost first.
      leaves: leaves of the params that only it uses, by index; fusing removes them.
      products: the Dense layers that fusing removes.
      uses_batch_statistics: whether a norm in it uses statistics of the batch, so that it cannot
        be fused.
      has_dropout: whether there is a dropout mask in it, so that its values are random.
    """

    path: str
    match: Match
    scans: tuple[Region, ...]
    leaves: frozenset[int]
    products: tuple[DenseOp, ...]
    uses_batch_statistics: bool
    has_dropout: bool

    @property
    def stack(self) -> tuple[int, ...]:
        """Numbers of layers that its kernels stack: for every scan, and then of experts."""
        lengths = tuple(scan.eqn.params["length"] for scan in self.scans)
        return (*lengths, *self.match.up.experts)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Widths of input, activation and output."""
        return self.match.up.d_in, self.match.down.d_in, self.match.down.d_out


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """The sites of a program, and the rest of what is known of it.

    Attributes:
      program: the program.
      dependences: of its values.
      sites: in forward order.
      rejected: the path of what is almost a site, with the reason why it is not.
    """

    program: Program
    dependences: Dependences
    sites: tuple[MatchedSite, ...]
    rejected: tuple[Rejected, ...]


def find_all(program: Program, leaf_names: Sequence[str], site_names: Sequence[str]) -> Analysis:
    """Returns the analysis of a program.

    Args:
      program: of any function.
      leaf_names: the encoded paths of the leaves of its params.
      site_names: names of sites by the index of the leaf that is their first kernel.
    """
    dependences = find_dependences(program)
    denses = with_experts(find_denses(program, dependences))
    matcher = Matcher(denses, dependences)
    index = {leaf: i for i, leaf in enumerate(program.leaves)}
    called = {leaf: readable(leaf_names[i]) for leaf, i in index.items()}
    named = {leaf: site_names[i] for leaf, i in index.items()}
    sites: list[MatchedSite] = []
    rejected: list[Rejected] = []
    unsure: list[Rejected] = []
    adapters = Adapters(denses, dependences)
    for down in denses.values():
        found = matcher.match(down)
        if found is None:
            continue
        if isinstance(found, Rejection):
            rows = rejected if found.sure else unsure
            rows += _rows(found, down, adapters, named, called)
            continue
        path = name_of(found.up.kernel, named, called)
        site = _accept(path, found, denses.values(), index, called, dependences)
        if isinstance(site, Reason):
            rejected.append((path, adapters.reason((found.up,), down, site)))
        else:
            sites.append(site)
    inner = {
        dense
        for site in sites
        for dense in site.products
        if dense not in (site.match.up, site.match.down)
    }
    nested = [site for site in sites if {site.match.up, site.match.down} & inner]
    rejected += [(site.path, Reason(Cause.NESTED)) for site in nested]
    times = Counter(site.path for site in sites)
    tied = [site for site in sites if times[site.path] > 1]  # in training only
    rejected += [(site.path, Reason(Cause.TIED)) for site in tied]
    rejected += _opaque_calls(program) + indexed_kernels(program, dependences, named)
    sites = [site for site in sites if site not in nested + tied]
    unsure += Others(program, denses, dependences).pairs(named, called)
    known = {site.path for site in sites} | {path for path, _ in rejected}
    first = {path: reason for path, reason in reversed(unsure) if path not in known}
    rejected += [row for row in dict.fromkeys(unsure) if first.get(row[0]) == row[1]]
    return Analysis(program, dependences, tuple(sites), tuple(dict.fromkeys(rejected)))


def _rows(
    found: Rejection,
    down: DenseOp,
    adapters: Adapters,
    named: Mapping[Value, str],
    called: Mapping[Value, str],
) -> list[Rejected]:
    """Returns the paths of the layers before a Dense with the reason why they make no site."""
    if adapters.within(found.ups, down):
        return []
    rows = []
    after = why_quantized(down, "after", called)
    for up in found.ups:
        reason = why_quantized(up, "before", called) or after
        reason = reason or adapters.reason(found.ups, down, found.reason)
        up = adapters.base_of(up) if reason.cause is Cause.LORA else up
        rows.append((name_of(up.kernel, named, called), reason))
    return rows


def _opaque_calls(program: Program) -> list[Rejected]:
    """Returns the operations that contain products, with the reason why they are not opened."""
    names = dict.fromkeys(op.name for op in program.ops() if holds_products(op.eqn))
    causes = {"shard_map": Cause.SHARDED}
    return [(f"(inside `{name}`)", Reason(causes.get(name, Cause.UNOPENED))) for name in names]


def _accept(
    path: str,
    found: Match,
    denses: Iterable[DenseOp],
    index: Mapping[Value, int],
    called: Mapping[Value, str],
    dependences: Dependences,
) -> MatchedSite | Reason:
    """Returns the site, or why it is not one."""
    up, down = found.up, found.down
    for dense, which in ((up, "before"), (down, "after")):
        objection = why_not_a_leaf(dense, which, called)
        if objection:
            return objection
    if blocks_around(up.product) != blocks_around(down.product):
        return Reason(Cause.LOOPS)
    scans = layer_scans(up.kernel)
    if scans != layer_scans(down.kernel):
        return Reason(Cause.LAYERS)
    joined = [step.by for step in found.steps if step.by is not None]
    joined += [dense.bias for dense in (up, down) if dense.bias is not None]
    uses_batch_statistics = any(dependences[value] is Dependence.DATA for value in joined)
    fixed = [value for value in joined if dependences[value] is not Dependence.DATA]
    dead = find_dead_code([down.last], [up.x])
    if not uses_batch_statistics:
        folded = dict.fromkeys(leaf for value in fixed for leaf in leaves_of(value, index))
        if any(not set(layer_scans(value)) <= set(scans) for value in fixed):
            return Reason(Cause.JOINED_BY_LAYER)
        objection = why_not_alone(found, dead, list(folded), called)
        if objection:
            return objection
    products = tuple(dense for dense in denses if dense.product in dead or dense is down)
    leaves = frozenset(index[v] for v in dead if isinstance(v, Value) and v in index)
    return MatchedSite(
        path,
        found,
        tuple(scans),
        leaves,
        products,
        uses_batch_statistics=uses_batch_statistics,
        has_dropout=any(is_dropout(step, dependences) for step in found.steps),
    )
