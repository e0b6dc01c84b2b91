"""Third-party models, as they are: their sites, and what a collapse makes of them.

For each, the sites are those listed by hand; at slope 0 the function is the original's; at slope 1
the compact form is exact to rounding; by XLA's own count of FLOPs it costs what the table says.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lcjax
from tests.helpers.functions import arrays, close, sloped


class Model(NamedTuple):
    """A model as its library gives it.

    Attributes:
      fn: of params and inputs.
      params: of the library's own making.
      inputs: what it takes besides.
      sites: written down by hand, in forward order.
      flops: XLA's count for the original and for the compact program.
    """

    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    sites: list[str]
    flops: tuple[float, float]


KEY = jax.random.key(0)
TOKENS = jnp.array([[2, 5, 6, 7, 8, 3], [4, 4, 9, 1, 0, 3]])
SMALL = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=50
)


def linen_transformer() -> Model:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4)(y, y)
            y = nn.gelu(nn.Dense(128)(nn.LayerNorm()(x)))
            return x + nn.Dense(32)(nn.Dropout(0.1, deterministic=True)(y))

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.remat(Block)()(x)
            return nn.Dense(3)(x.mean(1))

    x, model = arrays(x=(2, 8, 32))["x"], Transformer()
    sites = [f"CheckpointBlock_{i}/Dense_0" for i in range(2)]
    return Model(model.apply, model.init(KEY, x), (x,), sites, (884_000, 388_000))


def nnx_transformer() -> Model:
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm_1, self.norm_2 = (nnx.LayerNorm(32, rngs=rngs) for _ in range(2))
            self.attention = nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs)
            self.up, self.down = (nnx.Linear(*w, rngs=rngs) for w in ((32, 128), (128, 32)))
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norm_1(x))
            return x + self.down(self.dropout(nnx.silu(self.up(self.norm_2(x)))))

    class Transformer(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([Block(rngs) for _ in range(2)])
            self.head = nnx.Linear(32, 3, rngs=rngs)

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    graph, params, rest = nnx.split(Transformer(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params, rest, x):
        model = nnx.merge(graph, params, rest)
        model.eval()
        return model(x)

    sites = [f"blocks/{i}/up" for i in range(2)]
    return Model(apply, params, (rest, arrays(x=(2, 8, 32))["x"]), sites, (868_000, 389_000))


def equinox_mlp() -> Model:
    eqx = pytest.importorskip("equinox")
    params, static = eqx.partition(eqx.nn.MLP(6, 4, 32, 3, key=KEY), eqx.is_array)
    apply = lambda params, x: jax.vmap(eqx.combine(params, static))(x)
    x = arrays(x=(5, 6))["x"]
    return Model(apply, params, (x,), ["layers/0", "layers/1", "layers/2"], (24_660, 260))


def equinox_vit() -> Model:
    """The blocks of equinox.nn as its documentation stacks them to a vision transformer."""
    eqx = pytest.importorskip("equinox")

    class Block(eqx.Module):
        norm_1: Any
        attention: Any
        norm_2: Any
        up: Any
        down: Any
        dropout: Any

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.norm_1, self.norm_2 = eqx.nn.LayerNorm(32), eqx.nn.LayerNorm(32)
            self.attention = eqx.nn.MultiheadAttention(4, 32, key=keys[0])
            self.up = eqx.nn.Linear(32, 64, key=keys[1])
            self.down = eqx.nn.Linear(64, 32, key=keys[2])
            self.dropout = eqx.nn.Dropout(0.1)

        def __call__(self, x, inference, key):
            y = jax.vmap(self.norm_1)(x)
            x = x + self.attention(y, y, y)
            y = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm_2)(x)))
            return x + jax.vmap(self.down)(self.dropout(y, inference=inference, key=key))

    class ViT(eqx.Module):
        patches: Any
        positions: Any
        blocks: list
        head: Any

        def __init__(self, key):
            keys = jax.random.split(key, 5)
            self.patches = eqx.nn.Conv2d(3, 32, 4, 4, key=keys[0])
            self.positions = jax.random.normal(keys[1], (16, 32))
            self.blocks = [Block(key) for key in keys[2:4]]
            self.head = eqx.nn.Linear(32, 10, key=keys[4])

        def __call__(self, image, inference=True, key=None):
            x = self.patches(image).reshape(32, -1).T + self.positions
            for block in self.blocks:
                x = block(x, inference, key)
            return self.head(x.mean(0))

    params, static = eqx.partition(ViT(KEY), eqx.is_array)
    apply = lambda params, images: jax.vmap(eqx.combine(params, static))(images)
    images = arrays(x=(2, 3, 16, 16))["x"]
    return Model(apply, params, (images,), ["blocks/0/up", "blocks/1/up"], (1_383_000, 953_000))


def haiku_mlp() -> Model:
    hk = pytest.importorskip("haiku")
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([32, 16, 4])(x)))
    x = arrays(x=(5, 6))["x"]
    sites = ["mlp/~/linear_0", "mlp/~/linear_1"]
    return Model(model.apply, model.init(KEY, x), (x,), sites, (8_180, 260))


def plain_jax() -> Model:
    params = [arrays(w=(6, 32), b=(32,)), arrays(w=(32, 4), b=(4,))]

    def apply(params, x):
        for layer in params[:-1]:
            x = jnp.tanh(jnp.dot(x, layer["w"]) + layer["b"])
        return jnp.dot(x, params[-1]["w"]) + params[-1]["b"]

    return Model(apply, params, (arrays(x=(5, 6))["x"],), ["0"], (3_380, 260))


def equimo_vit(layer: str, last: str, flops: tuple[float, float]) -> Model:
    eqx, package = pytest.importorskip("equinox"), pytest.importorskip("equimo")
    inside = "vision.models" if importlib.util.find_spec("equimo.vision") else "models"
    models = importlib.import_module(f"{package.__name__}.{inside}")
    vit = models.VisionTransformer(
        img_size=16,
        in_channels=3,
        dim=32,
        patch_size=4,
        num_heads=[2],
        depths=[2],
        num_classes=10,
        ffn_layer=layer,
        key=KEY,
    )
    params, static = eqx.partition(vit, eqx.is_array)

    def apply(params, images):
        model = eqx.combine(params, static)
        return jax.vmap(lambda image: model(image, key=KEY, inference=True))(images)

    images = arrays(x=(2, 3, 16, 16))["x"]
    sites = [f"blocks/0/blocks/{i}/mlp/{last}" for i in range(2)]
    return Model(apply, params, (images,), sites, flops)


def esm2() -> Model:
    eqx, package = pytest.importorskip("equinox"), pytest.importorskip("esm2quinox")
    model = package.ESM2(num_layers=3, embed_size=32, num_heads=2, token_dropout=False, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(params, tokens):
        return jax.vmap(lambda tokens: eqx.combine(params, static)(tokens).logits)(tokens)

    return Model(apply, params, (TOKENS,), ["layers/linear1"], (552_000, 280_000))


def transformers(
    model: str, sites: list[str], flops: tuple[float, float], inputs: Any = TOKENS, **sizes: Any
) -> Model:
    """Returns a model of Hugging Face's, with random weights."""
    package = pytest.importorskip("transformers")
    if not hasattr(package, f"Flax{model}"):
        pytest.skip(f"this transformers {package.__version__} has no Flax models")
    made = getattr(package, f"Flax{model}")
    made = made(made.config_class(**sizes))
    apply = lambda params, x: made(x, params=params)[0]
    return Model(apply, made.params, (inputs,), sites, flops)


def bert() -> Model:
    sites = [f"bert/encoder/layer/{i}/intermediate/dense" for i in range(2)]
    sites += ["bert/pooler/dense"]
    return transformers("BertForSequenceClassification", sites, (629_000, 377_000), **SMALL)


def gpt2() -> Model:
    sizes = dict(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
    sites = [f"transformer/h/{i}/mlp/c_fc" for i in range(2)]
    return transformers("GPT2LMHeadModel", sites, (705_000, 333_000), **sizes)


def vit() -> Model:
    sizes = {name: size for name, size in SMALL.items() if name != "vocab_size"}
    sites = [f"vit/encoder/layer/{i}/intermediate/dense" for i in range(2)]
    images = arrays(x=(2, 3, 16, 16))["x"]
    sizes |= dict(image_size=16, patch_size=4)
    return transformers("ViTForImageClassification", sites, (1_728_000, 1_027_000), images, **sizes)


def llama() -> Model:
    sites = [f"model/layers/{i}/mlp/up_proj" for i in range(2)]
    return transformers(
        "LlamaForCausalLM", sites, (578_000, 324_500), max_position_embeddings=16, **SMALL
    )


MODELS = {
    "flax.linen transformer": linen_transformer,
    "flax.nnx transformer": nnx_transformer,
    "equinox.nn.MLP": equinox_mlp,
    "equinox.nn ViT": equinox_vit,
    "haiku.nets.MLP": haiku_mlp,
    "plain JAX": plain_jax,
    "equimo ViT": lambda: equimo_vit("mlp", "fc1", (2_606_000, 1_305_000)),
    "equimo ViT, SwiGLU": lambda: equimo_vit("swiglu", "w2", (2_604_000, 1_305_000)),
    "equimo ViT, fused SwiGLU": lambda: equimo_vit("swiglufused", "w12", (2_604_000, 1_305_000)),
    "esm2quinox ESM2": esm2,
    "transformers BERT": bert,
    "transformers GPT-2": gpt2,
    "transformers ViT": vit,
    "transformers Llama": llama,
}
QUICK = ("equinox.nn.MLP", "plain JAX")
MARKED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name) for name in MODELS
]


def flops(fn: Callable[..., Any], *args: Any) -> float:
    """Returns XLA's count for the compiled program."""
    return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
@pytest.mark.parametrize("name", MARKED)
def test_collapse_of_third_party_model(name):
    model = MODELS[name]()
    f = lcjax.collapsible(model.fn)
    params = f.init(model.params, *model.inputs)
    assert list(f.trace(params, *model.inputs).sites.paths) == model.sites
    want = jax.jit(model.fn)(model.params, *model.inputs)
    close(jax.jit(f)(params, *model.inputs), want)
    linear = sloped(params, 1)
    compact, report = f.trace(linear, *model.inputs).collapse()
    close(jax.jit(f)(compact, *model.inputs), jax.jit(f)(linear, *model.inputs))
    assert report.collapsed == tuple(model.sites)
    deep = flops(model.fn, model.params, *model.inputs)
    counted = deep, flops(f, compact, *model.inputs)
    print(f"| {name} | {len(model.sites)} | {counted[0]:,.0f} | {counted[1]:,.0f} |")
    np.testing.assert_allclose(counted, model.flops, rtol=0.02)
