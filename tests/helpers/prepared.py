"""Small data sets prepared by TFDS in a given directory, without network or TensorFlow."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def picture(height, width, channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def prepare_set(data_dir, name, *, shape, splits, classes=3):
    """Prepares a set of noise; row i of a split has class i % classes and seed i.

    Args:
      shape: of the images; where height and width are None, row i has 20 + i by 30 pixels.
      splits: number of rows by name; a name that ends in "?" makes a split without labels.
    """

    def rows(count, withheld):
        height, width, channels = shape
        for i in range(count):
            image = picture(height or 20 + i, width or 30, channels, seed=i)
            file = io.BytesIO()
            Image.fromarray(image).save(file, "png")
            file.seek(0)
            yield i, {"image": file, "label": -1 if withheld else i % classes}

    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=classes),
    }
    _prepare(data_dir, name, features, splits, rows)


def _prepare(data_dir, name, features, splits, rows):
    """Prepares a set; `rows(given, withheld)` yields a split's examples."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    body = {
        "VERSION": tfds.core.Version("1.0.0"),
        "name": name,
        "_info": info,
        "_split_generators": lambda self, _: {
            split.rstrip("?"): rows(given, split.endswith("?")) for split, given in splits.items()
        },
        "_generate_examples": lambda self: None,
        "__module__": __name__,
    }
    with tfds.core.registered.skip_registration():
        builder = type(name, (tfds.core.GeneratorBasedBuilder,), body)
    builder(data_dir=data_dir, file_format="array_record").download_and_prepare()


def rows_of(split):
    """Returns the rows as a set of (pixels, label), to compare splits in any order."""
    return {(image.tobytes(), int(label)) for image, label in (split[i] for i in range(len(split)))}


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def prepare_texts(data_dir, name, *, splits, names="sentence"):
    """Prepares a set of texts.

    Args:
      splits: rows of text and label, "negative" or "positive", by name; a name that ends in "?"
        makes a split without labels.
      names: names of the text features, separated by spaces; all have the same text.
    """

    def rows(given, withheld):
        for i, (text, label) in enumerate(given):
            yield i, dict.fromkeys(names.split(), text) | {"label": -1 if withheld else label}

    features = {each: tfds.features.Text() for each in names.split()}
    features["label"] = tfds.features.ClassLabel(names=["negative", "positive"])
    _prepare(data_dir, name, features, splits, rows)


def prepare_documents(data_dir, name, *, splits):
    """Prepares a set of texts without labels; `splits` has the texts by name of the split."""

    def rows(given, withheld):
        for i, text in enumerate(given):
            yield i, {"text": text}

    _prepare(data_dir, name, {"text": tfds.features.Text()}, splits, rows)
