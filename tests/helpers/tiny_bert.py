"""A tiny BERT in Hugging Face's format, its tokenizer, and learnable texts."""

import json

import numpy as np
import pytest

NAMES = "film plot cast score scene actor story ending music dialogue".split()
GOOD = "superb warm clever moving funny bright".split()
BAD = "dull weak clumsy boring flat tired".split()
WIDTH, HEADS, HIDDEN, DEPTH, LONGEST = 16, 2, 32, 2, 24


def texts(count, seed=0):
    """Returns texts of 3 to 16 words with labels; one word of a text decides its label."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = rng.choice(NAMES, rng.integers(2, 16)).tolist()
        words.insert(rng.integers(len(words) + 1), rng.choice(GOOD if i % 2 else BAD))
        rows.append((" ".join(words), "positive" if i % 2 else "negative"))
    return rows


def write_tsv(path, rows):
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return path


def make_folder(folder, **config):
    """Writes config.json, tokenizer.json and model.safetensors into a new folder; returns it."""
    folder.mkdir()
    vocab_size = _write_tokenizer(folder / "tokenizer.json")
    described = {
        "model_type": "bert",
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": DEPTH,
        "max_position_embeddings": LONGEST,
        "vocab_size": vocab_size,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(described | config))
    pytest.importorskip("safetensors.numpy").save_file(
        _tensors(vocab_size), folder / "model.safetensors"
    )
    return folder


def _write_tokenizer(path):
    library = pytest.importorskip("tokenizers")
    words, special = NAMES + GOOD + BAD, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = sorted(set("".join(words)))
    # Not trained: that numbers pieces in another order in every process.
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    made = library.Tokenizer(library.models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(special)
    ends = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    made.enable_padding(length=20)  # as in published tokenizers; training sets its own padding
    made.save(str(path))
    return made.get_vocab_size()


def _tensors(vocab_size):
    rng = np.random.default_rng(0)
    found = {
        f"embeddings.{name}_embeddings.weight": rng.normal(0, 0.3, (rows, WIDTH))
        for name, rows in (("word", vocab_size), ("position", LONGEST), ("token_type", 2))
    }
    norms, denses = ["embeddings.LayerNorm"], {"pooler.dense": (WIDTH, WIDTH)}
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            denses[f"{layer}.attention.{name}"] = (WIDTH, WIDTH)
        denses[f"{layer}.intermediate.dense"] = (HIDDEN, WIDTH)
        denses[f"{layer}.output.dense"] = (WIDTH, HIDDEN)
    for name in norms:
        found |= {f"{name}.weight": np.ones(WIDTH), f"{name}.bias": np.zeros(WIDTH)}
    for name, shape in denses.items():
        found[f"{name}.weight"] = rng.normal(0, shape[1] ** -0.5, shape)
        found[f"{name}.bias"] = np.zeros(shape[0])
    return {name: tensor.astype(np.float32) for name, tensor in found.items()}
