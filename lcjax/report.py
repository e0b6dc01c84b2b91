"""What a collapse did."""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from lcjax.table import render

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class CollapseReport:
    """What a collapse did; a pytree whose paths are static, so that it can leave `jax.jit`.

    Attributes:
      gaps: `|1 − α|` that every collapsed site had, by site path; float32, of layers stacked by
        `nn.scan` one each. The only leaves.
      collapsed: paths of the collapsed sites, in forward order.
      factors: those of them whose Dense pair stays two matrices, because one would be larger.
      kept: the sites that stay, each with the reason.
      new: paths inside params of the leaves that surgery made; every other leaf is the input's.
      dropped: paths inside params of the leaves that are no more.
      parameters_before: of the whole params, slopes left out.
      parameters_after: the same of the compact params.
      flops_before: multiply-adds times two for one token through the chains that were touched.
      flops_after: the same once collapsed.
    """

    gaps: dict[str, Any]
    collapsed: tuple[str, ...] = field(metadata=_STATIC)
    factors: tuple[str, ...] = field(metadata=_STATIC)
    kept: tuple[tuple[str, str], ...] = field(metadata=_STATIC)
    new: tuple[str, ...] = field(metadata=_STATIC)
    dropped: tuple[str, ...] = field(metadata=_STATIC)
    parameters_before: int = field(metadata=_STATIC)
    parameters_after: int = field(metadata=_STATIC)
    flops_before: int = field(metadata=_STATIC)
    flops_after: int = field(metadata=_STATIC)

    def __str__(self) -> str:
        """Returns a table of the sites, and the totals below it."""
        rows = [(path, _shown(self.gaps[path]), self._became(path)) for path in self.collapsed]
        rows += [(path, "", f"stays: {reason}") for path, reason in self.kept]
        lines = [render(("site", "gap", "became"), rows, left=3)]
        lines.append(
            f"parameters {self.parameters_before:,} → {self.parameters_after:,}, "
            f"FLOPs/token of the chains touched {self.flops_before:,} → {self.flops_after:,}"
        )
        return "\n".join(lines)

    def _became(self, path: str) -> str:
        return "two factors" if path in self.factors else "one matrix"


def _shown(gap: Any) -> str:
    if isinstance(gap, (Tracer, jax.ShapeDtypeStruct)):
        return "?"
    return f"{np.max(gap):.4f}"
