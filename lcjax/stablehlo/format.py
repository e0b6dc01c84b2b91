"""The directory of an exported model: its files and its format.

`program.jax` is the program that `jax.export` serialized, `export.json` its checksum and format,
and `weights` a checkpoint of `lcjax.save` where the weights are external.
"""

from typing import Literal

from lcjax._optional import import_optional

PROGRAM, WEIGHTS, ABOUT = "program.jax", "weights", "export.json"
FORMAT = 2
Weights = Literal["embedded", "external"]
# By format: the values of "weights" in export.json, and what each means.
WEIGHTS_IN: dict[int, dict[str, Weights]] = {
    1: {"inside": "embedded", "beside": "external"},
    2: {"embedded": "embedded", "external": "external"},
}


def require_flatbuffers() -> None:
    """Raises ImportError, with the command that installs it, without the package flatbuffers."""
    import_optional("flatbuffers", "jax.export needs flatbuffers", "lcjax[export]")
