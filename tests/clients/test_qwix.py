"""qwix quantizes a compact decoder of Tunix to int8; a quantized one is not collapsed."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lcjax
from tests.clients.packages import client
from tests.clients.test_tunix import inputs, llama, random

qwix = client("qwix", "qwix")


def quantize(model):
    rules = [qwix.QuantizationRule(module_path=".*mlp.*", weight_qtype="int8")]
    return qwix.quantize_model(model, qwix.PtqProvider(rules), *inputs())


def stored_as_int8(model):
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return [keys for keys, leaf in leaves if leaf.dtype == jnp.int8]


def test_collapse_then_quantize():
    model = random(llama())
    compact, _ = lcjax.nnx.collapse_sequential(model, [inputs()], sites="layers/[12]/*")
    quantized = quantize(compact)
    assert len(stored_as_int8(quantized)) == 3 + 2  # the kernels of one MLP, and two that are fused
    want, got = compact(*inputs())[0], quantized(*inputs())[0]
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()

    explained = str(lcjax.nnx.explain(quantize(model), *inputs()))
    assert "Collapse the float kernels first" in explained
