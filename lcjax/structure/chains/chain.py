"""Chains of Dense layers in a params tree, by the names of their children."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lcjax.algebra.bypasses import stack_dense
from lcjax.algebra.fuse import DenseParams, dense_flops

OF_GATED: dict[float, str] = {-0.5: "up_in", 0: "up", 0.5: "down_in", 1: "down"}


@dataclass(frozen=True)
class Chain:
    """The children of one CollapsibleMLP or CollapsibleGLU, unboxed.

    Attributes:
      path: of the module inside params; "" at the root.
      denses: the Dense layers in the tree in forward order, each by its index; for a gated unit 0
        is `up` and 1 is `down`. The factor that a collapse put before Dense i is at i - 0.5.
      acts: slope of every activation in the tree, or its slopes for each unit, by the index of the
        Dense before it.
      norms: params of every norm in the tree, by the index of the Dense before it.
      gate: params of the gate, where the chain is a gated unit.
      gate_in: params of the factor that a collapse put before the gate; None for none.
      bypasses: params of every bypass in the tree, by the index of the Dense whose input it reads;
        its output is added to that of the next Dense.
    """

    path: str
    denses: dict[float, DenseParams]
    acts: dict[float, Any]
    norms: dict[float, Mapping[str, Any]] = field(default_factory=dict)
    gate: DenseParams | None = None
    bypasses: dict[float, DenseParams] = field(default_factory=dict)
    gate_in: DenseParams | None = None

    def dense_name(self, i: float) -> str:
        """Returns the name of the child that is Dense i."""
        if self.gate is not None:
            return OF_GATED[i]
        whole = math.ceil(i)
        return f"dense_{whole}" if i == whole else factor_before(f"dense_{whole}")

    @property
    def gates(self) -> dict[str, DenseParams]:
        """The gate of a gated unit and the factor before it, by their names, in forward order."""
        both = {"gate_in": self.gate_in, "gate": self.gate}
        return {name: params for name, params in both.items() if params is not None}

    def act_name(self, i: float) -> str:
        """Returns the name of the child that is activation i."""
        return f"act_{i}" if self.gate is None else "act"

    def bypass_name(self, i: float) -> str:
        """Returns the name of the child that is the bypass of the pair around activation i."""
        return f"bypass_{i}" if self.gate is None else "bypass"

    def site(self, i: float) -> str:
        """Returns the path of the site whose activation is i."""
        return join(self.path, self.act_name(i))

    @property
    def sites(self) -> tuple[str, ...]:
        """The paths of its sites, in forward order."""
        return tuple(map(self.site, self.acts))

    @property
    def children(self) -> tuple[str, ...]:
        """The paths of all modules that belong to it, in params or in batch_stats."""
        names = [*map(self.dense_name, self.denses), *map(self.act_name, self.acts)]
        names += [*(f"norm_{i}" for i in self.acts), *self.gates]
        names += map(self.bypass_name, self.bypasses)
        return tuple(join(self.path, name) for name in names)

    @property
    def flops(self) -> int:
        """Multiply-adds times two for one token through its kernels."""
        parts = (self.denses, self.gates, self.bypasses)
        return dense_flops([dense for part in parts for dense in part.values()])

    def before(self, j: float) -> float | None:
        """Returns the index of the bypass that is added to the output of Dense j, if there is one.

        It is of the pair whose last Dense j is.
        """
        i = max((i for i in self.denses if i < j), default=None)
        return i if i in self.bypasses else None

    def entered(self, j: float) -> DenseParams:
        """Returns Dense j with the bypass that is added to its output."""
        i = self.before(j)
        if i is None:
            return self.denses[j]
        return stack_dense(self.bypasses[i], self.denses[j])

    def after(self, i: float) -> float:
        """Returns the index of the Dense after Dense i."""
        return min(j for j in self.denses if j > i)

    def around(self, i: float) -> tuple[list[DenseParams], list[DenseParams]]:
        """Returns the Dense layers before and after activation i, the factors of each with it.

        The first has the bypass that is added to its output.
        """
        last = math.ceil(self.after(i))
        before, after = ([j - 0.5, j] for j in (i, last))
        return (
            [self.entered(j) for j in before if j in self.denses],
            [self.denses[j] for j in after if j in self.denses],
        )

    def widths(self, i: float) -> tuple[int, int, int]:
        """Returns (d_in, d_hidden, d_out) of the Dense pair around activation i."""
        first, second = self.denses[i]["kernel"], self.denses[self.after(i)]["kernel"]
        return first.shape[-2], first.shape[-1], second.shape[-1]


def factor_before(dense: str) -> str:
    """Returns the name of the factor before a Dense, of a kernel that is two of them.

    Example:
      >>> factor_before("dense_0")
      'dense_0_in'
    """
    return f"{dense}_in"


def join(path: str, child: str) -> str:
    """Returns the path of a child; the root's path is empty."""
    return f"{path}/{child}" if path else child


def bypass_of(site: str) -> str:
    """Returns the path of the bypass of the pair around a site.

    Example:
      >>> bypass_of("block_3/mlp/act_0")
      'block_3/mlp/bypass_0'
    """
    path, _, name = site.rpartition("/")
    return join(path, name.replace("act", "bypass", 1))
