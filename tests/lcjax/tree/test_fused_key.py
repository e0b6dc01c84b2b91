"""The keys of `fused`: written, read by other tools, and refused."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import DictKey, GetAttrKey, SequenceKey
from orbax.checkpoint import v1 as ocp

import lcjax
from lcjax import CollapseError, FusedKey
from lcjax.tree.encoding import decode, encode, readable

FULL = FusedKey(
    sites=("blocks/0/up", "blocks/0/a+b {c|"),
    widths=(512, 256),
    removed={
        ".blocks/[0]/.up/.weight": ((512, 64), None),
        ".blocks/[0]/.up/.bias": ((512,), "float32"),
    },
    units=(None, 48),
)


def test_key_is_paths_and_json():
    paths, record = str(FULL).split(" ", 1)
    assert paths == "blocks/0/up+blocks/0/a%2Bb"[: len(paths)]
    text = str(FULL)[str(FULL).index(" {") + 1 :]
    assert record.endswith(text) and json.loads(text) == {
        "form": ["linear", "units"],
        "hidden": [512, 256],
        "units": [None, 48],
        "removed": {".blocks/[0]/.up/.bias": [512], ".blocks/[0]/.up/.weight": [512, 64]},
        "dtypes": {".blocks/[0]/.up/.bias": "float32"},
    }


@pytest.mark.parametrize("units", [(), (None, 48), (3, 4), (0, None)])
def test_round_trip(units):
    key = FusedKey(FULL.sites, FULL.widths, FULL.removed, units)
    assert FusedKey.parse(str(key)) == key
    assert hash(FusedKey.parse(str(key))) == hash(key)


def test_forms_name_what_became_of_each_site():
    assert FULL.forms == ("linear", "units")
    assert FULL.linear == FULL.sites[:1] and FULL.narrow == {FULL.sites[1]: 48}
    gone = FusedKey(("up",), (4,), {"up": ((2, 4), None)}, (0,))
    assert gone.forms == ("removed",) and gone.removes
    assert '"units"' not in str(gone)


def test_old_key_has_the_same_contents():
    old = "a/up+a/mid|hidden=8+4|units=linear+2|@a/[0]|@up/@value:3x8:bfloat16,.x:4"
    assert FusedKey.parse(old) == FusedKey(
        ("a/up", "a/mid"),
        (8, 4),
        {".a/[0]/.up": ((3, 8), "bfloat16"), ".a/[0]/%2Ex": ((4,), None)},
        (None, 2),
    )


@pytest.mark.parametrize(
    "key",
    [
        "up",
        "up {",
        'up {"form": ["linear"], "hidden": [4]}',
        'up {"form": ["square"], "hidden": [4], "removed": {}}',
        'up {"form": ["linear"], "hidden": [4, 4], "removed": {}}',
        'up {"form": ["units"], "hidden": [4], "removed": {}}',
        'up {"form": ["linear"], "hidden": [4], "units": [2], "removed": {}}',
        'up {"form": ["linear"], "hidden": "wide", "removed": {"up": 3}}',
        "up|hidden=4|",
    ],
)
def test_other_keys_are_refused(key):
    with pytest.raises(CollapseError, match="got a key that no collapse .* see lcjax.FusedKey"):
        FusedKey.parse(key)


def test_paths_lead_back_to_leaves():
    keys = [DictKey("params"), SequenceKey(3), GetAttrKey("up"), DictKey(".a/b[0]"), DictKey(2)]
    assert encode(keys) == "params/[3]/.up/%2Ea%2Fb%5B0%5D/[2]"
    assert [decode(name) for name in encode(keys).split("/")] == ["params", 3, None, ".a/b[0]", 2]
    assert readable(".blocks/[0]/.up/.value") == "blocks/0/up"


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_compact_tree_passes_orbax_without_like_and_jit(tmp_path):
    f = lcjax.collapsible(lambda p, x: jax.nn.relu(x @ p['w "1"']) @ p["w/2"])
    params = {'w "1"': jnp.ones((2, 4)), "w/2": jnp.ones((4, 3))}
    x = jnp.ones((5, 2))
    compact, _ = f.trace(params, x).collapse(fit=lcjax.Exact(max_gap=1))
    ocp.save(tmp_path / "compact", compact)
    restored = ocp.load(tmp_path / "compact")
    assert list(restored["fused"]) == list(compact["fused"])
    kept = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree))(restored)
    assert f(kept, x).tolist() == (2 * f(compact, x)).tolist()
