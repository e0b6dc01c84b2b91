"""What the families of encoders have in common: sizes that the module's fields say."""

from typing import Any, ClassVar

from lcjax.folder.families.family import Family
from lcjax.folder.families.leaves import FolderLeaves
from lcjax.folder.storage.model_folder import ModelFolder
from lcjax.interop.name_map import NameMap
from lcjax.models.bert import BERT
from lcjax.models.modernbert import ModernBERT
from lcjax.nn.activations import Activation


class EncoderFamily(Family):
    """The layers of an encoder, without its head.

    Attributes:
      module: class of the model.
    """

    module: ClassVar[type[BERT] | type[ModernBERT]]
    model: Any

    def __init__(self, folder: ModelFolder, names: NameMap, fields: dict[str, Any]):
        """Takes the fields of the model that the folder's config describes."""
        headless: dict[str, Any] = {"num_classes": None, "pool": None}
        self.model = self.module(**(fields | headless))
        self.leaves = FolderLeaves(folder, names, self.model)

    @property
    def depth(self) -> int:
        """See `Family`."""
        return self.model.depth

    @property
    def width(self) -> int:
        """See `Family`."""
        return self.model.width

    @property
    def hidden(self) -> int:
        """See `Family`."""
        return self.model.mlp_hidden

    @property
    def longest(self) -> int:
        """See `Family`."""
        return self.model.max_length

    @property
    def vocabulary(self) -> int:
        """See `Family`."""
        return self.model.vocab_size

    @property
    def activation(self) -> Activation:
        """See `Family`."""
        return self.model.activation
