"""What `import lcjax` gives, and what it leaves for later."""

import subprocess
import sys
from importlib import resources

import pytest

import lcjax


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()


def test_import_reaches_models_and_interop_on_first_use():
    """A server that runs an exported program imports neither."""
    late = "sorted({'lcjax.models', 'lcjax.interop'} & sys.modules.keys())"
    out = run(f"import sys, lcjax; print(len({late})); lcjax.models; lcjax.interop; print({late})")
    assert out == ["0", "['lcjax.interop',", "'lcjax.models']"]


def test_public_names_exist_and_are_listed():
    assert lcjax.__all__ == sorted(lcjax.__all__)
    assert set(lcjax.__all__) <= set(dir(lcjax))
    assert all(hasattr(lcjax, name) for name in lcjax.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lcjax' has no attribute 'nothing'"):
        _ = lcjax.nothing


def test_package_declares_its_types():
    assert resources.files(lcjax).joinpath("py.typed").is_file()
