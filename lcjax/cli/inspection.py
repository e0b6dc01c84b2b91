"""`lcjax inspect`: describes a checkpoint without its model and without reading its kernels."""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcjax._messages import printable, printable_lines
from lcjax.cli.traced_model import traced_source
from lcjax.errors import CollapseError
from lcjax.folder.output.report import describe_folder, is_report
from lcjax.io.file_paths import PathLike
from lcjax.io.leaves import LeafPath, joined
from lcjax.io.reader import open_checkpoint
from lcjax.io.streaming import abstract_with_slopes
from lcjax.structure.sites import Sites, find_sites
from lcjax.tree.fused_key import FusedKey
from lcjax.tree.paths import FUNCTION_TREE_PARTS, slope_paths

_NO_SITES = (
    "no sites: the tree has no leaf named `slope`; --model or --pair finds those of other models"
)


def inspect_command(options: argparse.Namespace) -> str:
    """Returns the description of the checkpoint that the options name."""
    if is_report(Path(options.checkpoint)):
        return describe_folder(Path(options.checkpoint))
    traced = traced_source(options.checkpoint, options)
    return inspect_checkpoint(options.checkpoint, None if traced is None else traced.call.sites)


def inspect_checkpoint(path: PathLike, found: Sites | None = None) -> str:
    """Returns a description of a checkpoint: sites with their slopes, sizes and metadata.

    Reads slopes only. Sites that kept some of their units, or were removed, have a line each. If
    sites cannot be found, as in the tree of a collapsible function, the text gives the reason.

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
    try:
        sites = find_sites(abstract_with_slopes(source)) if found is None else found
        lines = [str(sites)] if sites else [_NO_SITES if found is None else "no sites"]
        lines += _narrowed(leaves)
    except CollapseError as error:
        lines = [f"no sites: {printable(error)}"]
    lines += _fused(source.manifest["leaves"])
    collections = any(path[:1] == ("params",) for path in manifest["leaves"])
    params = {
        name: leaf for name, leaf in leaves.items() if not collections or name.startswith("params/")
    }
    named = slope_paths(params)
    slopes, count = (
        sum(_size(leaf) for name, leaf in params.items() if (name in named) is wanted)
        for wanted in (True, False)
    )
    lines.append(f"parameters  {count:,} and {slopes:,} slopes")
    if others := _others(leaves, params):
        lines.append(f"other       {others}")
    total = sum(map(_bytes, leaves.values()))
    dtypes: Counter[str] = Counter()
    for leaf in leaves.values():
        dtypes[leaf["dtype"]] += _bytes(leaf)
    shares = ", ".join(f"{dtype} {size:,}" for dtype, size in dtypes.most_common())
    lines.append(f"bytes       {total:,} in {len(leaves):,} leaves: {shares}")
    version = manifest["lcjax"]
    writer = f"lcjax {printable(version)}" if version else "orbax, without checksums"
    lines.append(f"written by  {writer}")
    lines.append(f"metadata    {printable(json.dumps(manifest['metadata'], ensure_ascii=False))}")
    return printable_lines("\n".join(lines))


def _narrowed(leaves: Mapping[str, Any]) -> list[str]:
    """Returns a line for every pair of layers with a bypass: what runs there."""
    lines = []
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
        lines.append(f"{printable(path.removeprefix('params/'))}act{i} became {text}")
    return lines


def _fused(leaves: Collection[LeafPath]) -> list[str]:
    """Returns a line for every fused site in the tree of a collapsible function."""
    if not {path[:1] for path in leaves} <= {(part,) for part in FUNCTION_TREE_PARTS}:
        return []
    names = dict.fromkeys(path[1] for path in leaves if path[0] == "fused" and len(path) > 2)
    try:
        keys = [FusedKey.parse(str(name)) for name in names]
    except CollapseError as error:
        return [printable(error)]
    lines = []
    for key in keys:
        for site, form, width in zip(key.sites, key.forms, key.widths, strict=True):
            kept = f"{key.narrow.get(site, 0):,} of {width:,} hidden units"
            became = {"linear": "linear", "units": kept, "removed": "a constant"}[form]
            lines.append(f"{printable(site)} became {became}")
    return lines


def _others(leaves: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    sizes: Counter[str] = Counter()
    for name, leaf in leaves.items():
        if name not in params:
            sizes[name.partition("/")[0]] += _size(leaf)
    return ", ".join(f"{printable(name)} {size:,}" for name, size in sizes.items())


def _size(leaf: Mapping[str, Any]) -> int:
    return math.prod(leaf["shape"])


def _bytes(leaf: Mapping[str, Any]) -> int:
    return _size(leaf) * np.dtype(leaf["dtype"]).itemsize
