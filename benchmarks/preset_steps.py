"""The networks of the presets at their own sizes, and their programs: a step, a forward pass."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lcjax
from lcjax.models import Bert
from lcjax.models.activations import exact_gelu
from train.config.base import Config
from train.data.batches import Source
from train.engine.loop import TrainState, make_dispatch
from train.engine.optimizers import make_optimizer
from train.tasks.image.objective import ImageClassifier
from train.tasks.image.presets import PRESETS as IMAGES
from train.tasks.language.objective import LanguageModel
from train.tasks.language.presets import PRESETS as LANGUAGE
from train.tasks.objective import Classifier
from train.tasks.text.objective import TextClassifier
from train.tasks.text.presets import PRESETS as TEXTS

NAMES = ("fashion-mixer", "fashion-vit", "sst2-minilm", "shakespeare-small")
_CHARACTERS = 65


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      text: of the program.
      call: runs it once; what it trains, it goes on training.
    """

    text: str
    call: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a preset trains, weights at random.

    Attributes:
      config: of the preset.
      classifier: its module, with its loss.
      batch: inputs and labels.
    """

    config: Config
    classifier: Classifier
    batch: tuple[jax.Array, jax.Array]

    def with_gelu(self, gelu: Callable[[jax.Array], jax.Array]) -> "Preset":
        """Returns the same with another form of the exact GELU, if that is its activation."""
        module: Any = self.classifier.module
        if module.activation is not exact_gelu:
            return self
        module = module.clone(activation=gelu)
        classifier = dataclasses.replace(self.classifier, module=module)
        return dataclasses.replace(self, classifier=classifier)

    def variables(self) -> Any:
        """Returns new variables."""
        inputs = self.batch[0][:1]
        inputs = inputs.astype(jnp.float32) if inputs.ndim == 4 else inputs
        return jax.jit(self.classifier.module.init)(jax.random.key(0), inputs)

    def step(self) -> Program:
        """Returns a training step of `train.engine.loop`, with slopes and penalty."""
        tx = make_optimizer(self.config.optimizer, self.config.penalty, 1000)
        held = TrainState.create(self.variables(), tx)
        source = Source(1, (), lambda _, batch: batch, lambda _: iter(()))
        inputs = jax.tree.map(lambda leaf: leaf[None], self.batch)
        dispatch: Any = make_dispatch(self.classifier.loss, tx, source, jax.random.key(0))
        compiled = dispatch.lower(held, (), inputs).compile()

        def call() -> Any:
            nonlocal held
            held, metrics = compiled(held, (), inputs)
            return metrics

        return Program(compiled.as_text(), call)

    def forward(self) -> Program:
        """Returns a forward pass of the compact model, the later half of its MLPs fused."""
        deep = self.variables()
        sites = lcjax.find_sites(deep).paths
        compact, _ = lcjax.collapse(deep, sites[len(sites) // 2 :], threshold=float("inf"))
        inputs = self.batch[0]
        compiled = jax.jit(self.classifier.logits).lower(compact, inputs).compile()
        return Program(compiled.as_text() or "", lambda: compiled(compact, inputs))


def preset(name: str) -> Preset:
    """Returns one of `NAMES`: batches of 128 images, 32 texts of 32 tokens, 8 windows of 128."""
    labels = jnp.zeros(128, jnp.int32)
    if name in IMAGES:
        config = IMAGES[name][1]
        images = ImageClassifier(config.model.build(10), (0.5,), (0.5,))
        return Preset(config, images, (jnp.zeros((128, 28, 28, 1), jnp.uint8), labels))
    if name in TEXTS:
        texts = TextClassifier(Bert.from_preset("MiniLM-L6", num_classes=2))
        return Preset(TEXTS[name][1], texts, (jnp.ones((32, 32), jnp.int32), labels[:32]))
    config = LANGUAGE[name][1]
    windows = jnp.zeros((config.data.batch_size, config.model.context), jnp.int32)
    return Preset(config, LanguageModel(config.model.build(_CHARACTERS)), (windows, windows))
