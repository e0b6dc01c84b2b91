"""The Python module of a folder with mixed forms, and what config.json says about it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcjax.folder.fitting.forms import KEY, Form, forms_to_json

MODULE = "modeling_lcjax"
_SOURCE = Path(__file__).with_name(f"{MODULE}.py")
_IMPORT = "from torch import nn\n"
# Classes of transformers by the end of their names, and those that choose them.
_HEADS = {
    "ForCausalLM": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
}
_BASES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "distilbert": "DistilBertModel",
    "modernbert": "ModernBertModel",
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
    "gemma2": "Gemma2Model",
    "gemma3_text": "Gemma3TextModel",
}


def mixed_config(config: Mapping[str, Any], forms: Sequence[Form]) -> dict[str, Any]:
    """Returns the config of a folder with mixed forms: for transformers' `trust_remote_code`."""
    classes = _classes(config)
    auto = {auto: f"{MODULE}.Compact{name}" for auto, name in classes.items()}
    architectures = [
        f"Compact{name}" for name in config.get("architectures") or [] if name in classes.values()
    ]
    architectures = architectures or [f"Compact{classes['AutoModel']}"]
    return {**config, "architectures": architectures, "auto_map": auto, KEY: forms_to_json(forms)}


def module_text(config: Mapping[str, Any]) -> str:
    """Returns the Python module for the folder of a config."""
    names = sorted(set(_classes(config).values()))
    _, text = _SOURCE.read_text(encoding="utf-8").split("\n", 1)  # the first line is for pyright
    lines = [text.replace(_IMPORT, f"{_IMPORT}from transformers import {', '.join(names)}\n")]
    for name in names:
        lines.append(
            f"\nclass Compact{name}(CompactForms, {name}):\n"
            f'    """{name} with the forms of its config."""\n'
        )
    return "\n".join(lines)


def _classes(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the classes of transformers by the auto class that chooses them."""
    found = {"AutoModel": _BASES[str(config["model_type"])]}
    for name in config.get("architectures") or []:
        for end, auto in _HEADS.items():
            if name.endswith(end) and name.isidentifier():
                found[auto] = name
    return found
