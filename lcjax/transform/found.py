"""All that is found in a program: its sites in forward order, and what is left alone and why."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lcjax.transform.dense import Dense, find_denses, layer_scans, root
from lcjax.transform.dying import Dead, find_dead
from lcjax.transform.kinds import Kind, Kinds, find_kinds
from lcjax.transform.match import Match, Matcher, Misfit
from lcjax.transform.primitives import holds_products
from lcjax.transform.program import Op, Program, Region, Value, scans_around

_PICKS = frozenset({"dynamic_slice", "gather"})


@dataclass(frozen=True, eq=False, repr=False)
class FoundSite:
    """A site of a program.

    Attributes:
      path: its name, from the path of its first kernel.
      match: what stands there.
      scans: the scans of which its kernels hold a layer for every step, the outermost first.
      leaves: what of the params it alone needs, by index; gone once it is fused.
      products: the Dense layers that are gone then.
      trained: whether a norm in it uses statistics of the batch: it is bent, and cannot be fused.
    """

    path: str
    match: Match
    scans: tuple[Region, ...]
    leaves: frozenset[int]
    products: tuple[Dense, ...]
    trained: bool

    @property
    def stack(self) -> tuple[int, ...]:
        """How many layers every scan has stacked in its kernels."""
        return tuple(scan.eqn.params["length"] for scan in self.scans)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Widths of input, activation and output."""
        return self.match.up.d_in, self.match.down.d_in, self.match.down.d_out


@dataclass(frozen=True, eq=False, repr=False)
class Found:
    """What is found in a program.

    Attributes:
      program: the program.
      kinds: of its values.
      sites: in forward order.
      left: what looks like a site and is none, each by its path with the reason.
    """

    program: Program
    kinds: Kinds
    sites: tuple[FoundSite, ...]
    left: tuple[tuple[str, str], ...]


def find_all(program: Program, leaf_names: Sequence[str], site_names: Sequence[str]) -> Found:
    """Returns what is found in a program.

    Args:
      program: of any function.
      leaf_names: the paths of the leaves of its params.
      site_names: what a site is called whose first kernel is the leaf of this index.
    """
    kinds = find_kinds(program)
    denses = find_denses(program, kinds)
    matcher = Matcher(denses, kinds)
    index = {leaf: i for i, leaf in enumerate(program.leaves)}
    called = {leaf: leaf_names[i] for leaf, i in index.items()}
    sites: list[FoundSite] = []
    left: list[tuple[str, str]] = []
    for down in denses.values():
        found = matcher.match(down)
        if found is None:
            continue
        leaf = found.up.leaf
        if leaf is None:
            names = sorted(called[each] for each in _leaves_of(found.up.kernel, index))
            path = f"(from {', '.join(names)})"
        else:
            path = site_names[index[leaf]]
        site = _accept(path, found, denses.values(), index, called, kinds)
        if isinstance(site, str):
            left.append((path, site))
        else:
            sites.append(site)
    inner = {
        dense
        for site in sites
        for dense in site.products
        if dense not in (site.match.up, site.match.down)
    }
    nested = [site for site in sites if {site.match.up, site.match.down} & inner]
    left += [(site.path, "it stands in the gate of another site") for site in nested]
    times = Counter(site.path for site in sites)
    tied = [site for site in sites if times[site.path] > 1]  # in training only
    left += [
        (site.path, "the kernel before it is used elsewhere too (tied weights)") for site in tied
    ]
    left += _unopened(program) + _picked(program, kinds, dict(zip(index, site_names, strict=True)))
    sites = [site for site in sites if site not in nested + tied]
    return Found(program, kinds, tuple(sites), tuple(dict.fromkeys(left)))


def _unopened(program: Program) -> list[tuple[str, str]]:
    """Returns the operations inside of which there are products, with what to do about them."""
    names = dict.fromkeys(op.name for op in program.ops() if holds_products(op.eqn))
    reason = "what it runs is not looked into. Loops over layers are, where lax.scan runs them"
    return [(f"(inside `{name}`)", reason) for name in names]


def _picked(program: Program, kinds: Kinds, names: Mapping[Value, str]) -> list[tuple[str, str]]:
    """Returns the kernels that a loop's counter picks out of a stack of them."""
    found: dict[str, None] = {}
    for op in program.ops():
        data = all(kinds[value] is Kind.DATA for value in op.ins)
        if op.name == "dot_general" and data and scans_around(op):
            makers = [root(value)[0].maker for value in op.ins]
            picks = [each for each in makers if isinstance(each, Op) and each.name in _PICKS]
            stacks = [root(pick.ins[0])[0] for pick in picks]
            found |= dict.fromkeys(names[stack] for stack in stacks if stack in names)
    reason = "a loop's counter picks it. Hand the layers to lax.scan as `xs`, or unroll the loop"
    return [(path, reason) for path in found]


def _accept(
    path: str,
    found: Match | Misfit,
    denses: Iterable[Dense],
    index: Mapping[Value, int],
    called: Mapping[Value, str],
    kinds: Kinds,
) -> FoundSite | str:
    """Returns the site, or why there is none."""
    if isinstance(found, Misfit):
        return found.reason
    up, down = found.up, found.down
    if up.leaf is None or down.leaf is None:
        which = "before" if up.leaf is None else "after"
        return f"the kernel {which} it is computed from params, not one of them"
    if scans_around(up.product) != scans_around(down.product):
        return "the two Dense layers stand in different loops"
    scans = layer_scans(up.kernel)
    if scans != layer_scans(down.kernel):
        return "one kernel belongs to one layer of a scan and the other to all of them"
    joined = [step.by for step in found.steps if step.by is not None]
    joined += [dense.bias for dense in (up, down) if dense.bias is not None]
    trained = any(kinds[value] is Kind.DATA for value in joined)
    fixed = [value for value in joined if kinds[value] is not Kind.DATA]
    dead = find_dead([down.last], [up.x])
    if not trained:
        folded = {leaf for value in fixed for leaf in _leaves_of(value, index)}
        if any(not set(layer_scans(value)) <= set(scans) for value in fixed):
            return "a bias or norm differs by layer of a scan, and the kernels do not"
        objection = _still_used(found, dead, folded, called)
        if objection:
            return objection
    gone = tuple(dense for dense in denses if dense.product in dead or dense is down)
    leaves = frozenset(i for leaf, i in index.items() if leaf in dead)
    return FoundSite(path, found, tuple(scans), leaves, gone, trained)


def _leaves_of(value: Value, index: Mapping[Value, int]) -> set[Value]:
    """Returns the leaves of the params that a fixed value is computed from."""
    found, seen, todo = set(), set(), [value]
    while todo:
        value = todo.pop()
        if value in index:
            found.add(value)
        if value not in seen:
            seen.add(value)
            todo += value.maker.ins if isinstance(value.maker, Op) else []
            todo += [value.layer_of] if value.layer_of is not None else []
    return found


def _still_used(
    match: Match, dead: Dead, folded: set[Value], called: Mapping[Value, str]
) -> str | None:
    """Returns what would still be needed once the site is fused, and so forbids it."""
    if match.up.product not in dead:
        ops = [match.up.product, match.up.last, *(step.op for step in match.steps), *match.inside]
        ops += [match.end.maker] if isinstance(match.end.maker, Op) else []
        users = [user for op in ops for value in op.outs for user in value.users]
        own = {*ops, match.down.product, match.down.last}
        other = next((user for user in users if user not in dead and user not in own), None)
        return f"its hidden value is {_use(other)}"
    if match.up.leaf is not None and match.up.leaf is match.down.leaf:
        return f"the kernel {called[match.up.leaf]} is used on both sides of it (tied weights)"
    kernels = {match.up.leaf: "before", match.down.leaf: "after"}
    for leaf, which in kernels.items():
        if leaf is not None and leaf not in dead:
            other = next(user for user in leaf.users if user not in dead)
            shared = "tied weights" if not isinstance(other, Program) else "return what changes"
            return f"the kernel {which} it, {called[leaf]}, is {_use(other)} ({shared})"
    for leaf in folded - dead:
        other = next(user for user in leaf.users if user not in dead)
        return f"{called[leaf]}, which fusing would fold in, is {_use(other)}"
    return None


def _use(user: Op | Region | Value | Program | None) -> str:
    if isinstance(user, Program):
        return "returned by the function"
    name = user.name if isinstance(user, Op) else "scan"  # carried, returned, or a layer of it
    return f"used elsewhere too, by `{name}`"
