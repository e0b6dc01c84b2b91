"""A tokenizer of the clients' own kind, trained here on one sentence."""

import io
from typing import Any

from tests.clients.packages import client

VOCABULARY = 300
SENTENCE = "the quick brown fox jumps over the lazy dog and runs away from the small house"


def sentencepiece_model() -> bytes:
    """Returns a SentencePiece model with the special tokens of Gemma: pad 0, eos 1, bos 2."""
    trainer = client("sentencepiece", "sentencepiece").SentencePieceTrainer
    written = io.BytesIO()
    trainer.train(
        sentence_iterator=iter([SENTENCE] * 20),
        model_writer=written,
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return written.getvalue()


def sentencepiece_processor() -> Any:
    """Returns a SentencePieceProcessor of that model."""
    return client("sentencepiece", "sentencepiece").SentencePieceProcessor(
        model_proto=sentencepiece_model()
    )
