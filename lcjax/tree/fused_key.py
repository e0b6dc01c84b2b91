"""Keys of `fused` in compact trees: which sites were fused, in which form, with which widths."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from lcjax.errors import CollapseError
from lcjax.tree.encoding import quoted, strip_box_suffix
from lcjax.tree.old_fused_key import is_old, parse_old

Form = Literal["linear", "units", "removed"]
Leaf = tuple[tuple[int, ...], str | None]


@dataclass(frozen=True)
class FusedKey:
    """The contents of the key of an entry of `fused`, in the compact tree of a traced call.

    The key is text, so that the tree is one of dicts and arrays: it passes through `jax.jit`,
    optimizers and any checkpoint. It is the paths of the entry's sites, joined by `+`, a space, and
    a JSON object:

    | field | of | meaning |
    |---|---|---|
    | `form` | each site | "linear": one matrix is in its place; "units": the activation stays, on \
some units, or between factors on all; "removed": a bias is in the place of the pair |
    | `hidden` | each site | its width in the original model |
    | `units` | each site | how many units stay, null for a site of another form; left out where \
there are none |
    | `removed` | the entry | the leaves of the original model that are not in the tree any more, \
with their shapes |
    | `dtypes` | the entry | the dtypes of those that have another than the entry's last layer; \
left out where there are none |

    In paths of removed leaves `.name` is an attribute, `[0]` an index and any other name a key of a
    dict, as in `lcjax.tree.encoding`. In all paths, characters other than letters, digits and
    ` ~.-_` are percent-encoded.

    `FusedKey.parse(key)` reads a key, `str(fused_key)` writes one. Keys of earlier versions, such
    as `up|hidden=4||down:4x2,up:2x4`, are read too.

    Attributes:
      sites: the paths of its sites, in forward order.
      widths: the width of each.
      removed: shape and dtype of the removed leaves, by encoded path; None for the dtype of
        the entry's last layer.
      units: how many units of each site stay, 0 where the pair is removed; None for a site that is
        linear. Empty where all are linear.

    Example:
      >>> import lcjax
      >>> text = 'up {"form": ["linear"], "hidden": [4], "removed": {"up": [2, 4]}}'
      >>> key = lcjax.FusedKey.parse(text)
      >>> key.sites, key.forms, key.widths, key.removed
      (('up',), ('linear',), (4,), {'up': ((2, 4), None)})
    """

    sites: tuple[str, ...]
    widths: tuple[int, ...]
    removed: dict[str, Leaf] = field(hash=False)
    units: tuple[int | None, ...] = ()

    @classmethod
    def parse(cls, key: str) -> "FusedKey":
        """Returns the contents of a key.

        Raises:
          CollapseError: another key.
        """
        try:
            if is_old(key):
                return cls(*parse_old(key))
            paths, _, text = key.partition(" {")
            record = json.loads("{" + text)
            dtypes = record.get("dtypes", {})
            removed = {
                path: (tuple(map(int, shape)), dtypes.get(path))
                for path, shape in record["removed"].items()
            }
            sites = tuple(unquote(path) for path in paths.split("+"))
            widths, forms = tuple(map(int, record["hidden"])), record["form"]
            counts = record.get("units", [None] * len(sites))
            stay = [_count(*each) for each in zip(forms, counts, strict=True)]
            if not len(sites) == len(widths) == len(stay):
                raise ValueError("numbers of sites")
            return cls(sites, widths, removed, tuple(stay) if set(stay) != {None} else ())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CollapseError(
                f"fused/{key}: got a key that no collapse of a collapsible function makes, "
                'expected a text such as `up {"form": ["linear"], "hidden": [4], "removed": '
                "{...}}`, see lcjax.FusedKey. Restore a tree that `collapse` returned."
            ) from error

    @property
    def forms(self) -> tuple[Form, ...]:
        """The form of each site: "linear", "units" or "removed"."""
        counts = self.units or (None,) * len(self.sites)
        return tuple("linear" if k is None else "units" if k else "removed" for k in counts)

    @property
    def linear(self) -> tuple[str, ...]:
        """The sites whose activation was removed together with a map of its own: one matrix."""
        counts = self.units or (None,) * len(self.sites)
        return tuple(path for path, k in zip(self.sites, counts, strict=True) if k is None)

    @property
    def narrow(self) -> dict[str, int]:
        """How many units stay, by the sites whose activation stays."""
        pairs = zip(self.sites, self.units, strict=True) if self.units else ()
        return {path: k for path, k in pairs if k}

    @property
    def removes(self) -> bool:
        """Whether a pair of layers was removed, and a bias is in its place."""
        return 0 in self.units

    def __str__(self) -> str:
        """Returns the key."""
        leaves = {strip_box_suffix(path): leaf for path, leaf in sorted(self.removed.items())}
        record: dict[str, Any] = {"form": self.forms, "hidden": self.widths}
        if any(self.units):
            record["units"] = [k or None for k in self.units]
        record["removed"] = {path: shape for path, (shape, _) in leaves.items()}
        if dtypes := {path: dtype for path, (_, dtype) in leaves.items() if dtype}:
            record["dtypes"] = dtypes
        return f"{'+'.join(quoted(site, '/') for site in self.sites)} {json.dumps(record)}"


def _count(form: str, units: Any) -> int | None:
    """Returns how many units of a site stay; None where it is linear.

    Raises:
      ValueError: another form, or a number of units that it cannot have.
    """
    counted = isinstance(units, int) and not isinstance(units, bool) and units > 0
    if form not in ("linear", "units", "removed") or counted != (form == "units"):
        raise ValueError(form)
    return {"linear": None, "removed": 0}.get(form, units)
