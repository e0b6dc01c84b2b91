"""Times of the deep models in PyTorch, by `torch.compile`."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from benchmarks.accelerator.models import Model
from benchmarks.accelerator.torch_models import build


def torch_call(model: Model, part: str) -> Callable[[], Any]:
    """Returns a training step or a forward pass of a model, which waits for its result.

    A step has float32 weights under bfloat16 autocast, and AdamW in one kernel; a forward pass has
    bfloat16 weights. Both are compiled at the first call.

    Args:
      model: of the benchmark.
      part: "training step" or "forward pass".
    """
    network = model.network
    device = "cuda" if torch.cuda.is_available() else "cpu"
    example, labels = network.example
    module = build(network.module, example.shape).to(device)
    shape = (network.batch_size, *example.shape)
    if example.dtype.name == "uint8":
        inputs = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    else:
        inputs = torch.randint(0, 2, shape, device=device)
    targets = torch.randint(0, 2, (network.batch_size, *labels.shape), device=device)

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            logits = module(inputs)
        return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())

    compiled = torch.compile(loss if part == "training step" else module, dynamic=False)
    if part != "training step":
        module.to(torch.bfloat16)
    adamw = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def step() -> None:
        adamw.zero_grad()
        compiled(inputs, targets).backward()
        adamw.step()
        wait()

    def forward() -> None:
        with torch.inference_mode():
            compiled(inputs)
        wait()

    return step if part == "training step" else forward


def measure_torch(
    model: Model, part: str, rounds: int, deep: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns the row of a part of a model in PyTorch.

    Args:
      model: of the benchmark.
      part: "training step" or "forward pass".
      rounds: timed calls.
      deep: the row of lcjax's deep form, if it was measured.
    """
    call, network = torch_call(model, part), model.network
    start = time.perf_counter()
    for _ in range(3):
        call()
    compilation, seconds = time.perf_counter() - start, []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "model": model.name,
        "batch": model.batch,
        "part": part,
        "form": "deep, torch.compile",
        "seconds": median,
        "per_second": network.batch_size * network.units / median,
        "unit": network.unit,
        "share_of_peak": None,
        "speed_up": None if deep is None else deep["seconds"] / median,
        "promised": 1.0,
        "compilation": {"seconds": compilation},
        "torch": torch.__version__,
    }
