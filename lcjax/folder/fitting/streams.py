"""The hidden states of the deep and the compact model, layer by layer on disk."""

from collections.abc import Sequence
from pathlib import Path

from lcjax.folder.data.batches import Batch
from lcjax.folder.families import Family
from lcjax.folder.storage.hidden_states import HiddenStates
from lcjax.folder.storage.shard_writer import sync


class Streams:
    """Files of hidden states of one calibration set.

    Attributes:
      batches: of the set.
    """

    def __init__(self, directory: Path, batches: Sequence[Batch], family: Family):
        """Names files in a directory, which is created.

        Args:
          directory: for the files.
          batches: of the calibration set.
          family: of the model.
        """
        directory.mkdir(exist_ok=True)
        self.batches, self._directory, self._family = batches, directory, family
        self._shapes = [batch.tokens.shape for batch in batches]

    def states(self, name: str, layer: int) -> HiddenStates:
        """Returns the inputs of a layer, or another file of its hidden states.

        Args:
          name: "deep", "compact" or "plan", the model or pass; all have the same inputs of layer 0.
          layer: its index.
        """
        name = "first" if layer == 0 else f"{name}_{layer}"
        return HiddenStates(self._directory / f"{name}.f32", self._shapes, self._family.width)

    def embed(self) -> None:
        """Writes the inputs of layer 0."""
        first = self.states("deep", 0)
        for i, batch in enumerate(self.batches):
            first.write(i, self._family.embed(batch.tokens))
        sync(first.path)

    def finish(self, names: Sequence[str], layer: int) -> None:
        """Waits until the disk has the outputs of a layer."""
        for name in names:
            sync(self.states(name, layer + 1).path)

    def drop(self, names: Sequence[str], layer: int) -> None:
        """Deletes inputs of a layer that no step needs any more."""
        for name in names:
            self.states(name, layer).path.unlink(missing_ok=True)
