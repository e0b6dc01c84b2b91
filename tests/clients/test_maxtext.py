"""MaxText: its whole Llama-like model, with layers apart and scanned, and its checkpoints."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from orbax.checkpoint import v1 as ocp

import lcjax
from tests.clients.contract import Client, Module, agrees, check, check_module
from tests.clients.packages import client

maxtext = client("maxtext", "maxtext")
pyconfig = client("maxtext.configs.pyconfig", "maxtext")
creation = client("maxtext.utils.model_creation_utils", "maxtext")

BASE = str(Path(maxtext.__file__).parent / "configs" / "base.yml")
TINY = dict(
    run_name="tiny",
    hardware="cpu",
    skip_jax_distributed_system=True,
    enable_checkpointing=False,
    log_config=False,
    decoder_block="llama2",
    attention="dot_product",
    dtype="float32",
    weight_dtype="float32",
    base_num_decoder_layers=3,
    base_emb_dim=32,
    base_mlp_dim=128,
    base_num_query_heads=4,
    base_num_kv_heads=2,
    head_dim=8,
    vocab_size=64,
    max_target_length=8,
    max_prefill_predict_length=4,
    per_device_batch_size=2,
)
TOKENS = jax.random.randint(jax.random.key(0), (2, 8), 0, 64)
INPUTS = TOKENS, jnp.tile(jnp.arange(8), (2, 1)), jnp.ones((2, 8), jnp.int32)
SITES = {
    "layers apart": [f"decoder/layers_{i}/mlp/wi_1" for i in range(3)],
    "scanned": ["decoder/layers/mlp/wi_1"],
    "fused_mlp": [f"decoder/layers_{i}/mlp/wi" for i in range(3)],
}


def build(kind):
    options = dict(scan_layers=kind == "scanned", fused_mlp=kind == "fused_mlp")
    config = pyconfig.initialize(["tests", BASE], **TINY, **options)
    return creation.from_config(config, rngs=nnx.Rngs(params=0, dropout=1))


def function(model):
    """Returns the model as a function of its params, and the params."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def fn(params, tokens, positions, segments):
        module = nnx.merge(graph, params, rest, copy=True)
        return module(tokens, positions, decoder_segment_ids=segments, enable_dropout=False)

    return fn, params


@pytest.mark.parametrize("kind", SITES)
def test_model(kind, record_property):
    model = build(kind)
    name = f"Llama-like model, 3 layers, {kind}"
    with model.mesh:
        client = Client(name, "maxtext", *function(model), INPUTS, SITES[kind])
        check(client, record_property)


@pytest.mark.parametrize("kind", SITES)
def test_module(kind, record_property):
    model = build(kind)
    name = f"Llama-like model, 3 layers, {kind}, as a module"
    with model.mesh:
        check_module(Module(name, "maxtext", model, INPUTS, SITES[kind]), record_property)


def test_params_of_a_checkpoint(tmp_path):
    """The layout of MaxText's checkpoints: {"params": {"params": {"decoder": ...}}}."""
    model = build("layers apart")
    fn, params = function(model)
    stored = {"params": {"params": nnx.to_pure_dict(params)}}
    ocp.save_pytree(tmp_path / "items", stored)
    read = ocp.load_pytree(tmp_path / "items")["params"]["params"]

    graph, _, rest = nnx.split(model, nnx.Param, ...)

    def run(params, *inputs):
        module = nnx.merge(graph, rest, nnx.State(params), copy=True)
        return module(*inputs, enable_dropout=False)

    with model.mesh:
        f = lcjax.collapsible(run)
        compact, report = f.trace(read, *INPUTS).collapse_sequential([INPUTS], "decoder/layers_2/*")
        assert report.collapsed == ("decoder/layers_2/mlp/wi_1",)
        assert "wi_1" not in compact["model"]["decoder"]["layers_2"].get("mlp", {})
        g = lcjax.collapsible(fn)
        other, _ = g.trace(params, *INPUTS).collapse_sequential([INPUTS], "decoder/layers_2/*")
        agrees(f(compact, *INPUTS), g(other, *INPUTS))
