"""`lcjax collapse-model`: a model folder in, a smaller model folder out."""

import argparse
import re
from pathlib import Path
from typing import Any

from lcjax.folder import FolderOptions, collapse_model, describe_folder
from lcjax.folder.data.texts import read_texts
from lcjax.planning.budgets import Params

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SUMMARY = "make a smaller model folder that transformers and servers load"
_DETAILS = """
SOURCE is a folder of Hugging Face transformers: config.json, tokenizer.json and safetensors files
of an encoder (bert, roberta, distilbert, modernbert) or a decoder (llama, mistral, qwen2, qwen3,
gemma2, gemma3_text). It is read layer by layer: the weights of one layer and a buffer are in
memory.

By default every layer keeps the same number of hidden units, and intermediate_size (hidden_dim of a
DistilBERT) is the only change of config.json. With --mixed each layer gets a form of its own: all
or some units, a linear map, both, or a constant; where that is not clearly better on held-out
texts, all keep the same number of units. Either way it needs transformers' trust_remote_code.

A run that was killed goes on after its last whole layer when it is repeated.
"""


def add_collapse_model(commands: Any) -> None:
    """Adds the command to the subparsers of `lcjax`."""
    command = commands.add_parser(
        "collapse-model",
        help=_SUMMARY,
        description=f"{_SUMMARY[0].upper()}{_SUMMARY[1:]}.",
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=collapse_model_command)
    command.add_argument("source", metavar="SOURCE", type=Path, help="model folder to read")
    command.add_argument("target", metavar="TARGET", type=Path, help="model folder to create")
    command.add_argument(
        "--calibrate",
        required=True,
        metavar="TEXTS",
        help="file with one text a line, *.jsonl with objects, or tfds:NAME:SPLIT",
    )
    chosen = command.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--budget",
        type=_budget,
        metavar="params=X",
        help="parameters to reach: a fraction of the model's, or a number",
    )
    chosen.add_argument("--plan", type=Path, help="file of a plan with a fit for every site")
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--forms", choices=("units", "mixed"), default="units", help="see below")
    forms.add_argument(
        "--mixed",
        dest="forms",
        action="store_const",
        const="mixed",
        help="--forms mixed",
    )
    for name, what in (
        ("multiple-of", "numbers of hidden units are multiples of it"),
        ("longest", "tokens of a text after which it is cut"),
    ):
        default = getattr(FolderOptions, name.replace("-", "_"))
        command.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)"
        )
    command.add_argument(
        "--buffer",
        type=_bytes,
        default=FolderOptions.buffer,
        metavar="BYTES",
        help="memory next to a layer's weights, such as 2G (default: 2G)",
    )
    command.add_argument("--max-texts", type=int, help="read this many texts (default: all)")
    command.add_argument(
        "--text-field", default="text", help="field of objects and sets (default: %(default)s)"
    )


def collapse_model_command(options: argparse.Namespace) -> str:
    """Returns the report of the folder that the options describe."""
    texts = read_texts(options.calibrate, field=options.text_field, most=options.max_texts)
    collapse_model(
        options.source,
        options.target,
        texts,
        budget=options.budget,
        plan=options.plan,
        options=FolderOptions(
            forms=options.forms,
            multiple_of=options.multiple_of,
            longest=options.longest,
            buffer=options.buffer,
        ),
    )
    return f"{describe_folder(options.target)}\nwritten to {options.target}"


def _budget(text: str) -> Params:
    """Returns the budget of `params=X`."""
    quantity, _, number = text.partition("=")
    try:
        if quantity != "params":
            raise ValueError("another quantity")
        value = float(number)
        return Params(value if value < 1 else int(value))
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected params=FRACTION, such as params=0.75, or params=NUMBER"
        ) from error


def _bytes(text: str) -> int:
    """Returns the bytes of a number with an optional unit: 512M, 2G."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected bytes, such as 512M or 2G")
    return int(float(found[1]) * _UNITS[found[2]])
