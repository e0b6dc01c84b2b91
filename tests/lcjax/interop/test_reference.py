"""Loaded weights give what the libraries that trained them give: float32, to 1e-4.

Golden values, made by those libraries once (`python -m tests.reference`), are always checked; the
libraries themselves where they are installed.
"""

import functools

import jax
import numpy as np
import pytest

from lcjax.interop import load_safetensors, resolve_source
from lcjax.models import BERT
from tests.reference.cases import CASES, compared
from tests.reference.golden import golden
from tests.reference.minilm import PACKAGE, padded, summary
from tests.reference.random_tensors import weights

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")
GOLDEN = golden()


@functools.cache
def _ours(name, folder):
    """What our network gives for the weights in a file."""
    case, file = CASES[name], folder / f"{name}.safetensors"
    safetensors_numpy.save_file(weights(GOLDEN[name]["tensors"]), file)
    variables = load_safetensors(file, case.model)
    return np.asarray(jax.jit(case.model.apply)(variables, *case.inputs))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_golden_values(name, folder):
    want = np.array(GOLDEN[name]["outputs"])
    assert want.std() > 0.3
    np.testing.assert_allclose(compared(CASES[name], _ours(name, folder)), want, atol=1e-4)


def _programs(*names):
    """The libraries' own modules, once sure that those for these cases can be built."""
    pytest.importorskip("torch", reason="extra reference")
    from tests.reference import programs

    try:
        for name in names:
            programs.PROGRAMS[name]()
    except (ImportError, RuntimeError) as error:  # a torchvision that is not torch's own raises so
        pytest.skip(f"extra reference: {str(error)[:80]}")
    return programs


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_installed_library(name, folder):
    programs = _programs(name)
    theirs = compared(CASES[name], programs.outputs_of(name))
    np.testing.assert_allclose(compared(CASES[name], _ours(name, folder)), theirs, atol=1e-4)
    assert programs.shapes_of(programs.PROGRAMS[name]()) == GOLDEN[name]["tensors"]


@functools.cache
def _minilm():
    """Sentence embeddings of the pretrained MiniLM, and its folder."""
    try:
        source = resolve_source(PACKAGE)
    except FileNotFoundError:
        pytest.skip(f"the package {PACKAGE} is not installed")
    model = BERT.from_preset("MiniLM-L6", num_classes=None, pool="mean")
    variables = load_safetensors(PACKAGE, model, ignore="pooler.*")
    return source, np.asarray(jax.jit(model.apply)(variables, *padded(GOLDEN["minilm"]["ids"])))


def test_minilm_embeddings_equal_golden_values():
    _, ours = _minilm()
    assert ours.shape == (100, 384)
    np.testing.assert_allclose(summary(ours), GOLDEN["minilm"]["summary"], atol=1e-4)


@pytest.mark.slow
def test_minilm_embeddings_equal_transformers():
    programs = _programs("bert_tokens")
    source, ours = _minilm()
    theirs = programs.minilm_embeddings(source, *padded(GOLDEN["minilm"]["ids"]))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert programs.minilm_ids(source) == GOLDEN["minilm"]["ids"]
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() > 0.9999
