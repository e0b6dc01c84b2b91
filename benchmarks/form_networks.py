"""The networks on which forms are compared: how each is trained, and the sizes compared."""

import dataclasses
from collections.abc import Mapping

from benchmarks.harness.methods import Method
from benchmarks.harness.training_runs import Arguments, RunDirectory
from benchmarks.networks import CIFAR10_MIXER, CIFAR10_VIT, FASHION_MIXER

_PLAIN = ("--strength", "0", "--slope-learning-rate", "0")
_IMAGE_HEALING = ("--weight-decay", "0", "--warmup", "0.1", "--deep-teacher")
_IMAGE_RATES = ("3e-4", "1e-3", "3e-3")


@dataclasses.dataclass(frozen=True)
class FormNetwork:
    """A network, its training, and the sizes at which forms are compared.

    Attributes:
      name: of the network.
      command: module and preset with the flags of the model.
      counts: numbers of collapsed sites; the size of each is that of the other methods too.
      rates: the grid of learning rates of healing, the same for every method.
      trained: flags of the deep network's training.
      fitted: flags of data and healing, which every method has in common.
      order: which sites collapse, an --order of `train`.
      heal_epochs: length of healing.
      without: methods that the network does not have, and why.
    """

    name: str
    command: Arguments
    counts: tuple[int, ...]
    rates: tuple[str, ...] = _IMAGE_RATES
    trained: Arguments = _PLAIN
    fitted: Arguments = _IMAGE_HEALING
    order: str = "sensitivity"
    heal_epochs: str = "1"
    without: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def deep(self) -> Method:
        """The finished deep network, from which all methods start."""
        return Method("deep", f"forms-{self.name}-deep", (*self.command, *self.trained))

    def source(self, count: int) -> Method:
        """Returns the run that sets a size: sites collapsed by least squares, no training."""
        flags = ("--protocol", "fit-heal", "--from", RunDirectory(self.deep.name))
        chosen = ("--fit", "least_squares", "--count", str(count), "--order", self.order)
        arguments = (*self.command, *flags, *chosen, "--heal-epochs", "0", *self.fitted)
        title = f"lcjax: {count} sites, least squares"
        return Method(title, f"forms-{self.name}-{count}", arguments)


_NO_BLOCKS = {
    "blocks": "the network has no blocks",
    "mlps-removed": "the MLP has no residual connection",
}
NETWORKS = {
    network.name: network
    for network in (
        FormNetwork(
            "fashion-mlp",
            ("train.image", "fashion-mlp"),
            (1, 2),
            order="last",
            without=_NO_BLOCKS,
        ),
        FormNetwork(
            "fashion-mixer",
            ("train.image", *FASHION_MIXER),
            (2, 4),
            trained=(*_PLAIN, "--epochs", "3"),
            fitted=(*_IMAGE_HEALING, "--epochs", "3"),
            heal_epochs="0.5",
        ),
        FormNetwork(
            "cifar10-vit",
            ("train.image", *CIFAR10_VIT),
            (2, 4),
            trained=(*_PLAIN, "--epochs", "3"),
            fitted=(*_IMAGE_HEALING, "--epochs", "3"),
            heal_epochs="0.5",
        ),
        FormNetwork(
            "cifar10-mixer",
            ("train.image", *CIFAR10_MIXER),
            (2, 4),
            trained=(*_PLAIN, "--epochs", "4"),
            fitted=(*_IMAGE_HEALING, "--epochs", "4"),
            heal_epochs="0.5",
        ),
        FormNetwork(
            "sst2-minilm",
            ("train.sentiment", "sst2-minilm"),
            (4, 6),
            rates=("3e-5", "1e-4", "3e-4"),
            trained=("--protocol", "penalty", *_PLAIN),
            fitted=("--train-examples", "20000", "--longest"),  # with the deep teacher by default
            heal_epochs="0.3",
        ),
        FormNetwork(
            "shakespeare-small",
            ("train.language", "shakespeare-small"),
            (2, 4),
            rates=("1e-3", "3e-3", "1e-2"),
            trained=("--protocol", "penalty", *_PLAIN),
            fitted=(),
        ),
    )
}
# Of seconds, to prove that every method runs.
QUICK_NETWORKS = {
    network.name: network
    for network in (
        FormNetwork("digits-mlp", ("train.image", "digits-mlp"), (2,), ("1e-3",), order="last",
                    trained=(*_PLAIN, "--epochs", "5"), without=_NO_BLOCKS),
        FormNetwork("digits-mixer", ("train.image", "digits-mixer"), (2,), ("1e-3",),
                    trained=(*_PLAIN, "--epochs", "5"), fitted=(*_IMAGE_HEALING, "--epochs", "5")),
    )
}  # fmt: skip
