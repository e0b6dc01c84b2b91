"""Training with a teacher: part of the loss is the divergence from its logits."""

import dataclasses
from typing import Any

import jax
import optax

from train.data.batches import Source
from train.engine.gradient_accumulation import Beside
from train.engine.loop import Loss
from train.runtime.sharding import place
from train.tasks.objective import Classifier


@dataclasses.dataclass(frozen=True)
class Teaching:
    """How a teacher is listened to.

    Attributes:
      weight: part of the loss that is the divergence; the rest is the cross entropy.
      temperature: of the divergence.
    """

    weight: float = 0.5
    temperature: float = 2.0


def divergence(logits: jax.Array, taught: jax.Array, temperature: float) -> jax.Array:
    """Returns `T² KL(softmax(taught / T) ‖ softmax(logits / T))`, mean over the batch; nats.

    Args:
      logits: of the student (..., classes).
      taught: of the teacher, likewise.
      temperature: T > 0; T² keeps the gradient's size.

    References:
      Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2.
    """
    ours, theirs = (jax.nn.log_softmax(each / temperature) for each in (logits, taught))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(ours, theirs).mean()


def with_teacher(
    classifier: Classifier,
    source: Source,
    teacher: Classifier,
    variables: Any,
    teaching: Teaching = Teaching(),
) -> tuple[Loss, Source]:
    """Returns a loss, and the source to be used with it.

    The loss is cross entropy and `divergence` from the teacher, which sees the same augmented
    inputs. The teacher's variables go with the source's arrays, so that they are on the device
    once.

    Args:
      classifier: the student.
      source: of the batches.
      teacher: the classifier that teaches.
      variables: of the teacher.
      teaching: how much of the loss is the teacher's.
    """

    def loss(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
        (inputs, labels), held = batch
        inputs, logits, stats = classifier.forward(params, stats, inputs, key)
        taught = jax.lax.stop_gradient(teacher.logits(held, inputs))
        hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        soft = divergence(logits, taught, teaching.temperature)
        metrics = {
            "train/accuracy": (logits.argmax(-1) == labels).mean(),
            "train/divergence": soft,
        }
        return (1 - teaching.weight) * hard + teaching.weight * soft, (stats, metrics)

    return loss, dataclasses.replace(
        source,
        arrays=(source.arrays, place(variables, variables)),
        fetch=lambda arrays, inputs: Beside(source.fetch(arrays[0], inputs), arrays[1]),
    )
