"""The comparison of two forms of a model: what is counted, timed and shown."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from lcjax import collapse
from lcjax.models import MLPMixer
from tests.helpers.runs import made_up_rows
from tests.helpers.trees import with_slopes
from train.runs.comparison import compare, table

SHAPE = (8, 8, 1)
SIZES = dict(patch_size=4, depth=1, width=12, token_hidden=8, channel_hidden=24)
MIXER = MLPMixer(3, activation=nn.relu, **SIZES)
TOKENS, CHANNELS = 4 * 8 + 8 + 8 * 4 + 4, 12 * 24 + 24 + 24 * 12 + 12
FUSED = 4 * 4 + 4 + 12 * 12 + 12


def apply(variables, images):
    return MIXER.apply(variables, images.astype(jnp.float32))


@pytest.fixture(scope="module")
def forms():
    deep = jax.jit(MIXER.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    deep = with_slopes(deep, 1.0)
    return {"deep": deep, "compact": collapse(deep)[0]}


@pytest.fixture(scope="module")
def rows(forms):
    return compare(apply, forms, SHAPE, 4)


@pytest.mark.slow
def test_parameters_leave_slopes_out(forms, rows):
    leaves = sum(leaf.size for leaf in jax.tree.leaves(forms["deep"]))
    assert rows["deep"]["parameters"] == leaves - 2


@pytest.mark.slow
def test_each_form_is_counted_whole_and_in_its_mlps(rows):
    deep, compact = rows["deep"], rows["compact"]
    assert deep["mlp_parameters"] == TOKENS + CHANNELS
    assert compact["mlp_parameters"] == FUSED
    assert deep["parameters"] - compact["parameters"] == TOKENS + CHANNELS - FUSED


def test_flops_are_an_images_and_fall_by_what_was_fused(rows):
    saved = 2 * 12 * (2 * 4 * 8 - 16) + 2 * 4 * (2 * 12 * 24 - 144)
    fell = rows["deep"]["flops_per_image"] - rows["compact"]["flops_per_image"]
    assert 0.95 * saved < fell < 1.3 * saved  # the activations' own are a few


def test_one_image_and_a_batch_are_timed(rows):
    for row in rows.values():
        assert list(row["latency_ms"]) == ["1", "4"]
        assert all(value > 0 for value in row["latency_ms"].values())


def test_the_table_has_a_line_a_figure_and_a_column_a_form():
    lines = table(made_up_rows()).splitlines()
    assert lines[0].split() == ["deep", "compact"]
    found = {line[:20].strip(): line[20:].split() for line in lines[2:]}
    assert found["test accuracy"] == ["91.00", "%", "90.50", "%"]
    assert found["parameters"] == ["932,362", "407,050"]
    assert found["of which in MLPs"] == ["466,181", "203,525"]
    assert found["FLOPs an image"] == ["1,864,724", "814,100"]
    assert found["latency, batch 64"] == ["2.25", "ms", "2.25", "ms"]
