"""Fixtures of saved checkpoints."""

import shutil

import pytest

from lcjax.io.checkpoint import save
from tests.lcjax.io.checkpoints import METADATA, example_tree


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "compact"
    save(path, example_tree(), metadata=METADATA)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")
