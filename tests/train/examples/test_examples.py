"""Every example runs, and gives back something smaller."""

import importlib

import jax
import pytest

import lcjax


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnx_module", "linen_module", "equinox_module"])
def test_example(name, capsys):
    if name == "equinox_module":
        pytest.importorskip("equinox")
    deep, small = importlib.import_module(f"train.examples.{name}").main()
    assert lcjax.count_parameters(small) <= 0.6 * lcjax.count_parameters(deep)
    assert jax.tree.leaves(small)
    assert "parameters" in capsys.readouterr().out
