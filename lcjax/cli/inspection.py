"""`lcjax inspect`: describes a checkpoint without its model and without reading its kernels."""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcjax._messages import printable, printable_lines
from lcjax.cli.traced_model import traced_source
from lcjax.errors import CollapseError
from lcjax.folder.output.report import REPORT, describe_folder, is_report
from lcjax.io.file_paths import PathLike
from lcjax.io.leaves import LeafPath, joined
from lcjax.io.reader import open_checkpoint
from lcjax.io.streaming import abstract_with_slopes
from lcjax.structure.sites import Sites, find_sites
from lcjax.tree.fused_key import FusedKey
from lcjax.tree.paths import FUNCTION_TREE_PARTS, slope_paths
from lcjax.validation.json_files import read_json

_NO_SITES = "the tree has no leaf named `slope`; --model or --pair finds those of other models"


def inspect_command(options: argparse.Namespace) -> str:
    """Returns the description of the checkpoint that the options name, as text or as JSON."""
    folder = Path(options.checkpoint)
    if is_report(folder):
        return (
            json.dumps(read_json(folder / REPORT), indent=2)
            if options.json
            else describe_folder(folder)
        )
    traced = traced_source(options.checkpoint, options)
    found = inspect_checkpoint(options.checkpoint, None if traced is None else traced.call.sites)
    return found.json() if options.json else str(found)


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is known of a checkpoint without its model and without its kernels.

    Attributes:
      sites: those that are left.
      no_sites: why there are none, or why they cannot be found; "" where there are some.
      became: what other sites became, in words.
      notes: fused parts that this lcjax cannot read.
      parameters: numbers in the params, slopes left out.
      slopes: numbers that are slopes.
      others: numbers by collection outside of the params.
      leaves: number of arrays.
      bytes_by_dtype: bytes of the arrays.
      lcjax: version that wrote the checkpoint; None where orbax did.
      metadata: that was saved with it.
    """

    sites: Sites
    no_sites: str
    became: Mapping[str, str]
    notes: Sequence[str]
    parameters: int
    slopes: int
    others: Mapping[str, int]
    leaves: int
    bytes_by_dtype: Mapping[str, int]
    lcjax: str | None
    metadata: Any

    def __str__(self) -> str:
        """Returns the description."""
        lines = [f"no sites: {self.no_sites}" if self.no_sites else str(self.sites)]
        lines += [f"{site} became {became}" for site, became in self.became.items()]
        lines += self.notes
        lines.append(f"parameters  {self.parameters:,} and {self.slopes:,} slopes")
        if self.others:
            sizes = (f"{printable(name)} {size:,}" for name, size in self.others.items())
            lines.append(f"other       {', '.join(sizes)}")
        shares = ", ".join(f"{dtype} {size:,}" for dtype, size in self.bytes_by_dtype.items())
        total = sum(self.bytes_by_dtype.values())
        lines.append(f"bytes       {total:,} in {self.leaves:,} leaves: {shares}")
        writer = f"lcjax {printable(self.lcjax)}" if self.lcjax else "orbax, without checksums"
        lines.append(f"written by  {writer}")
        lines.append(f"metadata    {printable(json.dumps(self.metadata, ensure_ascii=False))}")
        return printable_lines("\n".join(lines))

    def json(self) -> str:
        """Returns the same as JSON; a slope that is not finite is null."""
        sites = [asdict(site) | {"gap": site.gap} for site in self.sites]
        for site in sites:
            site.update({key: None for key in ("slope", "gap") if not _finite(site[key])})
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps(fields | {"sites": sites}, indent=2)


def inspect_checkpoint(path: PathLike, found: Sites | None = None) -> Inspection:
    """Returns what a checkpoint holds: sites with their slopes, sizes and metadata.

    Reads slopes only.

    Args:
      path: a checkpoint directory of `lcjax.save`, of orbax or of a training run.
      found: its sites, where a model or rules say them; None for those of lcjax's modules.

    Raises:
      FileNotFoundError: path does not exist.
      CheckpointError: path is not a checkpoint, or is damaged.
    """
    source = open_checkpoint(path)
    manifest = source.manifest
    leaves = {joined(path): leaf for path, leaf in manifest["leaves"].items()}
    became: dict[str, str] = {}
    try:
        sites = find_sites(abstract_with_slopes(source)) if found is None else found
        reason = "" if sites else _NO_SITES if found is None else "the model has none"
        became = _narrowed(leaves)
    except CollapseError as error:
        sites, reason = Sites(), printable(error)
    notes: list[str] = []
    try:
        became |= _fused(manifest["leaves"])
    except CollapseError as error:
        notes.append(printable(error))
    collections = any(path[:1] == ("params",) for path in manifest["leaves"])
    params = {
        name: leaf for name, leaf in leaves.items() if not collections or name.startswith("params/")
    }
    named = slope_paths(params)
    slopes, count = (
        sum(_size(leaf) for name, leaf in params.items() if (name in named) is wanted)
        for wanted in (True, False)
    )
    dtypes: Counter[str] = Counter()
    for leaf in leaves.values():
        dtypes[leaf["dtype"]] += _bytes(leaf)
    return Inspection(
        sites=sites,
        no_sites=reason,
        became=became,
        notes=notes,
        parameters=count,
        slopes=slopes,
        others=_others(leaves, params),
        leaves=len(leaves),
        bytes_by_dtype=dict(dtypes.most_common()),
        lcjax=manifest["lcjax"],
        metadata=manifest["metadata"],
    )


def _finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def _narrowed(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Returns what runs in every pair of layers with a bypass, by the site that was there."""
    became = {}
    for name in leaves:
        found = re.fullmatch(r"(?P<path>(.*/)?)bypass(?P<i>(_\d+)?)/bias", name)
        if found is None:
            continue
        path, i = found["path"], found["i"]
        first = leaves.get(f"{path}dense{i}/kernel" if i else f"{path}up/kernel")
        parts = [] if first is None else [f"{first['shape'][-1]:,} hidden units"]
        if f"{path}bypass{i}/kernel" in leaves:
            parts.append("a linear map")
        text = " and ".join(parts) if parts else "a constant"
        became[f"{printable(path.removeprefix('params/'))}act{i}"] = text
    return became


def _fused(leaves: Collection[LeafPath]) -> dict[str, str]:
    """Returns what every fused site in the tree of a collapsible function became.

    Raises:
      CollapseError: a name of fused params that this lcjax cannot read.
    """
    if not {path[:1] for path in leaves} <= {(part,) for part in FUNCTION_TREE_PARTS}:
        return {}
    names = dict.fromkeys(path[1] for path in leaves if path[0] == "fused" and len(path) > 2)
    found = {}
    for key in (FusedKey.parse(str(name)) for name in names):
        for site, form, width in zip(key.sites, key.forms, key.widths, strict=True):
            k = key.narrow.get(site, 0)
            kept = f"{f'{k:,} of' if k < width else 'all'} {width:,} hidden units"
            became = {"linear": "linear", "units": kept, "removed": "a constant"}[form]
            found[printable(site)] = became
    return found


def _others(leaves: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for name, leaf in leaves.items():
        if name not in params:
            sizes[name.partition("/")[0]] += _size(leaf)
    return dict(sizes)


def _size(leaf: Mapping[str, Any]) -> int:
    return math.prod(leaf["shape"])


def _bytes(leaf: Mapping[str, Any]) -> int:
    return _size(leaf) * np.dtype(leaf["dtype"]).itemsize
