"""Models described by the metadata of checkpoints, of this lcjax and of older ones."""

import flax.linen as nn
import pytest

from lcjax.models import BERT, GPT2, MLP, ViT
from lcjax.models.from_metadata import model_from_metadata

# As written before Bert was renamed to BERT and `gated` to `glu`.
OLD_GPT2 = {
    "depth": 1, "width": 8, "num_heads": 2, "mlp_hidden": None, "vocab_size": 11, "max_length": 6,
    "activation": "silu", "gated": True, "dropout": 0.0, "epsilon": 1e-05, "dtype": None,
    "remat": False, "class": "GPT2",
}  # fmt: skip
OLD_BERT = {
    "num_classes": 3, "depth": 1, "width": 8, "num_heads": 2, "mlp_hidden": 12, "pool": "pooler",
    "vocab_size": 11, "max_length": 6, "token_types": 2, "activation": "gelu", "dropout": 0.0,
    "epsilon": 1e-12, "dtype": None, "remat": False, "class": "Bert",
}  # fmt: skip
OLD_VIT = {
    "kind": "vit", "patch_size": 2, "depth": 1, "width": 8, "num_heads": 2, "mlp_hidden": 12,
    "gated": True, "pool": "token", "activation": "silu", "dropout": 0.0, "dtype": None,
}  # fmt: skip
BERT_DATA = {"lengths": [4, 6], "class_names": ["a", "b"]}


def test_model_from_metadata_reads_gated_as_glu():
    data = {"module": OLD_GPT2, "context": 5}
    model, inputs = model_from_metadata({"kind": "language", "data": data})
    assert isinstance(model, GPT2) and model.glu and model.activation is nn.silu
    assert inputs == (((5,), "int32"),)
    data = {"num_classes": 3, "image_shape": [4, 4, 3]}
    model, inputs = model_from_metadata({"kind": "image", "model": OLD_VIT, "data": data})
    assert isinstance(model, ViT) and model.glu and inputs == (((4, 4, 3), "float32"),)


@pytest.mark.parametrize("name", ["Bert", "BERT"])
def test_model_from_metadata_reads_both_names_of_bert(name):
    data = {"module": OLD_BERT | {"class": name}, **BERT_DATA}
    model, inputs = model_from_metadata({"kind": "text", "data": data})
    assert isinstance(model, BERT) and model.num_classes == 2 and inputs == (((6,), "int32"),)


def test_model_from_metadata_reads_current_names():
    data = {"module": {**OLD_GPT2, "glu": False}, "context": 5}
    del data["module"]["gated"]
    assert not model_from_metadata({"kind": "language", "data": data}).module.glu
    fields = {"kind": "mlp", "hidden": [4], "activation": "relu"}
    metadata = {"kind": "image", "model": fields, "data": {"num_classes": 3}}
    assert model_from_metadata(metadata) == (MLP((4, 3)), ())


@pytest.mark.parametrize("name", ["bert", "Module", ["Bert"], None])
def test_model_from_metadata_rejects_unknown_classes(name):
    data = {"module": OLD_BERT | {"class": name}, **BERT_DATA}
    with pytest.raises(ValueError, match="expected the description of a model .*give --model"):
        model_from_metadata({"kind": "text", "data": data})
