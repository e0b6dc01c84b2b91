"""A compact student of a deep teacher, trained by Tunix's DistillationTrainer.

The student is the teacher with its MLPs collapsed by least squares; distillation heals it. Needs
`pip install google-tunix`.
"""

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import lcjax


def distill(
    teacher: nnx.Module, inputs: tuple[Any, ...], steps: int = 100, sites: Any = None
) -> tuple[nnx.Module, np.ndarray]:
    """Returns the trained student and its loss at each step.

    Args:
      teacher: a decoder of Tunix, such as `tunix.models.llama3.model.Llama3`.
      inputs: of the teacher: tokens, positions, cache (None) and attention mask.
      steps: of training, all on these tokens.
      sites: paths or globs of the MLPs that the student lacks; None for all.
    """
    from tunix.distillation import (  # pyright: ignore[reportMissingImports]
        distillation_trainer as trainers,
    )
    from tunix.distillation.strategies import (  # pyright: ignore[reportMissingImports]
        logit,
    )

    student, report = lcjax.nnx.collapse_sequential(teacher, [inputs], sites=sites)
    print(report)
    tokens, positions, cache, mask = inputs
    vocabulary = jax.eval_shape(lambda: teacher(*inputs)[0]).shape[-1]

    def logits(model: Any, input_tokens: Any, **_: Any) -> jax.Array:
        return model(input_tokens, positions, cache, mask)[0]

    def labels(input_tokens: Any, **_: Any) -> jax.Array:
        return jax.nn.one_hot(input_tokens, vocabulary)

    strategy = logit.LogitStrategy(logits, logits, labels, temperature=2.0, alpha=1.0)
    config = trainers.TrainingConfig(eval_every_n_steps=steps + 1, max_steps=steps)
    trainer = trainers.DistillationTrainer(student, teacher, strategy, optax.adam(1e-4), config)
    batch = trainers.TrainingInput(input_tokens=tokens, input_mask=np.ones(np.shape(tokens), bool))
    trainer.train([batch] * steps)
    history = trainer.metrics_logger.get_metric_history("", "loss", "train")
    trainer.close()
    return student, history
