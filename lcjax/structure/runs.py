"""Runs: the neighbouring Denses of a chain that one linear map replaces."""

from collections.abc import Collection
from dataclasses import dataclass

from lcjax.structure.chains import Chain, join


@dataclass(frozen=True)
class Run:
    """Neighbouring Denses with no activation left between them once its sites are dropped.

    Attributes:
      path: of the chain's module inside params; "" at the root.
      denses: indices of its Denses in the chain.
      acts: indices of the activations that are dropped.
      first: path of its first Dense.
      last: path of its last Dense.
      sites: paths of the sites that are dropped, in forward order.
      d_in: width of what flows in.
      d_out: width of what flows out.
    """

    path: str
    denses: tuple[int, ...]
    acts: tuple[int, ...]
    first: str
    last: str
    sites: tuple[str, ...]
    d_in: int
    d_out: int


def runs_of(chain: Chain, chosen: Collection[str]) -> list[Run]:
    """Returns the runs that dropping the chosen sites makes in a chain, in forward order."""
    groups: list[list[int]] = [[]]
    for i in chain.denses:
        groups[-1].append(i)
        if i in chain.acts and chain.site(i) not in chosen:
            groups.append([])
    runs = [_run(chain, group, chosen) for group in groups if group]
    return [run for run in runs if run.acts]


def _run(chain: Chain, denses: list[int], chosen: Collection[str]) -> Run:
    acts = tuple(i for i in denses if i in chain.acts and chain.site(i) in chosen)
    first, last = denses[0], denses[-1]
    return Run(
        path=chain.path,
        denses=tuple(denses),
        acts=acts,
        first=join(chain.path, chain.dense_name(first)),
        last=join(chain.path, chain.dense_name(last)),
        sites=tuple(map(chain.site, acts)),
        d_in=chain.denses[first]["kernel"].shape[-2],
        d_out=chain.denses[last]["kernel"].shape[-1],
    )
