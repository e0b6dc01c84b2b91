"""The same tiny networks in PyTorch: transformers', timm's and torchvision's own modules."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.reference.cases import CASES, VOCABULARY
from tests.reference.minilm import SENTENCES
from tests.reference.random_tensors import weights


def _bert_config(**fields: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        vocab_size=VOCABULARY,
        max_position_embeddings=12,
        attn_implementation="eager",
        **fields,
    )


def bert_classifier() -> torch.nn.Module:
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(_bert_config(num_labels=3))


def bert_tokens() -> torch.nn.Module:
    from transformers import BertModel

    return BertModel(_bert_config(), add_pooling_layer=False)


def gpt2() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2,
        n_embd=24,
        n_head=3,
        vocab_size=VOCABULARY,
        n_positions=12,
        attn_implementation="eager",
    )
    return GPT2LMHeadModel(config)


def _timm_vit(**fields: Any) -> torch.nn.Module:
    from timm.models import VisionTransformer

    sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    return VisionTransformer(**sizes, **fields)


def vit_timm() -> torch.nn.Module:
    return _timm_vit()


def vit_timm_mean() -> torch.nn.Module:
    return _timm_vit(class_token=False, global_pool="avg", fc_norm=False)


def vit_hugging_face() -> torch.nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_labels=5,
        attn_implementation="eager",
    )
    return ViTForImageClassification(config)


def mixer_timm() -> torch.nn.Module:
    from timm.models import MlpMixer

    return MlpMixer(
        img_size=32, patch_size=8, embed_dim=24, num_blocks=2, num_classes=5, mlp_ratio=(0.5, 4)
    )


def _vgg(batch_norm: bool) -> torch.nn.Module:
    """torchvision's VGG with its classifier's widths cut down."""
    from torchvision.models.vgg import VGG, make_layers

    features = make_layers([8, "M", 8, 12, "M", 12, "M"], batch_norm=batch_norm)
    model = VGG(features, init_weights=False)
    widths = [12 * 7 * 7, 16, 16, 5]
    for i, pair in enumerate(zip(widths, widths[1:], strict=False)):
        model.classifier[3 * i] = torch.nn.Linear(*pair)
    return model


def vgg() -> torch.nn.Module:
    return _vgg(False)


def vgg_batch_norm() -> torch.nn.Module:
    return _vgg(True)


PROGRAMS = {
    make.__name__: make
    for make in (
        bert_classifier,
        bert_tokens,
        gpt2,
        vit_timm,
        vit_timm_mean,
        vit_hugging_face,
        mixer_timm,
        vgg,
        vgg_batch_norm,
    )
}


def shapes_of(program: torch.nn.Module) -> dict[str, list[int]]:
    """Returns the shapes of the tensors that a file of its weights holds."""
    return {
        name: list(tensor.shape)
        for name, tensor in program.state_dict().items()
        if tensor.is_floating_point() and name != "lm_head.weight"  # GPT-2 ties it to another
    }


def outputs_of(name: str) -> np.ndarray:
    """Returns what the reference gives for a case's weights and inputs, in float32."""
    program, inputs = PROGRAMS[name](), CASES[name].inputs
    filled = weights(shapes_of(program))
    program.load_state_dict({k: torch.tensor(v) for k, v in filled.items()}, strict=False)
    if name == "gpt2":
        program.tie_weights()
    with torch.no_grad():
        return _logits(program.eval(), name, inputs)


def _logits(program: torch.nn.Module, name: str, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    given = [torch.tensor(np.ascontiguousarray(x)) for x in inputs]
    if name.startswith("bert"):
        types = {"token_type_ids": given[2]} if len(given) > 2 else {}
        out = program(input_ids=given[0], attention_mask=given[1], **types)
    elif name == "gpt2":
        positions = (given[1].cumsum(1) - 1).clamp(min=0)
        out = program(input_ids=given[0], attention_mask=given[1], position_ids=positions)
    else:
        out = program(given[0].permute(0, 3, 1, 2))
    if isinstance(out, torch.Tensor):
        return out.numpy()
    return (out["logits"] if "logits" in out else out["last_hidden_state"]).numpy()


def minilm_ids(folder: Path) -> list[list[int]]:
    """Returns the sentences' token ids, by the tokenizer in the pretrained model's folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(SENTENCES)["input_ids"]


def minilm_embeddings(folder: Path, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns means over the last hidden states (sentences, 384), padding left out."""
    from transformers import BertModel

    program = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    real = torch.tensor(mask)[..., None].float()
    with torch.no_grad():
        out = program(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask).long())
        return ((out.last_hidden_state * real).sum(1) / real.sum(1)).numpy()
