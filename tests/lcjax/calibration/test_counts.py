"""Multiples of units that fill the tiles of a device."""

from lcjax.calibration.counts import multiple_for


def test_multiples_by_platform():
    assert [multiple_for(p) for p in ("tpu", "gpu", "cpu", "unheard")] == [128, 64, 8, 8]
