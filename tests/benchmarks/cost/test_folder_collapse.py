"""The random folder of the benchmark of model folders, and the products that it is compared to."""

import math
from pathlib import Path

import pytest

from benchmarks.cost.folder_collapse import products
from benchmarks.harness.llama_folder import TEXTS, llama, make, matrices
from lcjax.folder.data.batches import read_tokenizer
from lcjax.folder.families import family_of
from lcjax.folder.storage.model_folder import read_model_folder

pytest.importorskip("safetensors", reason="extra interop")
pytest.importorskip("tokenizers", reason="extra text")


def test_products_are_those_of_three_passes():
    config = llama("Llama-3.1-8B", 2)
    layer = sum(math.prod(shape) for shape in matrices(config).values())
    mlp = 3 * 4096 * 14_336
    assert config.depth == 2 and layer == 218_103_808
    found = sum(math.prod(shape) for shape in products(config, 9216))
    assert found == 3 * (layer - mlp) + mlp + 5 * 4096 * 9216


@pytest.mark.slow
def test_made_folder_is_a_whole_model(tmp_path: Path):
    make("SmolLM2-135M", "1", str(tmp_path / "deep"), "3", "5")
    folder = read_model_folder(tmp_path / "deep")
    family = family_of(folder)
    read_tokenizer(folder.path, family.vocabulary)
    assert family.hidden == 1536 and len(folder.tensors.metadata) == 2
    lines = (tmp_path / TEXTS).read_text().splitlines()
    assert [len(line.split()) for line in lines] == [5, 5, 5]
