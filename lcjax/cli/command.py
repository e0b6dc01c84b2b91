"""The arguments of the command `lcjax`, and how it ends."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flax.errors import FlaxError

from lcjax._interrupt import STATUS, raise_as_usual
from lcjax._messages import printable, printable_lines
from lcjax.cli.collapse import collapse_command
from lcjax.cli.collapse_model import add_collapse_model
from lcjax.cli.export import export_command
from lcjax.cli.inspection import inspect_command

_INSPECTED = "checkpoint directory, or model folder of lcjax collapse-model"
_CHECKPOINT = "checkpoint directory, written by lcjax.save or by orbax"
_NEW_DIRECTORY = "directory to create"
_MODELS = """
MODEL is one of
  NAME:PRESET        a published size of a model in lcjax.models, optionally with fields:
                     vit:B/16   mixer:B/16,num_classes=10   vgg:16   bert:base   gpt2:124M
                     decoder:SmolLM2-135M
                     (num_classes is by default the width of the checkpoint's head)
  NAME:FIELD=VALUE   any size: mlp:features=(256,256,10),activation=relu
                     (mlp is lcjax.CollapsibleMLP, or lcjax.models.MLP if params are under mlp)
  MODULE:ATTRIBUTE   a Flax module, or a function apply(variables, *inputs), in a Python module
                     that can be imported from here: nets.small:model. This runs its code.
Checkpoints of training runs, runs/NAME/compact, describe their models and inputs: leave --model and
--input-shape out.
"""
_TRACED = """
Checkpoints of other models than lcjax's own, such as ocp.StandardCheckpointer().save(path,
nnx.state(model)), need one of

  --model MODULE:FUNCTION  in a Python module that can be imported from here, whose code runs:
                           def deep():  # called without values, under jax.eval_shape
                               model = Net(rngs=nnx.Rngs(0))
                               model.eval()
                               return model, jnp.ones((1, 128), jnp.int32)
                           The model is an NNX module, a linen one, or a function apply(params,
                           *inputs). Inputs may be left out with --input-shape. MODULE:ATTRIBUTE
                           may be the model or apply itself, too.
  --pair UP,DOWN           globs of the layers before and after an activation, without a model;
  --pair GATE,UP,DOWN      those of gated units. The text of each * is the same in all of them:
                           --pair 'layers/*/mlp/up,layers/*/mlp/down'. The activation is taken for
                           the identity, a gate for 1, and nothing else may be between.

The new checkpoint has {"model", "slopes", "fused"}. An NNX module of it is
lcjax.nnx.merge(model, lcjax.restore(TARGET), *inputs), the output of any function
lcjax.collapsible(apply)(lcjax.restore(TARGET), *inputs).
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; on failure it prints one line to stderr and exits with status 1.

    Args:
      arguments: the command line without the program's name; None uses `sys.argv`.

    Raises:
      SystemExit: the command failed, was interrupted or got wrong arguments.

    Example:
      >>> main(["collapse", "no-such-checkpoint", "compact"])  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      SystemExit: error: ...no-such-checkpoint: no such checkpoint; this path does not exist.
    """
    raise_as_usual()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs errors that it also raises
    options = _parser().parse_args(arguments)
    try:
        print(printable_lines(options.run(options)))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr, flush=True)
        sys.exit(STATUS)
    except (OSError, ValueError, TypeError, ImportError, FlaxError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}."
        sys.exit(f"error: {printable(' '.join(text.split()))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lcjax", description="Inspects, collapses and exports checkpoints."
    )
    parser.add_argument("--version", action="version", version=f"lcjax {version('lcjax')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_inspect(commands)
    _add_collapse(commands)
    add_collapse_model(commands)
    _add_export(commands)
    return parser


def _add_inspect(commands: argparse._SubParsersAction) -> None:
    summary = "show the sites, sizes and metadata of a checkpoint; reads slopes only"
    inspect = commands.add_parser("inspect", help=summary, **_described(summary, _TRACED))
    inspect.set_defaults(run=inspect_command)
    inspect.add_argument("checkpoint", metavar="CHECKPOINT", help=_INSPECTED)
    inspect.add_argument("--json", action="store_true", help="print JSON instead of text")
    _add_traced(inspect)


def _add_collapse(commands: argparse._SubParsersAction) -> None:
    summary = "collapse a checkpoint without loading all of it into memory"
    collapse = commands.add_parser("collapse", help=summary, **_described(summary, _TRACED))
    collapse.set_defaults(run=collapse_command)
    collapse.add_argument("source", metavar="SOURCE", help=_CHECKPOINT)
    collapse.add_argument("target", metavar="TARGET", help=_NEW_DIRECTORY)
    collapse.add_argument(
        "--calibration",
        type=Path,
        metavar="STATS",
        help="directory of lcjax.save_calibration, for fits to data of each site alone",
    )
    collapse.add_argument(
        "--max-gap", type=float, default=0.05, help="largest gap |1 - slope| (default: %(default)s)"
    )
    selection = collapse.add_mutually_exclusive_group()
    selection.add_argument(
        "--plan",
        type=Path,
        help="file of a plan: of Plan.to_json, or with a fit for every site; fits to data are those"
        " of --calibration, each on the deep model's inputs: the command does not fit one site"
        " after another as lcjax.collapse_sequential(..., fit=plan.fits) does, which is better",
    )
    selection.add_argument("--sites", nargs="+", metavar="GLOB", help="paths or globs of sites")
    _add_traced(collapse)


def _add_traced(command: argparse.ArgumentParser) -> None:
    """Adds the options for checkpoints of params of any function."""
    either = command.add_mutually_exclusive_group()
    either.add_argument("--model", metavar="MODULE:FUNCTION", help="see below")
    either.add_argument(
        "--pair",
        action="append",
        metavar="[GATE,]UP,DOWN",
        help="see below; repeat for more rules",
    )
    _add_input_shape(command, "that which the function returns")
    command.add_argument(
        "--params",
        metavar="PATH",
        help="path of the model's params or state in the checkpoint, such as params; what is"
        " outside of it is left out (default: all)",
    )


def _add_export(commands: argparse._SubParsersAction) -> None:
    summary = "export a model as a StableHLO program for JAX alone and any batch size"
    export = commands.add_parser("export", help=summary, **_described(summary, _MODELS))
    export.set_defaults(run=export_command)
    export.add_argument("checkpoint", metavar="CHECKPOINT", help=_CHECKPOINT)
    export.add_argument("target", metavar="TARGET", help=_NEW_DIRECTORY)
    export.add_argument("--model", help="see below (default: the checkpoint's metadata)")
    default = "the checkpoint's metadata; float32, or int32 for bert, decoder and gpt2"
    _add_input_shape(export, default)
    export.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="comma-separated list of cpu, cuda, rocm and tpu (default: %(default)s)",
    )
    export.add_argument(
        "--weights",
        choices=("embedded", "external"),
        default="embedded",
        help="embedded in the program, or external in a checkpoint (default: %(default)s)",
    )


def _add_input_shape(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--input-shape",
        action="append",
        type=_input_shape,
        metavar="SHAPE[:DTYPE]",
        help="shape of an input without the batch axis, such as 224,224,3 or 128:int32; repeat for"
        f" every input (default: {default})",
    )


def _described(summary: str, epilog: str) -> dict[str, Any]:
    """Returns the options of a parser with a sentence above its arguments, and text below them."""
    return {
        "description": summary[0].upper() + summary[1:] + ".",
        "epilog": epilog,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _input_shape(text: str) -> tuple[tuple[int, ...], str]:
    """Returns the axes and the dtype, or "", of `SHAPE[:DTYPE]`."""
    shape, _, dtype = text.partition(":")
    try:
        axes = tuple(int(axis) for axis in shape.split(",")) if shape else ()
        np.dtype(dtype or "float32")
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected axes and optionally a dtype, such as 224,224,3 or 128:int32"
        ) from error
    return axes, dtype
