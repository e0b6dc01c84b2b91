"""The tokens of which losses are computed."""

from types import SimpleNamespace

import numpy as np
import pytest

from lcjax.folder.data.batches import Batch
from lcjax.folder.fitting import losses
from lcjax.folder.storage.hidden_states import HiddenStates

SHAPES = [(2, 3), (2, 3), (1, 6)]


@pytest.mark.parametrize("piece, lengths", [(4, [4, 4, 4, 4]), (6, [6, 6, 4]), (64, [16])])
def test_pieces_are_of_one_length_across_batches(piece, lengths, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "_PIECE", piece)
    files = [HiddenStates(tmp_path / name, SHAPES, 2) for name in ("deep", "compact")]
    rng, batches, expected = np.random.default_rng(0), [], [[], [], []]
    for i, shape in enumerate(SHAPES):
        real = np.ones(shape, bool)
        real[:, -1] = i != 1  # the second batch has padding
        tokens = rng.integers(0, 9, shape).astype(np.int32)
        states = rng.standard_normal((2, *shape, 2)).astype(np.float32)
        for file, each in zip(files, states, strict=True):
            file.write(i, each)
        batches.append(Batch(tokens, real, np.zeros(shape[0], bool)))
        for parts, each in zip(expected, (*states, tokens), strict=True):
            parts.append(each[real])
    streams = SimpleNamespace(batches=batches)
    found = list(losses._pieces(streams, *files, False, object()))  # pyright: ignore[reportArgumentType]
    assert [len(each[0]) for each in found] == lengths
    for which, parts in enumerate(expected):
        whole = np.concatenate([each[which] for each in found])
        np.testing.assert_array_equal(whole, np.concatenate(parts))
