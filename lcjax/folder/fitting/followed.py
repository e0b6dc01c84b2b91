"""Fits of single layers, followed to the model's end: what their errors make of its output."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.folder.data.batches import Batch, probe_batches
from lcjax.folder.families import Family
from lcjax.folder.fitting.losses import cosine
from lcjax.folder.fitting.passes import LayerPasses
from lcjax.folder.fitting.solve import MLP
from lcjax.folder.fitting.streams import Streams

_LEAST = 1024  # tokens that are followed


class Followed:
    """Hidden states of held-out texts in models of which a single layer is compact.

    All models go through a layer before any goes through the next, so that its weights are read
    once. Of more layers fewer texts are followed, so that this costs about as much as one pass of
    all texts through the deep model for each form that is followed.
    """

    def __init__(
        self, family: Family, directory: Path, batches: Sequence[Batch], passes: LayerPasses
    ):
        """Chooses the texts.

        Args:
          family: of the model.
          directory: for the files of hidden states.
          batches: of the calibration set.
          passes: compiled.
        """
        tokens = sum(int(batch.real.sum()) for batch in batches)
        most = max(tokens // (2 * family.depth), _LEAST)
        self._streams = Streams(directory, probe_batches(batches, tokens=most), family)
        self._family, self._passes = family, passes

    def embed(self) -> None:
        """Writes the inputs of layer 0."""
        self._streams.embed()

    def run(
        self, layer: int, params: Any, names: Sequence[str], new: Mapping[str, MLP]
    ) -> Sequence[str]:
        """Writes what a layer gives in the deep model and in the others.

        Args:
          layer: its index.
          params: of the deep layer.
          names: of the models of which an earlier layer is compact.
          new: an MLP for this layer, all in one form, by the name of the model that has it.

        Returns:
          the names of all models with one compact layer up to this.
        """
        for name in ("deep", *names):
            self._advance(layer, params, name, name)
        for name, mlp in new.items():
            compact = params | {"mlp": jax.tree.map(jnp.asarray, mlp)}
            self._advance(layer, compact, "deep", name)
        names = [*names, *new]
        self._streams.finish(("deep", *names), layer)
        return names

    def losses(self, names: Sequence[str]) -> dict[str, float]:
        """Returns one minus the mean cosine of a token's last hidden states in model and deep one.

        Args:
          names: of the models, all of whose layers have run.
        """
        family, streams = self._family, self._streams
        sums, tokens = dict.fromkeys(names, 0.0), 0
        for i, batch in enumerate(streams.batches):
            deep = family.outputs(self._last("deep").read(i)[batch.real])
            tokens += len(deep)
            for name in names:
                states = family.outputs(self._last(name).read(i)[batch.real])
                sums[name] += float(np.sum(1 - cosine(deep, states)))
        return {name: total / tokens for name, total in sums.items()}

    def drop(self, names: Sequence[str], layer: int) -> None:
        """Deletes the inputs of a layer."""
        self._streams.drop(("deep", *names), layer)

    def _last(self, name: str):
        return self._streams.states(name, self._family.depth)

    def _advance(self, layer: int, params: Any, before: str, after: str) -> None:
        inputs = self._streams.states(before, layer)
        outputs = self._streams.states(after, layer + 1)
        block = self._family.block(layer)
        for i, batch in enumerate(self._streams.batches):
            args = self._family.arguments(layer, batch.real)
            outputs.write(i, self._passes.output(block, params, inputs.read(i), args))
