"""The command `lcjax`: inspect, collapse and export checkpoints."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.errors import FlaxError

from lcjax._interrupt import STATUS, raise_as_usual
from lcjax._messages import printable, printable_lines
from lcjax.cli.inspection import inspect_checkpoint
from lcjax.io.checkpoint import read_metadata, restore
from lcjax.io.streaming import collapse_checkpoint
from lcjax.planning.results import Plan
from lcjax.stablehlo.loading import export
from lcjax.validation.json_files import read_bounded

_MODELS = """
MODEL is one of
  NAME:PRESET        a published size in lcjax.models, with fields after it if need be:
                     vit:B/16   mixer:B/16,num_classes=10   vgg:16   bert:base   gpt2:124M
                     (num_classes is read off the checkpoint's head where it is not given)
  NAME:FIELD=VALUE   any size: mlp:features=(256,256,10),activation=relu
                     (mlp is lcjax.CollapsibleMLP, or lcjax.models.MLP where params are under mlp)
  MODULE:ATTRIBUTE   a Flax module, or a function apply(variables, *inputs), in a Python module
                     that can be imported from here: nets.small:model. Its code runs.
A checkpoint that a training run saved, runs/NAME/compact, describes its model: leave MODEL out.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; ends with status 1 and one line on stderr where it cannot be done."""
    raise_as_usual()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax tells errors, and then raises
    options = _parser().parse_args(arguments)
    try:
        print(printable_lines(options.run(options)))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr, flush=True)
        sys.exit(STATUS)
    except (OSError, ValueError, TypeError, ImportError, FlaxError) as error:
        sys.exit(f"error: {printable(' '.join(str(error).split()))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lcjax", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    told = "show the sites of a checkpoint, its sizes and metadata; reads no kernels"
    inspect = commands.add_parser("inspect", help=told, description=told)
    inspect.set_defaults(run=lambda options: inspect_checkpoint(options.checkpoint))
    inspect.add_argument("checkpoint", help="a checkpoint directory written by lcjax.save or orbax")

    told = "write the collapsed checkpoint, with one site in memory at a time"
    collapse = commands.add_parser("collapse", help=told, description=told)
    collapse.set_defaults(run=_collapse)
    collapse.add_argument(
        "source", metavar="IN", help="a checkpoint directory written by lcjax.save or orbax"
    )
    collapse.add_argument("target", metavar="OUT", help="the directory to make")
    collapse.add_argument(
        "--threshold", type=float, default=0.05, help="largest gap |1 - slope| (default 0.05)"
    )
    which = collapse.add_mutually_exclusive_group()
    which.add_argument("--plan", type=Path, help="a file that Plan.to_json wrote, for an exact fit")
    which.add_argument("--sites", nargs="+", metavar="GLOB", help="paths or globs of the sites")

    told = "write a model as a StableHLO program that JAX alone runs, for any batch size"
    exporting = commands.add_parser(
        "export",
        help=told,
        description=told,
        epilog=_MODELS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    exporting.set_defaults(run=_export)
    exporting.add_argument(
        "checkpoint", help="a checkpoint directory written by lcjax.save or orbax"
    )
    exporting.add_argument("target", metavar="OUT", help="the directory to make")
    exporting.add_argument("--model", help="see below; by default as the checkpoint describes it")
    exporting.add_argument(
        "--input-shape",
        action="append",
        type=_input,
        metavar="SHAPE[:DTYPE]",
        help="of one input without its batch axis, such as 224,224,3 or 128:int32; once for every"
        " input (float32, but int32 for bert and gpt2); by default as the checkpoint describes it",
    )
    exporting.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="some of cpu, cuda, rocm and tpu (default cpu,cuda,tpu)",
    )
    exporting.add_argument(
        "--weights", choices=("inside", "beside"), default="inside", help="(default inside)"
    )
    return parser


def _collapse(options: argparse.Namespace) -> str:
    sites = options.sites
    if options.plan is not None:
        sites = _read_plan(options.plan)
    report = collapse_checkpoint(options.source, options.target, sites, threshold=options.threshold)
    return f"{report}\nwritten to {options.target}"


def _read_plan(path: Path) -> Plan:
    try:
        plan = Plan.from_json(read_bounded(path).decode())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if plan.fit != "exact":
        raise ValueError(
            f"{path}: the plan is for a {plan.fit} fit, which needs data: carry it out with "
            "lcjax.collapse_sequential in Python, or plan with fit='exact'."
        )
    return plan


def _export(options: argparse.Namespace) -> str:
    from lcjax.cli.model_spec import check_all_used, model_named, takes_tokens
    from lcjax.models.from_metadata import model_described

    variables = restore(options.checkpoint)
    shapes = options.input_shape
    if options.model is None:
        model, described = model_described(read_metadata(options.checkpoint))
        shapes = shapes or described
    else:
        model = model_named(options.model, variables)
    if not shapes:
        raise ValueError("the shape of the inputs is not known: give --input-shape.")
    default = "int32" if takes_tokens(model) else "float32"
    inputs = [
        jax.ShapeDtypeStruct((1, *shape), np.dtype(dtype or default)) for shape, dtype in shapes
    ]
    apply_fn: Any = model
    if isinstance(model, nn.Module):
        variables = variables if "params" in variables else {"params": variables}
        check_all_used(model, variables, inputs)
        apply_fn = model.apply
    platforms = options.platforms.split(",")
    export(
        apply_fn, variables, inputs, options.target, platforms=platforms, weights=options.weights
    )
    return f"written to {options.target}, for {', '.join(platforms)}"


def _input(text: str) -> tuple[tuple[int, ...], str]:
    shape, _, dtype = text.partition(":")
    try:
        axes = tuple(int(axis) for axis in shape.split(",")) if shape else ()
        np.dtype(dtype or "float32")
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}; wanted axes with commas, such as 224,224,3, and perhaps a dtype, 128:int32"
        ) from error
    return axes, dtype
