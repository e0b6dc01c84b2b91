"""Sites: activations, how linear they are, how wide, and what fusing them saves."""

from dataclasses import dataclass
from typing import SupportsIndex, overload

from lcjax._document import Document, Table
from lcjax.tree.rules import Rule, listed, matching
from lcjax.tree.selection import NO_SITES


@dataclass(frozen=True, kw_only=True)
class Site:
    """A collapsible activation with the Dense before it and the Dense after it.

    Attributes:
      path: inside params, such as `block_3/mlp/act_0`.
      slope: α; of layers stacked by `nn.scan`, and of units with slopes of their own, the one
        farthest from 1; None where it is abstract.
      d_in: input width of the Dense before, with that of a bypass added to its output; 0 where
        the site is unpaired.
      d_hidden: width of the activation; 0 where the site is unpaired.
      d_out: output width of the Dense after; 0 where the site is unpaired.
      parameters_before: in the Dense layers (and gate, norm, bypass) that fusing replaces.
      parameters_after: in what replaces them.
      flops_before: multiply-adds times two for one token through those matrices.
      flops_after: the same once collapsed.
      layers: how many layers `nn.scan` stacked in this site, or experts of a traced function; they
        collapse together.
      fusing_saves: whether one matrix, with its bias, has fewer parameters than two with theirs,
        and than there are now. About `d_in d_out < d_hidden (d_in + d_out)`.
      linear_units: of a site with a slope for each unit, how many are exactly 1, over all layers;
        None of other sites, and where slopes are abstract.
      experts: how many of the stacked layers are experts, each of which is fitted to its own
        tokens; 1 where there are none.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3), jax.nn.relu)
      >>> sites = lcjax.find_sites(model.init(jax.random.key(0), jnp.ones((1, 4))))
      >>> sites["act_0"].gap, sites["act_0"].paired, sites["act_0"].fusing_saves
      (1.0, True, True)
    """

    path: str
    slope: float | None
    d_in: int = 0
    d_hidden: int = 0
    d_out: int = 0
    parameters_before: int = 0
    parameters_after: int = 0
    flops_before: int = 0
    flops_after: int = 0
    layers: int = 1
    fusing_saves: bool = False
    linear_units: int | None = None
    experts: int = 1

    @property
    def gap(self) -> float | None:
        """`|1 − α|`, how far the activation is from the identity; None where abstract."""
        return None if self.slope is None else abs(1 - self.slope)

    @property
    def paired(self) -> bool:
        """Whether there is a Dense on both sides, so that the site can be collapsed."""
        return self.d_hidden > 0


class Sites(Document, tuple[Site, ...]):
    """Sites in forward order; prints as a table, a notebook shows one.

    A tuple: iterate over it, or take a site by its number or its path. A slice is Sites too.

    Args:
      iterable: of `Site`s.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 16, 3), jax.nn.relu)
      >>> sites = lcjax.find_sites(model.init(jax.random.key(0), jnp.ones((1, 4))))
      >>> sites["act_1"].d_hidden, "act_2" in sites, sites.matching("act_*").paths
      (16, False, ('act_0', 'act_1'))
      >>> sites[1:]
      <Sites: act_1>
    """

    @property
    def paths(self) -> tuple[str, ...]:
        """The sites' paths, in forward order."""
        return tuple(site.path for site in self)

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Site: ...
    @overload
    def __getitem__(self, key: slice) -> "Sites": ...
    def __getitem__(self, key: SupportsIndex | str | slice) -> "Site | Sites":
        """Returns a site by its number or its path, or the sites of a slice.

        Raises:
          IndexError: no site has the number.
          KeyError: no site has the path; lists those that there are.
        """
        if isinstance(key, slice):
            return Sites(tuple(self)[key])
        if not isinstance(key, str):
            return tuple.__getitem__(self, key)
        found = next((site for site in self if site.path == key), None)
        if found is None:
            raise KeyError(
                f"{key!r} is the path of no site. The sites are: {listed(self.paths) or 'none'}. "
                "Give one of them, or a glob to sites.matching."
            )
        return found

    def __contains__(self, key: object) -> bool:
        """Returns whether this is one of the sites, or the path of one."""
        return key in self.paths if isinstance(key, str) else tuple.__contains__(self, key)

    def matching(self, rule: Rule) -> "Sites":
        """Returns the sites that a path, a glob or a compiled regular expression names.

        Args:
          rule: such as "block_*/mlp/act"; the `*` of a glob crosses slashes.

        Raises:
          CollapseError: none does; lists the sites.

        Example:
          >>> Sites([Site(path="block_0/act", slope=0.0)]).matching("block_*")
          <Sites: block_0/act>
        """
        found = set(matching(self.paths, rule))
        return Sites(site for site in self if site.path in found)

    def __repr__(self) -> str:
        return f"<Sites: {listed(self.paths) or 'none'}>"

    def _parts(self) -> list[Table | str]:
        """Returns the table, with the remedy for unpaired sites, or for no site, below it."""
        if not self:
            return [NO_SITES]
        headers = ["site", "slope", "gap", "d_in", "d_hidden", "d_out", "parameters", "→"]
        headers += ["FLOPs/token", "→", "fusing"]
        parts: list[Table | str] = [Table(headers, [_row(site) for site in self])]
        if any(not site.paired for site in self):
            parts.append(
                "unpaired: this activation is not between `dense_i` and `dense_{i+1}` of one "
                "chain, so there is nothing to fuse. Build the pair with lcjax.CollapsibleMLP."
            )
        return parts


def _row(site: Site) -> list[str]:
    slope = ["?", "?"] if site.slope is None else [f"{site.slope:.4f}", f"{site.gap:.4f}"]
    if site.linear_units is not None:
        slope[0] = f"{site.linear_units:,} of {site.layers * site.d_hidden:,} units linear"
    name = site.path or "(root)"
    if not site.paired:
        return [name, *slope, *["–"] * 7, "unpaired"]
    name += f" ×{site.layers}" if site.layers > 1 else ""
    sizes = [site.d_in, site.d_hidden, site.d_out, site.parameters_before, site.parameters_after]
    sizes += [site.flops_before, site.flops_after]
    pays = "pays" if site.fusing_saves else "grows"
    return [name, *slope, *(f"{size:,}" for size in sizes), pays]
