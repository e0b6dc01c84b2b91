"""Folders that several tests read."""

import pytest

import lcjax
from lcjax.folder import FolderOptions, collapse_model
from tests.lcjax.folder.folders import BERT, LLAMA, texts, write_folder

BUDGET = lcjax.Params(0.75)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folders") / "llama", LLAMA)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folders") / "bert", BERT, shards=1)


@pytest.fixture(scope="session")
def uniform(llama):
    """The path of a compact folder, and its report."""
    target = llama.with_name("llama-units")
    options = FolderOptions(multiple_of=8)
    return target, collapse_model(llama, target, texts(), budget=BUDGET, options=options)


@pytest.fixture(scope="session")
def mixed(bert):
    """The path of a compact folder of mixed forms, and its report."""
    target = bert.with_name("bert-mixed")
    options = FolderOptions(forms="mixed", multiple_of=8)
    return target, collapse_model(bert, target, texts(), budget=BUDGET, options=options)
