"""The networks of the benchmarks, each with its batch and its training step, weights random.

Small ones as `train` trains them on public data sets, and published sizes. Weights may be abstract,
so that a step can be compiled for devices that are not present.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro

import lcjax
from benchmarks.harness.hlo import CompiledProgram
from lcjax.models import BERT, GPT2, Decoder, MLPMixer, ViT
from train.config.base import OptimizerConfig, PenaltyConfig
from train.data.batches import BatchStream
from train.engine.loop import TrainState, make_dispatch
from train.engine.optimizers import freeze_slopes, make_adamw, make_optimizer, warmup_cosine
from train.runs.flags import FLAGS
from train.runs.latency import flops
from train.tasks.image.objective import ImageClassifier
from train.tasks.image.presets import PRESETS as IMAGES
from train.tasks.language.objective import LanguageModel
from train.tasks.language.presets import PRESETS as LANGUAGE
from train.tasks.objective import Classifier
from train.tasks.text.objective import TextClassifier
from train.tasks.text.presets import PRESETS as TEXTS

Form = Literal["deep", "compact"]
FORMS: tuple[Form, ...] = ("deep", "compact")
FASHION, CIFAR = (28, 28, 1), (32, 32, 3)  # shapes of images
_STEPS = 1000  # of the schedules; the cost of a step does not depend on it
_CHARACTERS = 65  # of tiny_shakespeare

# Arguments of `python -m train.image`.
FASHION_MIXER = (
    *("fashion-mixer", "--patch-size", "7", "--depth", "4", "--width", "64"),
    *("--token-hidden", "32", "--channel-hidden", "256", "--learning-rate", "2e-3"),
    *("--where", "*channels*"),
)
CIFAR10_VIT = (
    *("cifar10-vit", "--patch-size", "8", "--depth", "4", "--width", "64"),
    *("--num-heads", "4", "--mlp-hidden", "256"),
)
CIFAR10_MIXER = (
    *("cifar10-mixer", "--patch-size", "8", "--depth", "4", "--width", "96"),
    *("--token-hidden", "32", "--channel-hidden", "384", "--learning-rate", "2e-3"),
    *("--where", "*channels*"),
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, a batch for it, and its training.

    Attributes:
      name: in tables.
      objective: the module with its loss.
      example: shapes and dtypes of one input and its labels, without the batch.
      batch_size: that fills the machine.
      optimizer: AdamW, as the preset has it.
      penalty: on the slopes of the deep form; its glob `where` also names the sites to collapse.
      num_collapsed: sites, the last ones, that comparisons of costs collapse.
      unit: of throughput, "images", "texts" or "tokens".
      units: per example.
    """

    name: str
    objective: Classifier
    example: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]
    batch_size: int
    optimizer: OptimizerConfig
    penalty: PenaltyConfig
    num_collapsed: int = 0
    unit: str = "images"
    units: int = 1

    @property
    def module(self) -> Any:
        """The Flax module; maps `module_inputs` to logits."""
        return self.objective.module

    def module_inputs(self, batch_size: int) -> jax.Array:
        """Returns inputs of the module: float32 for images, else tokens."""
        shape, dtype = self.example[0].shape, self.example[0].dtype
        return jnp.ones((batch_size, *shape), jnp.float32 if dtype == jnp.uint8 else dtype)

    def init(self, key: jax.Array) -> Any:
        """Returns new variables."""
        return jax.jit(self.module.init)(key, self.module_inputs(1))

    def random_variables(self, dtype: str, *, slope: float) -> Any:
        """Returns variables with random weights of this dtype, all slopes of one value."""

        def weight(leaf: Any) -> jax.Array:
            return 0.02 * jax.random.normal(jax.random.key(leaf.size), leaf.shape, dtype)

        shapes = self.abstract("deep")
        return lcjax.map_slopes(
            lambda _, leaf: jnp.full(leaf.shape, slope, leaf.dtype),
            jax.tree.map(weight, shapes),
            shapes,
        )

    def abstract(self, form: Form) -> Any:
        """Returns the variables as ShapeDtypeStructs."""
        deep = jax.eval_shape(self.init, jax.random.key(0))
        return deep if form == "deep" else lcjax.abstract_collapse(deep, "*")[0]

    def sites(self, variables: Any) -> tuple[str, ...]:
        """Returns the paths of the sites that comparisons of costs collapse."""
        where, last = self.penalty.where, self.num_collapsed
        return tuple(lcjax.select_sites(variables["params"], last=last, where=where))

    def abstract_inputs(self, batch_size: int) -> Any:
        """Returns the inputs and labels of a dispatch of one step, as ShapeDtypeStructs."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((1, batch_size, *leaf.shape), leaf.dtype),
            self.example,
        )

    def tx(self, form: Form) -> optax.GradientTransformation:
        """Returns the optimizer: with the penalty for the deep form, that of healing otherwise."""
        if form == "deep":
            return make_optimizer(self.optimizer, self.penalty, _STEPS)
        return freeze_slopes(make_adamw(self.optimizer, warmup_cosine(self.optimizer, _STEPS)))

    def dispatch(self, form: Form, state_sharding: Any = None) -> Callable[..., Any]:
        """Returns the jitted `dispatch(state, (), inputs)` of `train.engine.loop`.

        Args:
          form: of the network.
          state_sharding: of the state, on a mesh.
        """
        tx = self.tx(form)
        source = BatchStream(1, (), lambda _, batch: batch, lambda _: iter(()))
        key = jax.random.key(0)
        return make_dispatch(self.objective.loss, tx, source, key, state_sharding=state_sharding)

    def step(self, form: Form = "deep") -> CompiledProgram:
        """Returns a training step that donates its state and continues from it."""
        variables = self.init(jax.random.key(0))
        if form == "compact":
            variables, _ = lcjax.collapse(variables, fit=lcjax.Exact(max_gap=math.inf))
        state = TrainState.create(variables, self.tx(form))
        inputs = jax.tree.map(_fill, self.abstract_inputs(self.batch_size))
        dispatch: Any = self.dispatch(form)
        compiled = dispatch.lower(state, (), inputs).compile()

        def call() -> Any:
            nonlocal state
            state, metrics = compiled(state, (), inputs)
            return metrics

        return CompiledProgram(compiled.as_text(), flops(compiled), call)

    def compact_forward(self) -> CompiledProgram:
        """Returns a forward pass with the later half of the sites collapsed."""
        deep = self.init(jax.random.key(0))
        sites = lcjax.find_sites(deep).paths
        compact, _ = lcjax.collapse(deep, sites[len(sites) // 2 :], lcjax.Exact(max_gap=math.inf))
        inputs = jax.tree.map(_fill, self.abstract_inputs(self.batch_size))[0][0]
        compiled = jax.jit(self.objective.logits).lower(compact, inputs).compile()
        text = compiled.as_text() or ""
        return CompiledProgram(text, flops(compiled), lambda: compiled(compact, inputs))


def image_network(
    name: str, arguments: tuple[str, ...], shape: tuple[int, ...], batch_size: int = 128
) -> Network:
    """Returns the network of `python -m train.image ARGUMENTS`, with two sites to collapse."""
    preset, *flags = arguments
    config = tyro.cli(type(IMAGES[preset][1]), default=IMAGES[preset][1], args=flags, config=FLAGS)
    gray = (0.5,) * shape[-1]
    objective = ImageClassifier(config.model.build(10), gray, gray)
    example = jax.ShapeDtypeStruct(shape, jnp.uint8), jax.ShapeDtypeStruct((), jnp.int32)
    return Network(name, objective, example, batch_size, config.optimizer, config.penalty, 2)


def imagenet_network(name: str, module: nn.Module, batch_size: int, num_collapsed: int) -> Network:
    """Returns a network for images of 224 × 224 pixels in 1,000 classes."""
    objective = ImageClassifier(module, mean=(0.5,) * 3, std=(0.5,) * 3, flip=True)
    config = IMAGES["imagenet-vit-b16"][1]
    example = jax.ShapeDtypeStruct((224, 224, 3), jnp.uint8), jax.ShapeDtypeStruct((), jnp.int32)
    training = config.optimizer, config.penalty
    return Network(name, objective, example, batch_size, *training, num_collapsed)


def vit(preset: str, *, batch_size: int = 8, num_collapsed: int = 0, **fields: Any) -> Network:
    """Returns a ViT of a published size.

    Args:
      preset: its size.
      batch_size: of a step or a forward pass.
      num_collapsed: sites that comparisons of costs collapse.
      **fields: attributes that replace the preset's.
    """
    module = ViT.from_preset(preset, num_classes=1000, **fields)
    return imagenet_network(f"ViT-{preset}", module, batch_size, num_collapsed)


def mixer(preset: str, *, batch_size: int = 8, num_collapsed: int = 0) -> Network:
    """Returns an MLP-Mixer of a published size, of which channel MLPs collapse."""
    module = MLPMixer.from_preset(preset, num_classes=1000)
    network = imagenet_network(f"Mixer-{preset}", module, batch_size, num_collapsed)
    penalty = dataclasses.replace(network.penalty, where="*channels*")
    return dataclasses.replace(network, penalty=penalty)


def gpt2(preset: str, *, batch_size: int = 4, **fields: Any) -> Network:
    """Returns a GPT-2 on windows of its maximal length.

    Args:
      preset: its size.
      batch_size: windows of a step.
      **fields: attributes that replace the preset's.
    """
    module, config = GPT2.from_preset(preset, **fields), LANGUAGE["gpt2"][1]
    return _language(f"GPT-2 {preset}", module, module.max_length, batch_size, config)


def decoder() -> Network:
    """Returns the decoder of the preset shakespeare-small, with two sites to collapse."""
    config = LANGUAGE["shakespeare-small"][1]
    module, batch_size = config.model.build(_CHARACTERS), config.data.batch_size
    network = _language("tiny_shakespeare GPT", module, config.model.context, batch_size, config)
    return dataclasses.replace(network, num_collapsed=2)


def minilm() -> Network:
    """Returns MiniLM-L6 on batches of 32 texts of 32 tokens, with three sites to collapse."""
    objective = TextClassifier(BERT.from_preset("MiniLM-L6", num_classes=2))
    config = TEXTS["sst2-minilm"][1]
    example = jax.ShapeDtypeStruct((32,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    training = config.optimizer, config.penalty
    return Network("SST-2 MiniLM", objective, example, 32, *training, 3, "texts")


def _language(
    name: str, module: GPT2 | Decoder, length: int, batch_size: int, config: Any
) -> Network:
    window = jax.ShapeDtypeStruct((length,), jnp.int32)
    training = config.optimizer, config.penalty
    return Network(
        name, LanguageModel(module), (window, window), batch_size, *training,
        unit="tokens", units=length,
    )  # fmt: skip


def _fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns an array of alternating zeros and ones, valid as pixels, tokens and labels."""
    return jnp.arange(leaf.size).reshape(leaf.shape).astype(leaf.dtype) % 2


NETWORKS: dict[str, Callable[[], Network]] = {
    "Fashion-MNIST MLP": partial(
        image_network, "Fashion-MNIST MLP", ("fashion-mlp",), FASHION, batch_size=256
    ),
    "Fashion-MNIST Mixer": partial(image_network, "Fashion-MNIST Mixer", FASHION_MIXER, FASHION),
    "CIFAR-10 ViT": partial(image_network, "CIFAR-10 ViT", CIFAR10_VIT, CIFAR),
    "CIFAR-10 Mixer": partial(image_network, "CIFAR-10 Mixer", CIFAR10_MIXER, CIFAR),
    "SST-2 MiniLM": minilm,
    "tiny_shakespeare GPT": decoder,
    "ViT-S/16": partial(vit, "S/16", num_collapsed=6),
    "Mixer-S/16": partial(mixer, "S/16", num_collapsed=4),
    "ViT-L/16": partial(vit, "L/16", batch_size=32, dtype=jnp.bfloat16),
    "GPT-2 XL": partial(gpt2, "XL", batch_size=4, dtype=jnp.bfloat16),
}
