"""`python -m train.image predict`."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import lcjax
from train import image
from train.generation.classify import classify
from train.tasks.image.objective import ImageClassifier


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a run, and two pictures: of the training images' size, and of another."""
    root = tmp_path_factory.mktemp("classify")
    model = {"kind": "mlp", "hidden": [3], "activation": "relu"}
    data = {"dataset": "mine", "num_classes": 2, "mean": [0.5], "std": [0.2]}
    data |= {"image_shape": [4, 4, 1], "class_names": ["cat", "dog"]}
    classifier = ImageClassifier.from_metadata({"model": model, "data": data})
    variables = classifier.init(jax.random.key(0), (4, 4, 1))
    lcjax.save(
        root / "compact", variables, metadata={"kind": "image", "model": model, "data": data}
    )
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    Image.fromarray(pixels).save(root / "a.png")
    Image.new("RGB", (9, 7), (250, 0, 0)).save(root / "b.jpg")
    logits = classifier.logits(variables, jnp.asarray(pixels[None, ..., None]))
    return root, jax.nn.softmax(logits)[0]


def test_predict_gives_the_models_own_label_and_probability(checkpoint, monkeypatch, capsys):
    root, probabilities = checkpoint
    pictures = [str(root / "a.png"), str(root / "b.jpg")]
    monkeypatch.setattr(sys, "argv", ["image", "predict", str(root / "compact"), *pictures])
    image.main()
    first, second = capsys.readouterr().out.splitlines()
    label = ("cat", "dog")[int(probabilities.argmax())]
    assert first == f"{pictures[0]}  {label}  {float(probabilities.max()):.4f}"
    assert second.startswith(pictures[1])


def test_predict_refuses_what_is_no_picture(checkpoint):
    root, _ = checkpoint
    (root / "c.png").write_text("no picture")
    with pytest.raises(ValueError, match="c.png: cannot be read as a picture"):
        classify(root / "compact", (root / "c.png",))
    with pytest.raises(ValueError, match="got no picture"):
        classify(root / "compact", ())
