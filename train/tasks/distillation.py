"""Training with a teacher: knowledge distillation of its logits and hidden states."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train.config.base import DistillationConfig
from train.data.batches import BatchStream
from train.engine.gradient_accumulation import WithAuxiliary
from train.engine.loop import LossFn
from train.runtime.sharding import place
from train.tasks.objective import Classifier

_BLOCK = re.compile(r"block_\d+")


def distillation_loss(
    logits: jax.Array, teacher_logits: jax.Array, temperature: float
) -> jax.Array:
    """Returns `T² KL(softmax(teacher / T) ‖ softmax(student / T))`, mean over the batch; nats.

    Args:
      logits: of the student (..., classes).
      teacher_logits: of the teacher, of the same shape.
      temperature: T > 0; the factor T² makes the gradient's scale independent of it.

    References:
      Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2.
    """
    student, teacher = (jax.nn.log_softmax(x / temperature) for x in (logits, teacher_logits))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(student, teacher).mean()


def hidden_loss(states: Sequence[jax.Array], teacher_states: Sequence[jax.Array]) -> jax.Array:
    """Returns `mean over blocks of Σ (s - t)² / Σ t²`, 0 where all hidden states agree.

    Args:
      states: outputs of the student's blocks, (batch, tokens, width) each.
      teacher_states: of the teacher's, as many.

    Raises:
      ValueError: no blocks, or others than the teacher's.

    References:
      Romero et al. 2014, arXiv 1412.6550, section 2.2, for hints of hidden layers.
    """
    shapes = [[each.shape for each in one] for one in (states, teacher_states)]
    if not states or shapes[0] != shapes[1]:
        raise ValueError(
            f"--hidden-weight: got {len(states)} blocks with {len(teacher_states)} of a teacher, "
            "expected as many of the same width. Leave it out, or give another teacher."
        )
    losses = [
        jnp.sum((s - t) ** 2) / jnp.sum(t**2) for s, t in zip(states, teacher_states, strict=True)
    ]
    return jnp.stack(losses).mean()


def _with_states(run: Callable[[], Any]) -> tuple[Any, list[jax.Array]]:
    """Returns what a function returns, and the outputs of the blocks that it runs."""
    seen: list[jax.Array] = []

    def intercept(call: Any, inputs: Any, options: Any, context: Any) -> Any:
        out = call(*inputs, **options)
        if context.method_name == "__call__" and _BLOCK.fullmatch(context.module.name or ""):
            seen.append(out)
        return out

    with nn.intercept_methods(intercept):
        return run(), seen


def with_teacher(
    classifier: Classifier,
    source: BatchStream,
    teacher: Classifier,
    variables: Any,
    settings: DistillationConfig,
) -> tuple[LossFn, BatchStream]:
    """Returns a loss, and the batches to use it with.

    The loss is a weighted mean of the cross entropy and `distillation_loss`, and on request
    `hidden_loss`; the teacher sees the same augmented inputs. The teacher's variables are part of
    the stream's arrays, so that they are on the device once.

    Args:
      classifier: the student.
      source: of the batches.
      teacher: classifier of the teacher.
      variables: of the teacher.
      settings: weights and temperature.
    """

    def loss(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        (inputs, labels), teacher_variables = batch
        (inputs, logits, stats), states = _with_states(
            lambda: classifier.forward(params, stats, inputs, key)
        )
        from_teacher = _with_states(lambda: teacher.logits(teacher_variables, inputs))
        teacher_logits, teacher_states = jax.lax.stop_gradient(from_teacher)
        hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        both = classifier.comparable(logits, teacher_logits)
        soft = distillation_loss(*both, settings.teacher_temperature)
        metrics = {
            "train/accuracy": (logits.argmax(-1) == labels).mean(),
            "train/divergence": soft,
        }
        weight = settings.teacher_weight
        total = (1 - weight) * hard + weight * soft
        if settings.hidden_weight:
            metrics["train/hidden_states"] = hidden_loss(states, teacher_states)
            total = total + settings.hidden_weight * metrics["train/hidden_states"]
        return total, (stats, metrics)

    return loss, dataclasses.replace(
        source,
        arrays=(source.arrays, place(variables)),
        fetch=lambda arrays, inputs: WithAuxiliary(source.fetch(arrays[0], inputs), arrays[1]),
    )
