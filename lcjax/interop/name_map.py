"""Name maps: from paths in params to the tensor names of a library."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from lcjax.interop.layouts import FLAT, SAME, Layout, linear
from lcjax.interop.safetensors_file import Stored

# Prefixes of every name from DataParallel, torch.compile and Lightning.
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.)+")


class Rule(NamedTuple):
    """The tensor of one leaf, or of one leaf in every block.

    Attributes:
      path: path of the leaf without its collection; `{i}` is a number.
      name: name of the tensor; `{i}` is the same number.
      layout: how the tensor stores the leaf.
    """

    path: str
    name: str
    layout: Layout

    def name_for(self, path: str) -> str | None:
        """Returns the tensor's name for a leaf's path; None if the rule is for other leaves."""
        found = re.fullmatch(re.escape(self.path).replace(r"\{i\}", r"(\d+)"), path)
        return self.name.format(i=(*found.groups(), "")[0]) if found else None


def norm_rules(path: str, name: str) -> list[Rule]:
    """Returns the rules for scale and bias of a norm."""
    return [
        Rule(f"{path}/scale", f"{name}.weight", SAME),
        Rule(f"{path}/bias", f"{name}.bias", SAME),
    ]


def dense_rules(path: str, name: str, layout: Layout | None = None) -> list[Rule]:
    """Returns the rules for kernel and bias of a Dense; the layout is `linear()` by default."""
    return [
        Rule(f"{path}/kernel", f"{name}.weight", layout or linear()),
        Rule(f"{path}/bias", f"{name}.bias", FLAT),
    ]


@dataclass(frozen=True)
class NameMap:
    """The tensor names of one architecture in one library.

    Attributes:
      library: name of the library in messages.
      model: class of the models.
      marker: name of a tensor that identifies files of this architecture and library.
      rules: function from a model to the rules for all its leaves except slopes.
      inputs: function from a model and the stored tensors to abstract inputs, for which the model
        has the shapes of the file.
      fields: function from a config.json to attributes of the model; None for another model's.
      prefix: an optional prefix of names.
      renamed: old spelling to new, for older files.
      buffers: patterns of tensors that are not weights.
      tied: function from a model to the names of copies and of their originals, for tensors that
        must be equal.
      types: the values of model_type in config.json, for messages.
    """

    library: str
    model: type[nn.Module]
    marker: str
    rules: Callable[[Any], Sequence[Rule]]
    inputs: Callable[[Any, Mapping[str, Stored]], jax.ShapeDtypeStruct]
    fields: Callable[[Mapping[str, Any]], dict[str, Any] | None]
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    tied: Callable[[Any], Mapping[str, str]] = lambda model: {}
    types: tuple[str, ...] = ()

    def plain(self, name: str) -> str:
        """Returns a tensor's name without prefixes and in the current spelling, as in the rules."""
        for old, new in self.renamed.items():
            name = name.replace(old, new)
        wrapped = _WRAPPERS.match(name)
        return name[wrapped.end() if wrapped else 0 :].removeprefix(self.prefix)

    def is_buffer(self, name: str) -> bool:
        """Returns whether the tensor of a plain name is not a weight."""
        return any(re.fullmatch(pattern, name) for pattern in self.buffers)
