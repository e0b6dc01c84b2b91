"""The table of benchmarks: what each answers, where it is, and its result files."""

import ast
import json

from benchmarks.documents.results import DASH
from benchmarks.harness.publish import RESULTS, Table

# In the order of the page; names of modules below `benchmarks`.
MODULES = (
    "quality.summary",
    "quality.images",
    "quality.small_networks",
    "quality.cifar10_mixer",
    "quality.forms",
    "quality.sentiment",
    "quality.language",
    "quality.sweeps",
    "quality.time_to_accuracy",
    "quality.unit_slopes",
    "quality.cubic",
    "cost.inference",
    "cost.encoder_latency",
    "cost.penalty_overhead",
    "cost.step_profile",
    "cost.collapsible",
    "cost.collapse_time",
    "cost.plan_time",
    "cost.streaming_collapse",
    "cost.folder_collapse",
    "cost.scaling_in_size",
    "cost.scaling_in_devices",
    "cost.input_reader",
    "accelerator",
    "check",
    "reliability.kill_and_resume",
    "pytorch.published_method",
    "pytorch.model_folder",
)


def index() -> Table:
    """Returns one row a benchmark: its command, its question, its files with their dates."""
    rows = []
    for module in MODULES:
        name = module.rpartition(".")[2]
        source = RESULTS.parent.joinpath(*module.split("."))
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        # Read, not imported: some benchmarks need packages of their own.
        about = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        line = " ".join(about.partition("\n\n")[0].split())
        rows.append((f"`python -m benchmarks {name}`", line, _files(name)))
    return Table(("command", "what it measures", "results"), rows)


def _files(name: str) -> str:
    """Returns links to a benchmark's tables, each with the day it was measured."""
    found = []
    for path in sorted(RESULTS.glob("*.json")):
        if path.stem == name or path.stem.startswith(f"{name}-"):
            date = json.loads(path.read_text(encoding="utf-8"))["date"]
            shown = path.with_suffix(".md")
            shown = shown if shown.exists() else path
            found.append(f"[{path.stem}](results/{shown.name}) ({date})")
    return ", ".join(found) or DASH
