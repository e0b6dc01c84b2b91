"""Training with a teacher: knowledge distillation of its logits."""

import dataclasses
from typing import Any

import jax
import optax

from train.config.base import DistillationConfig
from train.data.batches import BatchStream
from train.engine.gradient_accumulation import WithAuxiliary
from train.engine.loop import LossFn
from train.runtime.sharding import place
from train.tasks.objective import Classifier


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


def with_teacher(
    classifier: Classifier,
    source: BatchStream,
    teacher: Classifier,
    variables: Any,
    settings: DistillationConfig,
) -> tuple[LossFn, BatchStream]:
    """Returns a loss, and the batches to use it with.

    The loss is a weighted mean of the cross entropy and `distillation_loss`; the teacher sees the
    same augmented inputs. The teacher's variables are part of the stream's arrays, so that they are
    on the device once.

    Args:
      classifier: the student.
      source: of the batches.
      teacher: classifier of the teacher.
      variables: of the teacher.
      settings: weight and temperature.
    """

    def loss(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        (inputs, labels), teacher_variables = batch
        inputs, logits, stats = classifier.forward(params, stats, inputs, key)
        teacher_logits = jax.lax.stop_gradient(teacher.logits(teacher_variables, inputs))
        hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        soft = distillation_loss(logits, teacher_logits, settings.teacher_temperature)
        metrics = {
            "train/accuracy": (logits.argmax(-1) == labels).mean(),
            "train/divergence": soft,
        }
        weight = settings.teacher_weight
        return (1 - weight) * hard + weight * soft, (stats, metrics)

    return loss, dataclasses.replace(
        source,
        arrays=(source.arrays, place(variables)),
        fetch=lambda arrays, inputs: WithAuxiliary(source.fetch(arrays[0], inputs), arrays[1]),
    )
