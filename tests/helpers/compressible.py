"""Small networks as the tasks that baselines compress."""

import dataclasses
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lcjax.models import BERT, MLP, MLPMixer, ViT
from train.config.protocol import FitHealConfig

IMAGES, TOKENS = (8, 8, 1), (6,)


@dataclasses.dataclass(frozen=True)
class SmallClassifier:
    """What baselines use of a `train.tasks.objective.Classifier`."""

    module: nn.Module
    mask: Any = None

    def logits(self, variables: Any, inputs: Any) -> Any:
        """Returns the output of the module."""
        return self._run(variables, inputs)

    @cached_property
    def _run(self) -> Any:
        return jax.jit(self.module.apply)


@dataclasses.dataclass(frozen=True)
class SmallConfig:
    """What baselines use of a `train.config.base.Config`."""

    protocol: FitHealConfig = FitHealConfig()


@dataclasses.dataclass(frozen=True)
class SmallTask:
    """What baselines use of a `train.tasks.base.Task`."""

    classifier: Any
    variables: Any
    calibration: list[Any]
    config: SmallConfig = SmallConfig()

    def score(self, variables: Any) -> float:
        """Returns minus the mean square of the differences from the deep logits."""
        (batch,) = self.calibration[0]
        deep, own = (self.classifier.logits(each, batch) for each in (self.variables, variables))
        return -float(((deep - own) ** 2).mean())


def small_task(module: nn.Module, *, tokens: bool = False, rows: int = 64) -> SmallTask:
    """Returns a task of a module with random params, none of them 0 but the slopes."""
    rng = np.random.default_rng(0)
    shape = TOKENS if tokens else IMAGES
    inputs = rng.integers(0, 9, (rows, *shape)) if tokens else rng.normal(size=(rows, *shape))
    inputs = inputs.astype(np.int32 if tokens else np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs[:1])

    def leaf(keys: Any, like: Any) -> np.ndarray:
        if keys[-1].key == "slope":
            return np.zeros(like.shape, np.float32)
        scale = 1 / np.sqrt(like.shape[0]) if like.ndim > 1 else 0.5
        drawn = scale * rng.normal(size=like.shape)
        return (drawn + (keys[-1].key == "scale")).astype(np.float32)

    variables = jax.tree.map(jax.numpy.asarray, jax.tree_util.tree_map_with_path(leaf, shapes))
    return SmallTask(SmallClassifier(module), variables, [(inputs,)])


NETWORKS = {
    "mlp": lambda: small_task(MLP((16, 12, 10, 4))),
    "mixer": lambda: small_task(MLPMixer(4, 4, 2, 8, 6, 16)),
    "swiglu": lambda: small_task(ViT(4, 4, 2, 8, 2, 12, glu=True, activation=nn.silu)),
    "vit": lambda: small_task(ViT(4, 4, 3, 8, 2, 12)),
    "bert": lambda: small_task(
        BERT(3, 3, 8, 2, 12, vocab_size=9, max_length=6, epsilon=1e-12), tokens=True
    ),
}
