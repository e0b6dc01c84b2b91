"""The programs that are timed: a training step, a forward pass, and tokens of a decoder."""

import dataclasses
import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from benchmarks.accelerator.forms import in_bfloat16, random_weights
from benchmarks.accelerator.models import Model
from lcjax.tree.paths import leaves_by_path
from train.engine.loop import TrainState

Resource = Literal["flops", "bytes"]


class Part(Protocol):
    """One program of a model, in any form."""

    @property
    def name(self) -> str:
        """In tables."""
        ...

    @property
    def bound_by(self) -> Resource:
        """What of the device's peak the time is compared with."""
        ...

    @property
    def batch(self) -> str:
        """The batch in words, such as 16 × 1,024."""
        ...

    @property
    def units(self) -> int:
        """Images, texts or tokens of a call."""
        ...

    def lower(self, form: str, shapes: Any) -> Any:
        """Returns the lowered program of the variables of a form; computes nothing."""
        ...

    def demand(self, lowered: Any, shapes: Any) -> float:
        """Returns the FLOPs or bytes of a call."""
        ...

    def ready(self, form: str, shapes: Any, compiled: Any) -> Callable[[], Any]:
        """Returns a call of the compiled program, with random weights on the device."""
        ...


@dataclasses.dataclass(frozen=True)
class _BatchProgram:
    """A program on one batch of the model, bound by FLOPs."""

    model: Model

    @property
    def bound_by(self) -> Resource:
        """What of the device's peak the time is compared with."""
        return "flops"

    @property
    def batch(self) -> str:
        """The model's batch in words."""
        return self.model.batch

    @property
    def units(self) -> int:
        """Images, texts or tokens of a call."""
        return self.model.network.batch_size * self.model.network.units

    def demand(self, lowered: Any, shapes: Any) -> float:
        """Returns the FLOPs of a call, by XLA's count before it optimizes the program."""
        return float(lowered.cost_analysis()["flops"])


@dataclasses.dataclass(frozen=True)
class TrainingStep(_BatchProgram):
    """A step of AdamW as `train` takes it, with float32 weights; the deep form with the penalty."""

    name: str = "training step"

    def lower(self, form: str, shapes: Any) -> Any:
        """Returns the lowered step."""
        network, tx = self.model.network, self._optimizer(form)
        state = jax.eval_shape(partial(TrainState.create, tx=tx), shapes)
        inputs = network.abstract_inputs(network.batch_size)
        dispatch: Any = network.dispatch("deep" if form == "deep" else "compact")
        return dispatch.lower(state, (), inputs)

    def ready(self, form: str, shapes: Any, compiled: Any) -> Callable[[], Any]:
        """Returns a step that donates its state and continues from it."""
        network, tx = self.model.network, self._optimizer(form)
        state = jax.jit(lambda: TrainState.create(random_weights(shapes), tx))()
        inputs = random_inputs(network.abstract_inputs(network.batch_size))

        def call() -> Any:
            nonlocal state
            state, metrics = compiled(state, (), inputs)
            return metrics

        return call

    def _optimizer(self, form: str) -> Any:
        return self.model.network.tx("deep" if form == "deep" else "compact")


@dataclasses.dataclass(frozen=True)
class ForwardPass(_BatchProgram):
    """The logits of a batch, with bfloat16 weights."""

    name: str = "forward pass"

    def lower(self, form: str, shapes: Any) -> Any:
        """Returns the lowered pass."""
        logits = self.model.network.objective.logits
        return jax.jit(logits).lower(in_bfloat16(shapes), self._inputs())

    def ready(self, form: str, shapes: Any, compiled: Any) -> Callable[[], Any]:
        """Returns a forward pass."""
        variables = jax.jit(lambda: random_weights(in_bfloat16(shapes)))()
        inputs = random_inputs(self._inputs())
        return lambda: compiled(variables, inputs)

    def _inputs(self) -> jax.ShapeDtypeStruct:
        network = self.model.network
        example = network.example[0]
        return jax.ShapeDtypeStruct((network.batch_size, *example.shape), example.dtype)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The likeliest next tokens, one call of the compiled step a token, with bfloat16 weights.

    Attributes:
      model: a decoder.
      texts: at once.
      count: tokens of each text in a call.
      slots: of the cache, all of which a token reads.
    """

    model: Model
    texts: int
    count: int
    slots: int
    name: str = "decoding"
    bound_by: Resource = "bytes"

    @property
    def batch(self) -> str:
        """The number of texts in words."""
        return str(self.texts)

    @property
    def units(self) -> int:
        """Tokens of a call."""
        return self.texts * self.count

    def lower(self, form: str, shapes: Any) -> Any:
        """Returns the lowered step of one token a text."""
        module = self.model.network.module

        def step(variables: Any, cache: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
            logits, updated = module.apply(
                variables | {"cache": cache}, tokens, last_only=True, mutable="cache"
            )
            return logits.argmax(-1).astype(tokens.dtype)[:, None], updated["cache"]

        tokens = jax.ShapeDtypeStruct((self.texts, 1), jnp.int32)
        cache = jax.eval_shape(self._cache)
        return jax.jit(step, donate_argnums=1).lower(in_bfloat16(shapes), cache, tokens)

    def demand(self, lowered: Any, shapes: Any) -> float:
        """Returns the bytes of a call: of the weights and of the cache, each read once a token."""
        read = [
            leaf
            for path, leaf in leaves_by_path(in_bfloat16(shapes)).items()
            if not any(fnmatchcase(path, glob) for glob in self.model.looked_up)
        ]
        read += jax.tree.leaves(jax.eval_shape(self._cache))
        return float(self.count * sum(math.prod(x.shape) * x.dtype.itemsize for x in read))

    def ready(self, form: str, shapes: Any, compiled: Any) -> Callable[[], Any]:
        """Returns a call that decodes `count` tokens a text, from an empty cache."""
        variables = jax.jit(lambda: random_weights(in_bfloat16(shapes)))()
        empty = jax.jit(self._cache)
        first = jnp.zeros((self.texts, 1), jnp.int32)

        def call() -> Any:
            tokens, cache = first, empty()
            for _ in range(self.count):
                tokens, cache = compiled(variables, cache, tokens)
            return tokens

        return call

    def _cache(self) -> Any:
        return self.model.network.module.init_cache(self.texts, self.slots)


def random_inputs(shapes: Any) -> Any:
    """Returns random pixels, and tokens and labels of 0 and 1, on the device."""
    key = jax.random.key(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.random.randint(key, leaf.shape, 0, 256 if leaf.dtype == jnp.uint8 else 2).astype(
            leaf.dtype
        )

    return jax.jit(lambda: jax.tree.map(draw, shapes))()
