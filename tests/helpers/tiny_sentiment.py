"""Configurations of train.sentiment on a tiny BERT and learnable texts."""

from tests.helpers.runs import configured
from tests.helpers.tiny_bert import make_folder, texts, write_tsv
from train.tasks.text.presets import PRESETS

SMALL = {"batch_size": 8, "learning_rate": 3e-3, "epochs": 2, "validation": 0.2, "dropout": 0.0}


def write_root(root):
    """Writes a pretrained model, `bert`, and texts, `a.tsv`, into a directory; returns it."""
    make_folder(root / "bert")
    write_tsv(root / "a.tsv", texts(100))
    return root


def on_texts(root, **fields):
    """Returns the preset sst2-minilm on the tiny model of a directory, with fields set by name."""
    given = {"dataset": str(root / "a.tsv"), "pretrained": str(root / "bert"), "lengths": (24,)}
    return configured("sst2-minilm", PRESETS, **given | SMALL | fields)
