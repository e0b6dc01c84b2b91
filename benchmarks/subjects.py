"""Networks of published sizes and a training step of each, deep and with every FFN collapsed.

Weights may be abstract: then a step can be compiled for machines that are not there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import lcjax
from lcjax.models import GPT2, ViT
from train.config.base import OptimizerConfig, PenaltyConfig
from train.data.batches import Source
from train.engine.loop import make_dispatch
from train.engine.optimizers import holding_slopes, make_adamw, make_optimizer, warmup_cosine
from train.tasks.image.objective import ImageClassifier
from train.tasks.image.presets import PRESETS as IMAGES
from train.tasks.language.objective import LanguageModel
from train.tasks.language.presets import PRESETS as LANGUAGE
from train.tasks.objective import Classifier

Form = Literal["deep", "compact"]
FORMS: tuple[Form, ...] = ("deep", "compact")
_STEPS = 1000  # of the schedules; what a step costs does not depend on it


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, and what a training step of it takes.

    Attributes:
      name: in tables.
      classifier: the module with its loss.
      init: returns new variables of a random key.
      example: shapes and dtypes of one example and of its labels, without the batch.
      optimizer: AdamW, as the preset of training has it.
      penalty: on the slopes of the deep form, likewise.
      unit: what is counted, "images" or "tokens".
      units: how many of them an example has.
    """

    name: str
    classifier: Classifier
    init: Callable[[jax.Array], Any]
    example: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]
    optimizer: OptimizerConfig
    penalty: PenaltyConfig
    unit: str
    units: int

    def abstract(self, form: Form) -> Any:
        """Returns the variables as ShapeDtypeStructs."""
        deep = jax.eval_shape(self.init, jax.random.key(0))
        return deep if form == "deep" else lcjax.abstract_collapse(deep, "*")[0]

    def inputs(self, batch_size: int) -> Any:
        """Returns what a dispatch of one step takes, as ShapeDtypeStructs."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((1, batch_size, *leaf.shape), leaf.dtype),
            self.example,
        )

    def tx(self, form: Form) -> optax.GradientTransformation:
        """Returns the optimizer: with the penalty for the deep form, of healing for the compact."""
        if form == "deep":
            return make_optimizer(self.optimizer, self.penalty, _STEPS)
        return holding_slopes(make_adamw(self.optimizer, warmup_cosine(self.optimizer, _STEPS)))

    def dispatch(self, form: Form, shardings: Any = None) -> Callable[..., Any]:
        """Returns the jitted `dispatch(state, (), inputs)` of `train.engine.loop`.

        Args:
          form: of the network.
          shardings: of the state, on a mesh.
        """
        source = Source(1, (), lambda _, batch: batch, lambda _: iter(()))
        loss, key = self.classifier.loss, jax.random.key(0)
        return make_dispatch(loss, self.tx(form), source, key, shardings=shardings)


def vit(preset: str, **fields: Any) -> Subject:
    """Returns a ViT on images of 224 × 224 pixels in 1,000 classes.

    Args:
      preset: its size.
      **fields: attributes that replace the preset's.
    """
    module = ViT.from_preset(preset, num_classes=1000, dtype=jnp.bfloat16, **fields)
    classifier = ImageClassifier(module, mean=(0.5,) * 3, std=(0.5,) * 3, flip=True)
    config, shape = IMAGES["imagenet-vit-b16"][1], (224, 224, 3)
    example = jax.ShapeDtypeStruct(shape, jnp.uint8), jax.ShapeDtypeStruct((), jnp.int32)
    return Subject(
        f"ViT-{preset}",
        classifier,
        lambda key: classifier.init(key, shape),
        example,
        config.optimizer,
        config.penalty,
        "images",
        1,
    )


def gpt2(preset: str, **fields: Any) -> Subject:
    """Returns a GPT-2 on windows as long as it reads.

    Args:
      preset: its size.
      **fields: attributes that replace the preset's.
    """
    module = GPT2.from_preset(preset, dtype=jnp.bfloat16, **fields)
    classifier, config = LanguageModel(module), LANGUAGE["gpt2"][1]
    window = jax.ShapeDtypeStruct((module.max_length,), jnp.int32)
    return Subject(
        f"GPT-2 {preset}",
        classifier,
        classifier.init,
        (window, window),
        config.optimizer,
        config.penalty,
        "tokens",
        module.max_length,
    )
