"""Folders in PyTorch by transformers: made, and run in a process that cannot import lcjax or JAX.

`python pytorch.py FOLDER INPUTS OUTPUTS [--generate] [--mean]`.
"""

import sys

_BLOCKED = ("lcjax", "jax", "flax")


def _run(folder, inputs, outputs, flags):
    import numpy as np
    import torch
    import transformers

    torch.set_num_threads(1)
    given = np.load(inputs)
    tokens, mask = torch.from_numpy(given["tokens"]).long(), torch.from_numpy(given["mask"]).long()
    kinds = {True: transformers.AutoModelForCausalLM, False: transformers.AutoModel}
    model = kinds["--generate" in flags].from_pretrained(
        folder, trust_remote_code=True, torch_dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    with torch.no_grad():
        result = model(tokens, attention_mask=mask)
        found = {"class": np.array(type(model).__name__)}
        if "--generate" not in flags:
            found["out"] = result.last_hidden_state.numpy()
        else:
            found["out"] = result.logits.numpy()
            made = model.generate(
                tokens[:1], max_new_tokens=50, do_sample=False, eos_token_id=None, pad_token_id=0
            )
            found["generated"] = made.numpy()
    np.savez(outputs, **found)


if __name__ == "__main__":
    for name in _BLOCKED:
        sys.modules[name] = None  # importing one raises ImportError
    _run(*sys.argv[1:4], sys.argv[4:])
