"""Configuration of image runs."""

import dataclasses
from typing import ClassVar

from train.config.base import Config, LabelledDataConfig
from train.tasks.image.model import AnyModel
from train.validation import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDataConfig(LabelledDataConfig):
    """The image set and its preprocessing."""

    dataset: str
    """Path of a folder with a folder of pictures for each class, also as folder:PATH, or of an .npz
    file; "hf:NAME", a set of the Hugging Face Hub; "digits"; or a TFDS set of labelled images."""
    image_size: int | None = None
    """Edge in pixels to which images are resized and cropped; by default the stored size."""
    crop_padding: int = 0
    """Pixels of zero padding for random crops; 0 for no crops."""
    flip: bool = False
    """Mirror images at random."""

    def check(self) -> None:
        """Raises ConfigError if a field is out of range."""
        super().check()
        require(self, "image_size", lambda value: value is None or value >= 1, "at least 1")
        require(self, "crop_padding", lambda value: value >= 0, "at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig(Config):
    """A run on images."""

    kind: ClassVar[str] = "image"
    data: ImageDataConfig
    model: AnyModel
