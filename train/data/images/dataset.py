"""Image-classification data: three splits of uint8 images, in memory or streamed."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from train.data.dataset import DataError, Dataset, Part, hold_out
from train.data.images import in_memory as array_sets
from train.data.images.hugging_face import PREFIX, hugging_face_images
from train.data.images.own_files import own_images, own_path
from train.data.images.splits import ImageSet, Split, StreamedSplit, channel_moments
from train.data.tfds.locate import data_directory, locate, prepare


@dataclasses.dataclass(frozen=True)
class ImageData(Dataset):
    """A labelled image set in three splits.

    Attributes:
      name: of the set, with its version if it has one.
      train: a `Split` in memory, or a `StreamedSplit` if the set is too large for that.
      validation: held out of the training split, always the same.
      test: reads the test split; a function, so that it is read at the end only.
      num_classes: number of classes.
      image_shape: (height, width, channels).
      mean: per channel, of the training images scaled to [0, 1].
      std: per channel, likewise.
      class_names: one per class.
    """

    train: Split | StreamedSplit
    validation: Split | StreamedSplit
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """A description of the images."""
        return f"{'×'.join(map(str, self.image_shape))}, {self.num_classes} classes"

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one image."""
        return jax.ShapeDtypeStruct(self.image_shape, np.uint8)

    @property
    def each(self) -> str:
        """Name of one input."""
        return "an image"

    @property
    def in_memory(self) -> bool:
        """Whether the splits are arrays (`Split`)."""
        return isinstance(self.train, Split)


_OTHERS = "'digits', 'hf:NAME', the path of a folder of pictures by class or of an .npz file"


def load(
    name: str = "digits",
    *,
    data_dir: str | Path | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    num_classes: int | None = None,
    image_size: int | None = None,
    in_memory: bool | None = None,
    limit: int | None = None,
) -> ImageData:
    """Loads a set of labelled images by name.

    Args:
      name: "digits"; a TFDS image-classification set: "cifar10", "name:version", "name/config"; the
        path of a folder with a folder of pictures for each class, perhaps below train/ and test/,
        also written "folder:PATH"; the path of an .npz file with images and labels; or "hf:NAME", a
        set of the Hugging Face Hub or a folder that its package `datasets` reads. Without a TFDS
        copy, "fashion_mnist" is also read from Debian's package.
      data_dir: TFDS's directory; by default TFDS_DATA_DIR, then TFDS's own default.
      validation: below 1, the fraction of the training split to hold out; otherwise the number of
        images.
      split_seed: determines which images are held out.
      num_classes: expected number of classes; by default any.
      image_size: edge to which images are resized and cropped; by default the stored size, or 224
        if sizes vary.
      in_memory: whether to load splits; by default those under 2 GB with images of one size. Sets
        that are stored as arrays always are.
      limit: read only the first images of each stored split, this many.

    Raises:
      DataError: if the set does not exist or does not match the arguments.
    """
    images = _find(name, data_dir, image_size, in_memory, limit)
    classes = len(images.class_names)
    if num_classes not in (None, classes):
        raise DataError(
            f"{images.name}: num_classes is {num_classes}, but its labels have {classes} classes. "
            f"Set it to {classes}, or leave it out."
        )

    def read(part: Part) -> Split | StreamedSplit:
        split = images.read(part)
        split = split.take(np.arange(len(split))[:limit])
        if isinstance(split, Split):
            if image_size and split.images.shape[1:3] != (image_size, image_size):
                split = split.resized(image_size)
            _check_labels(split.labels, classes, f"{images.name}, {part}")
        return split

    train, held_out = hold_out(read("train"), validation, split_seed, images.name, "images")
    mean, std = channel_moments(train)
    return ImageData(
        name=images.name,
        train=train,
        validation=held_out,
        test=lambda: read("test"),
        num_classes=classes,
        image_shape=train[0][0].shape,
        mean=mean,
        std=std,
        class_names=images.class_names,
    )


def _find(
    name: str,
    data_dir: str | Path | None,
    image_size: int | None,
    in_memory: bool | None,
    limit: int | None,
) -> ImageSet:
    if name == "digits":
        return array_sets.digits()
    if (own := own_path(name)) is not None:
        return own_images(own, image_size=image_size, in_memory=in_memory)
    if name.startswith(PREFIX):
        own = name.removeprefix(PREFIX)
        return hugging_face_images(own, image_size=image_size, in_memory=in_memory)
    root = data_directory(data_dir)
    directory, alternative = locate(name, root, others=_OTHERS), ""
    if directory is None and name == "fashion_mnist":
        if debian := array_sets.idx_files(name, array_sets.DEBIAN_FASHION_MNIST):
            return debian
        alternative = " On Debian, `apt install dataset-fashion-mnist` installs it."
    if directory is None:
        directory = prepare(name, root, alternative=alternative)
    from train.data.tfds.images import tfds_images  # imports TFDS, which digits does not need

    return tfds_images(directory, image_size=image_size, in_memory=in_memory, limit=limit)


def _check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{where}: labels range from {labels.min()} to {labels.max()}; expected 0 to "
            f"{classes - 1}, for {classes} classes. Prepare the set again."
        )
