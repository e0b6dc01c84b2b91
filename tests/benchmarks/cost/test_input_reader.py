"""The benchmark of the reader of pictures."""

import jax.numpy as jnp
import pytest
from PIL import Image

from benchmarks.cost import input_reader
from benchmarks.networks import vit


def test_reader_is_timed_on_pictures_like_imagenets(tmp_path):
    kilobytes = input_reader.write_pictures(tmp_path, 18)
    assert 20 < kilobytes < 200
    sizes = set()
    for path in tmp_path.rglob("*.jpg"):
        with Image.open(path) as picture:
            sizes.add(picture.size)
    assert sizes == {(500, 375), (375, 500)}
    rates = input_reader.read_rates(tmp_path, 4, (1, 2), 0.01)
    names = ["reader, 1 threads", "reader, 2 threads"]
    assert list(rates)[:2] == names and len(rates) == 3
    assert all(each["images_per_second"] > 0 < each["processor_ms"] for each in rates.values())


@pytest.mark.promotes
def test_promised_rate_is_of_three_forward_passes_at_half_the_peak():
    network = vit("B/16", batch_size=2, depth=1, dtype=jnp.bfloat16)
    tokens, width = 197, 768
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    forward = 2 * (block + 196 * width**2 + 1000 * width)
    # Pixels have no gradient; elementwise operations add a few percent.
    most, least = (0.5 * 989e12 / (3 * forward * factor) for factor in (0.96, 1.1))
    assert least < input_reader.promised_rate(network) < most


@pytest.mark.slow
@pytest.mark.promotes
def test_main_writes_what_a_step_needs(tmp_path, monkeypatch, capsys):
    def tiny(preset, **fields):
        return vit("Ti/16", depth=1, width=32, num_heads=2, mlp_hidden=64, **fields)

    monkeypatch.setattr(input_reader, "vit", tiny)
    input_reader.main(18, batch_size=4, threads=(2,), seconds=0.05, results_dir=tmp_path)
    shown = capsys.readouterr().out
    assert "step of ViT-Ti/16 on" in shown and (tmp_path / "input_reader.json").exists()
