"""The networks on which forms are compared: how each is trained, and the sizes compared."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks import deep_runs
from benchmarks.baselines.registry import REGISTRY
from benchmarks.deep_runs import PLAIN
from benchmarks.harness.methods import Method
from benchmarks.harness.training_runs import Arguments, RunDirectory
from benchmarks.networks import CIFAR10_MIXER, CIFAR10_VIT, FASHION_MIXER

_IMAGE_HEALING = ("--weight-decay", "0", "--warmup", "0.1", "--deep-teacher")
_IMAGE_RATES = ("3e-4", "1e-3", "3e-3")
# Weights by influence are compared on MiniLM alone, whose classifier reads one token.
_ALL = tuple(name for name in REGISTRY if name != "plan-influence")
# Where all methods take hours: lcjax's, and two baselines that are strong on other networks.
_FEW = ("linear", "units", "plan", "wanda", "whitened")


@dataclasses.dataclass(frozen=True)
class FormNetwork:
    """A network, its training, and the sizes at which forms are compared.

    Attributes:
      name: of the network.
      command: module and preset with the flags of the model.
      deep: training of the finished deep network, from which all methods start.
      counts: numbers of collapsed sites; the size of each is that of the other methods too.
      rates: the grid of learning rates of healing, the same for every method.
      fitted: flags of data and healing, which every method has in common.
      order: which sites collapse, an --order of `train`.
      heal_epochs: length of healing.
      methods: that are compared unless others are asked for.
      without: methods that the network does not have, and why.
      counts_of: the counts at which a method is compared, where it is not at all of them.
    """

    name: str
    command: Arguments
    deep: Method
    counts: tuple[int, ...]
    rates: tuple[str, ...] = _IMAGE_RATES
    fitted: Arguments = _IMAGE_HEALING
    order: str = "sensitivity"
    heal_epochs: str = "1"
    methods: tuple[str, ...] = _ALL
    without: Mapping[str, str] = dataclasses.field(default_factory=dict)
    counts_of: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def why_not(self, method: str, count: int) -> str | None:
        """Returns why a method is not compared at a count; None where it is."""
        counts = self.counts_of.get(method, (count,))
        if method in self.without or count in counts:
            return self.without.get(method)
        return f"compared at {' and '.join(map(str, counts))} sites only"

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
            deep_runs.FASHION_MLP_DEEP,
            (1, 2),
            order="last",
            without=_NO_BLOCKS,
        ),
        FormNetwork(
            "fashion-mixer",
            ("train.image", *FASHION_MIXER),
            deep_runs.FASHION_MIXER_DEEP,
            (2, 4),
            fitted=(*_IMAGE_HEALING, "--epochs", "3"),
            heal_epochs="0.5",
        ),
        FormNetwork(
            "cifar10-vit",
            ("train.image", *CIFAR10_VIT),
            deep_runs.CIFAR10_VIT_DEEP,
            (2, 4),
            fitted=(*_IMAGE_HEALING, "--epochs", "3"),
            heal_epochs="0.5",
        ),
        FormNetwork(
            "cifar10-mixer",
            ("train.image", *CIFAR10_MIXER),
            deep_runs.CIFAR10_MIXER_DEEP,
            (2, 4),
            fitted=(*_IMAGE_HEALING, "--epochs", "4"),
            heal_epochs="0.5",
            methods=(*_FEW, "plan-time", "magnitude-refit"),
        ),
        FormNetwork(
            "sst2-minilm",
            ("train.sentiment", "sst2-minilm"),
            deep_runs.SENTIMENT_DEEP,
            (4, 6),
            rates=("3e-5", "1e-4", "3e-4"),
            fitted=("--train-examples", "20000", "--longest"),  # with the deep teacher by default
            order="last",  # the sites that sensitivity chose with every seed, without its trials
            heal_epochs="0.3",
            methods=("linear", "plan", "plan-influence", "wanda", "whitened", "magnitude-refit"),
            counts_of=dict.fromkeys(("linear", "plan-influence", "magnitude-refit"), (6,)),
        ),
        FormNetwork(
            "shakespeare-small",
            ("train.language", "shakespeare-small"),
            deep_runs.LANGUAGE_DEEP,
            (2, 4),
            rates=("1e-3", "3e-3", "1e-2"),
            fitted=(),
            methods=(*_FEW, "magnitude-refit", "width"),
        ),
        FormNetwork(
            "shakespeare-swiglu",
            ("train.language", "shakespeare-swiglu"),
            deep_runs.SWIGLU_DEEP,
            (2,),
            rates=("1e-3", "3e-3", "1e-2"),
            fitted=(),
            methods=_FEW,
        ),
    )
}


def _digits(preset: str, **fields: Any) -> FormNetwork:
    command, epochs = ("train.image", preset), ("--epochs", "2")
    deep = Method("deep", f"forms-{preset}-deep", (*command, *PLAIN, *epochs))
    fitted = (*_IMAGE_HEALING, *epochs)
    return FormNetwork(preset, command, deep, (2,), ("1e-3",), fitted, **fields)


# Of seconds, to prove that every method runs, on one of them.
QUICK_NETWORKS = {
    "digits-mlp": _digits("digits-mlp", order="last", without=_NO_BLOCKS),
    "digits-mixer": _digits("digits-mixer", methods=tuple(_NO_BLOCKS)),
}
