"""Deep networks without slopes from which several benchmarks start: one run of each, shared."""

from benchmarks.harness.methods import Method
from benchmarks.harness.training_runs import Arguments
from benchmarks.networks import CIFAR10_MIXER, CIFAR10_VIT, FASHION_MIXER

PLAIN = ("--strength", "0", "--slope-learning-rate", "0")
PENALTY = ("--protocol", "penalty")  # not the default of every preset
PLAIN_PENALTY = (*PENALTY, *PLAIN)

FASHION_MLP_DEEP = Method("deep", "fashion-mlp-deep", ("train.image", "fashion-mlp", *PLAIN))
LANGUAGE_DEEP = Method(
    "deep", "language-deep", ("train.language", "shakespeare-small", *PLAIN_PENALTY)
)
SWIGLU_DEEP = Method(
    "deep", "language-swiglu-deep", ("train.language", "shakespeare-swiglu", *PLAIN_PENALTY)
)
SENTIMENT_DEEP = Method(
    "deep", "sentiment-deep", ("train.sentiment", "sst2-minilm", *PLAIN_PENALTY)
)


def _images(run: str, network: Arguments, epochs: int) -> Method:
    arguments = ("train.image", *network, "--epochs", str(epochs), *PLAIN)
    return Method("deep", run, arguments)


FASHION_MIXER_DEEP = _images("fashion-mixer-small-deep", FASHION_MIXER, 3)
CIFAR10_VIT_DEEP = _images("cifar10-vit-small-deep", CIFAR10_VIT, 3)
CIFAR10_MIXER_DEEP = _images("front-deep", CIFAR10_MIXER, 4)
