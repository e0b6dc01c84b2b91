"""Google DeepMind's gemma: a linen decoder whose gate and value share one array."""

import jax
import jax.numpy as jnp
import pytest

import lcjax
from tests.clients.contract import Client, agrees, check, normal
from tests.clients.packages import client, tensorflow_named
from tests.clients.text import VOCABULARY, sentencepiece_model
from tests.helpers.functions import sloped

with tensorflow_named():
    nn = client("gemma.gm.nn._transformer", "gemma")
    modules = client("gemma.gm.nn._modules", "gemma")
    configs = client("gemma.gm.nn._config", "gemma")
    text = client("gemma.gm.text._sampler", "gemma")
    tokenizers = client("gemma.gm.text._tokenizer", "gemma")


def transformer(transposed):
    """Returns a decoder as Gemma 3's, with local and global attention, of a small size."""
    kinds = (modules.AttentionType.LOCAL_SLIDING, modules.AttentionType.GLOBAL)
    config = configs.TransformerConfig(
        num_embed=VOCABULARY,
        embed_dim=32,
        hidden_dim=128,
        num_heads=4,
        head_dim=8,
        num_kv_heads=2,
        final_logit_softcap=None,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        use_qk_norm=True,
        attention_types=kinds,
        sliding_window_size=4,
        transpose_gating_einsum=transposed,
    )
    return nn.Transformer(tokens="tokens", config=config, dtype=jnp.float32)


TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 3, VOCABULARY)
SITES = [f"layer_{i}/mlp/gating_einsum" for i in range(2)]


@pytest.fixture(params=[True, False], ids=["transposed", "not transposed"])
def model(request):
    return transformer(request.param)


@pytest.fixture
def variables(model):
    return normal(model.init(jax.random.key(0), TOKENS))


def test_decoder(model, variables, record_property, request):
    fn = lambda variables, tokens: model.apply(variables, tokens).logits
    name = f"Transformer, 2 layers, gating_einsum {request.node.callspec.id}"
    check(Client(name, "gemma", fn, variables, (TOKENS,), SITES), record_property)


def test_sampler_runs_compact_params(model, variables, tmp_path):
    vocabulary = tmp_path / "tokenizer.model"
    vocabulary.write_bytes(sentencepiece_model())
    tokenizer = tokenizers.Gemma3Tokenizer(path=vocabulary)
    wrapped = lcjax.linen.Collapsed(model)

    def sample(model, params):
        sampler = text.Sampler(
            model=model,
            params=params,
            tokenizer=tokenizer,
            cache_length=32,
            max_out_length=16,
            pad_length=8,
        )
        return sampler.sample("the quick brown", max_new_tokens=8, return_state=True).tokens

    deep = sample(wrapped, variables["params"])
    assert (deep == sample(model, variables["params"])).all()
    tree = wrapped.init(jax.random.key(0), TOKENS)["params"] | {"model": variables["params"]}
    linear = {"params": sloped(tree, 1)}
    compact, report = wrapped.trace(linear, TOKENS).collapse()
    assert len(report.collapsed) == 2
    agrees(wrapped.apply(compact, TOKENS).logits, wrapped.apply(linear, TOKENS).logits)
    assert (sample(wrapped, compact["params"]) == sample(wrapped, linear["params"])).all()
