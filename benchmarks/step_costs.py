"""Where the time of a training step goes, and what three savings are worth: before and after.

`python -m benchmarks.step_costs`: the small Mixer, ViT, encoder (MiniLM-L6) and decoder of the
presets, weights at random. Before: dense layers on (batch, tokens, width), `nn.gelu`'s exact form
and `jax.nn.dot_product_attention`. After: what `train.loop` and `lcjax.models` do, dense layers on
flat tokens in training, `exact_gelu` and `attend`. Compact inference has the later half of the MLPs
fused. Both take turns in one run; what the time goes to is read from a trace of the later one.
"""

import dataclasses
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import flax.linen as nn
import jax
import jax.numpy as jnp
import tyro

import lcjax
from benchmarks.interleave import interleaved, ratio
from benchmarks.record import RESULTS, Table, publish
from benchmarks.trace import KINDS, shares
from lcjax.models import Bert, attention
from lcjax.models.gelu import exact_gelu
from train.classifier import Classifier
from train.config import Config
from train.flat_tokens import flat_tokens
from train.heap import keep_freed_memory
from train.image_classifier import ImageClassifier
from train.language_model import LanguageModel
from train.language_presets import PRESETS as LANGUAGE
from train.loop import TrainState
from train.optimizers import make_optimizer
from train.presets import PRESETS as IMAGES
from train.text_classifier import TextClassifier
from train.text_presets import PRESETS as TEXTS

BEFORE = partial(nn.gelu, approximate=False)
_CHARACTERS = 65


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a preset trains.

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
        module = self.classifier.module
        if module.activation is not exact_gelu:  # pyright: ignore[reportAttributeAccessIssue]
            return self
        module = module.clone(activation=gelu)
        return dataclasses.replace(
            self, classifier=dataclasses.replace(self.classifier, module=module)
        )


NAMES = ("fashion-mixer", "fashion-vit", "sst2-minilm", "shakespeare-small")


def by_name() -> dict[str, Preset]:
    """Returns the presets by name."""
    pixels, labels = jnp.zeros((128, 28, 28, 1), jnp.uint8), jnp.zeros(128, jnp.int32)
    found = {}
    for name in NAMES[:2]:
        config = IMAGES[name][1]
        module = config.model.build(10)
        found[name] = Preset(config, ImageClassifier(module, (0.5,), (0.5,)), (pixels, labels))
    config, bert = TEXTS["sst2-minilm"][1], Bert.from_preset("MiniLM-L6", num_classes=2)
    texts = jnp.ones((32, 32), jnp.int32)
    found["sst2-minilm"] = Preset(config, TextClassifier(bert), (texts, labels[:32]))
    config = LANGUAGE["shakespeare-small"][1]
    windows = jnp.zeros((config.data.batch_size, config.model.context), jnp.int32)
    decoder = LanguageModel(config.model.build(_CHARACTERS))
    found["shakespeare-small"] = Preset(config, decoder, (windows, windows))
    return found


def before() -> AbstractContextManager[Any]:
    """Inside, programs are traced with the attention there was before."""
    return patch.object(attention, "attend", jax.nn.dot_product_attention)


def step(preset: Preset, *, flat: bool) -> tuple[Any, tuple[Any, ...]]:
    """Returns a training step, compiled, and what it takes."""
    config, classifier = preset.config, preset.classifier
    tx = make_optimizer(config.optimizer, config.penalty, 1000)
    state = TrainState.create(_variables(preset), tx)
    gradient = jax.value_and_grad(classifier.loss, has_aux=True)

    @jax.jit
    def train(state: TrainState, batch: Any) -> Any:
        with flat_tokens() if flat else nullcontext():
            _, grads = gradient(state.params, state.stats, batch, jax.random.key(0))
        return tx.update(grads, state.opt_state, state.params)

    return train.lower(state, preset.batch).compile(), (state, preset.batch)


def forward(preset: Preset) -> tuple[Any, tuple[Any, ...]]:
    """Returns a forward pass of the compact model, compiled, and what it takes."""
    deep = _variables(preset)
    sites = lcjax.find_sites(deep).paths
    compact, _ = lcjax.collapse(deep, sites[len(sites) // 2 :], threshold=float("inf"))
    inputs = preset.batch[0]
    return jax.jit(preset.classifier.logits).lower(compact, inputs).compile(), (compact, inputs)


def measure(name: str, preset: Preset, rounds: int) -> list[dict[str, Any]]:
    """Returns, for the step and the forward pass, milliseconds of both forms and the shares."""
    old = preset.with_gelu(BEFORE)
    with before():
        programs = {
            "training step": {"before": step(old, flat=False)},
            "compact inference": {"before": forward(old)},
        }
    programs["training step"]["after"] = step(preset, flat=True)
    programs["compact inference"]["after"] = forward(preset)
    found = []
    for program, forms in programs.items():
        calls = {form: partial(compiled, *given) for form, (compiled, given) in forms.items()}
        seconds = interleaved(calls, rounds=rounds)
        found.append(
            {
                "preset": name,
                "program": program,
                "milliseconds": {
                    form: 1e3 * statistics.median(times) for form, times in seconds.items()
                },
                "ratio": ratio(seconds["after"], seconds["before"]),
                "shares": shares(*forms["after"]),
            }
        )
    return found


def main(presets: tuple[str, ...] = NAMES, rounds: int = 40, results_dir: Path = RESULTS) -> None:
    """Measures, prints a table and writes a JSON.

    Args:
      presets: which of them.
      rounds: timed calls of each form.
      results_dir: where results are written.
    """
    keep_freed_memory()
    every = by_name()
    found = [row for name in presets for row in measure(name, every[name], rounds)]
    headers = ("preset", "program", "before, ms", "after, ms", "after / before", *KINDS)
    table = Table(headers, [_cells(each) for each in found])
    publish("step_costs", {"rounds": rounds, "dtype": "float32"}, found, table,
            results_dir=results_dir)  # fmt: skip


def _variables(preset: Preset) -> Any:
    inputs = preset.batch[0][:1]
    return jax.jit(preset.classifier.module.init)(
        jax.random.key(0), inputs.astype(jnp.float32) if inputs.ndim == 4 else inputs
    )


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["preset"],
        found["program"],
        *(f"{found['milliseconds'][form]:.1f}" for form in ("before", "after")),
        f"{found['ratio']['of_medians']:.3f}",
        *(f"{100 * found['shares'][kind]:.0f} %" for kind in KINDS),
    )


if __name__ == "__main__":
    tyro.cli(main)
