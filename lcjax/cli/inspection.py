"""What a checkpoint holds, told without its model and without reading its kernels."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from lcjax._messages import printable, printable_lines
from lcjax.errors import CollapseError
from lcjax.io.leaves import joined
from lcjax.io.locations import PathLike
from lcjax.io.opening import opened
from lcjax.io.streaming import outline
from lcjax.structure.sites import find_sites
from lcjax.tree.paths import slope_paths


def inspect_checkpoint(path: PathLike) -> str:
    """Returns what a checkpoint holds, as text: sites with their slopes, sizes, metadata.

    Only slopes are read. Where sites cannot be found, as in the tree of a collapsible function, the
    text says why.

    Args:
      path: what `save` was given; a checkpoint of orbax's will do, and a run's own.

    Raises:
      FileNotFoundError: there is nothing at path.
      CheckpointError: what is there is no checkpoint, or is damaged.
    """
    source = opened(path)
    manifest = source.manifest
    try:
        sites = find_sites(outline(source))
        lines = [str(sites)] if sites else ["no sites: the tree holds no leaf named `slope`"]
    except CollapseError as error:
        lines = [f"no sites: {printable(error)}"]
    leaves = {joined(path): leaf for path, leaf in manifest["leaves"].items()}
    whole = any(path[:1] == ("params",) for path in manifest["leaves"])
    params = {
        name: leaf for name, leaf in leaves.items() if not whole or name.startswith("params/")
    }
    slopes = slope_paths(params)
    count = sum(_size(leaf) for name, leaf in params.items() if name not in slopes)
    lines.append(f"parameters  {count:,}, and {len(slopes):,} slopes")
    if others := _others(leaves, params):
        lines.append(f"besides     {others}")
    total = sum(map(_bytes, leaves.values()))
    dtypes: Counter[str] = Counter()
    for leaf in leaves.values():
        dtypes[leaf["dtype"]] += _bytes(leaf)
    shares = ", ".join(f"{dtype} {size:,}" for dtype, size in dtypes.most_common())
    lines.append(f"bytes       {total:,} in {len(leaves):,} leaves: {shares}")
    own = manifest["lcjax"]
    by = f"lcjax {printable(own)}" if own else "orbax, without checksums"
    lines.append(f"written by  {by}")
    lines.append(f"metadata    {printable(json.dumps(manifest['metadata'], ensure_ascii=False))}")
    return printable_lines("\n".join(lines))


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
