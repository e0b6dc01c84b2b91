"""Tiny model folders with random weights, in the names and shards of transformers."""

import json
import shutil

import numpy as np
import pytest

from lcjax.folder.families import family_of
from lcjax.folder.fitting.forms import Form
from lcjax.folder.fitting.mlp_tensors import changed_tensors
from lcjax.folder.output.remote_code import MODULE, mixed_config, module_text
from lcjax.folder.storage.model_folder import read_model_folder

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")
tokenizers = pytest.importorskip("tokenizers", reason="extra text")

WIDTH, HIDDEN, DEPTH, VOCABULARY = 16, 48, 3, 60
_LAST = tuple(f"{name}.weight" for name in ("down_proj", "output.dense", "lin2", "mlp.Wo"))
WORDS = [f"w{i}" for i in range(VOCABULARY - 1)]
COMMON = {
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
LLAMA = COMMON | {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
BERT = COMMON | {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
ROBERTA = BERT | {
    "model_type": "roberta",
    "architectures": ["RobertaModel"],
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}
DISTILBERT = {
    "model_type": "distilbert",
    "architectures": ["DistilBertModel"],
    "dim": WIDTH,
    "hidden_dim": HIDDEN,
    "n_layers": DEPTH,
    "n_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "activation": "gelu",
}
MODERNBERT = COMMON | {
    "model_type": "modernbert",
    "architectures": ["ModernBertModel"],
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "norm_eps": 1e-5,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 160000.0,
}
# Names of DistilBERT for those of BERT.
_DISTILLED = {
    "encoder.layer.": "transformer.layer.",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def texts(count=60, seed=0):
    """Random texts of 3 to 16 words, which make batches of one shape."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 17))) for _ in range(count)]


def shapes_of(config):
    """The tensors of a folder by name."""
    d, h, v = WIDTH, HIDDEN, VOCABULARY
    found = {}
    kind = config["model_type"]
    if kind == "modernbert":
        return _modernbert_shapes()
    if kind == "distilbert":
        for name, shape in shapes_of(BERT).items():
            for old, new in _DISTILLED.items():
                name = name.replace(old, new)
            if "token_type" not in name:
                found[name] = shape
        return found
    if kind in ("bert", "roberta"):
        found |= {
            "embeddings.word_embeddings.weight": (v, d),
            "embeddings.position_embeddings.weight": (64, d),
            "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], d),
            "embeddings.LayerNorm.weight": (d,),
            "embeddings.LayerNorm.bias": (d,),
        }
        dense = {
            "attention.self.query": (d, d),
            "attention.self.key": (d, d),
            "attention.self.value": (d, d),
            "attention.output.dense": (d, d),
            "attention.output.LayerNorm": (d,),
            "intermediate.dense": (h, d),
            "output.dense": (d, h),
            "output.LayerNorm": (d,),
        }
        for i in range(DEPTH):
            for name, shape in dense.items():
                found[f"encoder.layer.{i}.{name}.weight"] = shape
                found[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
        return found
    found |= {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    found |= {"lm_head.weight": (v, d)}
    weights = {
        "self_attn.q_proj": (d, d),
        "self_attn.k_proj": (d // 2, d),
        "self_attn.v_proj": (d // 2, d),
        "self_attn.o_proj": (d, d),
        "mlp.gate_proj": (h, d),
        "mlp.up_proj": (h, d),
        "mlp.down_proj": (d, h),
        "input_layernorm": (d,),
        "post_attention_layernorm": (d,),
    }
    for i in range(DEPTH):
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in weights.items()}
    return found


def _modernbert_shapes():
    d, h = WIDTH, HIDDEN
    found = {"embeddings.tok_embeddings.weight": (VOCABULARY, d), "embeddings.norm.weight": (d,)}
    weights = {
        "attn_norm": (d,),
        "attn.Wqkv": (3 * d, d),
        "attn.Wo": (d, d),
        "mlp_norm": (d,),
        "mlp.Wi": (2 * h, d),
        "mlp.Wo": (d, h),
    }
    for i in range(DEPTH):
        found |= {f"layers.{i}.{name}.weight": shape for name, shape in weights.items()}
    del found["layers.0.attn_norm.weight"]
    return found | {"final_norm.weight": (d,)}


def weights_of(config, seed=0):
    """Random weights; norms near 1, hidden units of very different sizes."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes_of(config).items():
        values = rng.standard_normal(shape)
        if len(shape) == 1:
            values = 0.1 * values + (name.endswith("norm.weight") or "Norm.w" in name)
        else:
            values = values / np.sqrt(shape[1])
        if name.endswith(_LAST) and shape == (WIDTH, HIDDEN):
            values = values * np.exp(rng.standard_normal(HIDDEN))
        found[name] = values.astype(np.float32)
    return found


def write_tokenizer(folder, words=WORDS):
    """A tokenizer of words."""
    model = tokenizers.models.WordLevel({"?": 0} | {w: i + 1 for i, w in enumerate(words)}, "?")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))


def write_folder(folder, config, *, shards=2, dtype=np.float32, seed=0):
    """Writes a folder, with an index where there are several shards."""
    folder.mkdir(parents=True)
    weights = {name: w.astype(dtype) for name, w in weights_of(config, seed).items()}
    names = sorted(weights)
    files = {}
    for i in range(shards):
        suffix = "" if shards == 1 else f"-{i + 1:05d}-of-{shards:05d}"
        file = f"model{suffix}.safetensors"
        own = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        files |= dict.fromkeys(own, file)
        tensors = {name: weights[name] for name in own}
        safetensors_numpy.save_file(tensors, folder / file, metadata={"format": "pt"})
    if shards > 1:
        size = sum(w.nbytes for w in weights.values())
        index = {"metadata": {"total_size": size}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "tokenizer_config.json").write_text("{}")
    write_tokenizer(folder)
    return folder


def write_forms(folder, config, forms, dtype=np.float32):
    """Writes a folder of mixed forms with random weights in one file; None keeps a layer."""
    deep = write_folder(folder.with_name(f"{folder.name}-deep"), config, shards=1, dtype=dtype)
    family = family_of(read_model_folder(deep))
    forms = [form or Form("deep", HIDDEN) for form in forms]
    tensors = safetensors_numpy.load_file(deep / "model.safetensors")
    rng = np.random.default_rng(1)
    for name, shape in changed_tensors(family, forms, bias=True).shapes.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = (0.1 * rng.standard_normal(shape)).astype(dtype)
    shutil.copytree(deep, folder)
    safetensors_numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    mixed = mixed_config(config, forms)
    (folder / "config.json").write_text(json.dumps(mixed))
    (folder / f"{MODULE}.py").write_text(module_text(config))
    return folder
