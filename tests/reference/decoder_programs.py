"""The tiny decoders in PyTorch, transformers' own modules, and the command for golden values.

`python -m tests.reference.decoder_programs`, with torch and transformers installed, writes
decoders.json; JAX is not needed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.reference.decoder_cases import CONFIGS, FILE, MASK, TOKENS, real, tensors


def program_of(name: str) -> Any:
    """Returns transformers' module of a case, with the case's weights."""
    fields = dict(CONFIGS[name])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    program = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    filled = tensors(shapes_of(program))
    program.load_state_dict({k: torch.tensor(v) for k, v in filled.items()}, strict=False)
    program.tie_weights()
    return program.eval()


def shapes_of(program: Any) -> dict[str, list[int]]:
    """Returns the shapes of the tensors that a file of its weights holds."""
    tied = program.config.tie_word_embeddings
    return {
        name: list(tensor.shape)
        for name, tensor in program.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }


def logits_of(program: Any) -> np.ndarray:
    """Returns logits of the whole texts, (2, tokens, vocabulary)."""
    mask = torch.tensor(MASK)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        out = program(input_ids=torch.tensor(TOKENS), attention_mask=mask, position_ids=positions)
    return out.logits.numpy()


def cached_logits_of(program: Any, prompt: int) -> np.ndarray:
    """Returns the same logits, computed with a cache: a prompt, then one token at a time."""
    mask, tokens = torch.tensor(MASK), torch.tensor(TOKENS)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    rows, cache, start = [], None, 0
    with torch.no_grad():
        for end in range(prompt, tokens.shape[1] + 1):
            out = program(
                input_ids=tokens[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=positions[:, start:end],
                past_key_values=cache,
                use_cache=True,
            )
            rows.append(out.logits.numpy())
            cache, start = out.past_key_values, end
    return np.concatenate(rows, 1)


def save(program: Any, folder: Path) -> None:
    """Writes the folder as transformers does, in several shards."""
    program.save_pretrained(folder, max_shard_size="8KB")


def _golden(name: str) -> dict[str, Any]:
    program = program_of(name)
    config = json.loads(program.config.to_json_string(use_diff=True))
    rows = [[round(float(x), 5) for x in row] for row in real(logits_of(program))]
    return {"config": config, "tensors": shapes_of(program), "logits": rows}


if __name__ == "__main__":
    lines = [
        f"{json.dumps(name)}:{json.dumps(_golden(name), separators=(',', ':'))}" for name in CONFIGS
    ]
    FILE.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
