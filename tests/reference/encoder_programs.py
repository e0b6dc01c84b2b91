"""The tiny encoders in PyTorch, transformers' own modules, and the command for golden values.

`python -m tests.reference.encoder_programs`, with torch and transformers installed, writes
encoders.json; JAX is not needed.
"""

import json
from typing import Any

import numpy as np
import torch
import transformers

from tests.reference.encoder_cases import CASES, FILE, MASK, TOKENS, real
from tests.reference.random_tensors import weights


def program_of(name: str) -> Any:
    """Returns transformers' module of a case, with the case's weights."""
    kind, fields = CASES[name]
    fields = dict(fields)
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    program = getattr(transformers, kind).from_config(config, attn_implementation="eager")
    filled = weights(shapes_of(program))
    program.load_state_dict({k: torch.tensor(v) for k, v in filled.items()}, strict=True)
    return program.eval()


def shapes_of(program: Any) -> dict[str, list[int]]:
    """Returns the shapes of the tensors that a file of its weights holds."""
    return {name: list(tensor.shape) for name, tensor in program.state_dict().items()}


def outputs_of(program: Any) -> np.ndarray:
    """Returns logits, or last hidden states."""
    with torch.no_grad():
        out = program(input_ids=torch.tensor(TOKENS), attention_mask=torch.tensor(MASK))
    return (out["logits"] if "logits" in out else out["last_hidden_state"]).numpy()


def _golden(name: str) -> dict[str, Any]:
    program = program_of(name)
    program.config.architectures = [type(program).__name__]  # as save_pretrained does
    config = json.loads(program.config.to_json_string(use_diff=True))
    rows = [[round(float(x), 5) for x in row] for row in real(outputs_of(program))]
    return {"config": config, "tensors": shapes_of(program), "outputs": rows}


if __name__ == "__main__":
    lines = [
        f"{json.dumps(name)}:{json.dumps(_golden(name), separators=(',', ':'))}" for name in CASES
    ]
    FILE.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
