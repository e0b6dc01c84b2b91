"""Which texts are followed through a model."""

import numpy as np
import pytest

from lcjax.folder.data.batches import make_batches, probe_batches, read_tokenizer
from tests.lcjax.folder.folders import VOCABULARY, texts


def _rows(batches, held_out):
    return sorted(
        tuple(tokens[real])
        for batch in batches
        for tokens, real, out in zip(*batch, strict=True)
        if real.any() and (held_out is None or out == held_out)
    )


@pytest.mark.parametrize("longest", [8, 64])
def test_probes_are_texts_held_out(llama, longest):
    tokenizer = read_tokenizer(llama, VOCABULARY)
    batches = make_batches(tokenizer, texts(200), longest=longest, tokens_per_batch=256)
    assert _rows(probe_batches(batches, tokens=10**6), None) == _rows(batches, True)
    few = probe_batches(batches, tokens=60)
    assert set(_rows(few, None)) < set(_rows(batches, True))
    assert 30 <= sum(batch.real.sum() for batch in few) <= 120
    assert all(batch.held_out[batch.real.any(1)].all() for batch in few)


def test_probes_are_all_texts_where_none_is_held_out(llama):
    tokenizer = read_tokenizer(llama, VOCABULARY)
    batches = make_batches(tokenizer, texts(1), longest=64, tokens_per_batch=256)
    assert not any(np.any(batch.held_out) for batch in batches)
    assert _rows(probe_batches(batches, tokens=10**6), None) == _rows(batches, None)
