"""How a library names the tensors of an architecture, as a table from paths to names."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from lcjax.interop.layouts import FLAT, SAME, Layout, linear
from lcjax.interop.safetensors_file import Stored

# What other programs put before every name: DataParallel, torch.compile, Lightning.
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.)+")


class Rule(NamedTuple):
    """Where the leaves of one kind stand.

    Attributes:
      path: of the leaf below its collection; `{i}` stands for a number.
      name: of the tensor; `{i}` for the same number.
      layout: of the leaf in the tensor.
    """

    path: str
    name: str
    layout: Layout

    def name_for(self, path: str) -> str | None:
        """Returns the name of the tensor that holds the leaf at a path; None for other leaves."""
        found = re.fullmatch(re.escape(self.path).replace(r"\{i\}", r"(\d+)"), path)
        return self.name.format(i=(*found.groups(), "")[0]) if found else None


def norm_rules(path: str, name: str) -> list[Rule]:
    """Returns the rules of a norm's scale and bias."""
    return [
        Rule(f"{path}/scale", f"{name}.weight", SAME),
        Rule(f"{path}/bias", f"{name}.bias", SAME),
    ]


def dense_rules(path: str, name: str, layout: Layout | None = None) -> list[Rule]:
    """Returns the rules of a Dense's kernel, in `torch.nn.Linear`'s layout or another, and bias."""
    return [
        Rule(f"{path}/kernel", f"{name}.weight", layout or linear()),
        Rule(f"{path}/bias", f"{name}.bias", FLAT),
    ]


@dataclass(frozen=True)
class Names:
    """How one library names the tensors of one architecture.

    Attributes:
      library: what messages call it.
      model: class of the models.
      marker: name of a tensor that every file of these has and no other.
      rules: of a model, for all its leaves but slopes.
      inputs: abstract inputs for which the model has the shapes of the file's tensors.
      fields: attributes of the model that a config asks for; None where it is of another one.
      prefix: what names may begin with, which is left out.
      renamed: spelling of older files, and what it is now.
      buffers: patterns of tensors that hold no weights.
      tied: tensors that must equal another: the copy's name, and the original's.
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
    tied: Mapping[str, str] = field(default_factory=dict)

    def plain(self, name: str) -> str:
        """Returns a name as the rules write it."""
        for old, new in self.renamed.items():
            name = name.replace(old, new)
        wrapped = _WRAPPERS.match(name)
        return name[wrapped.end() if wrapped else 0 :].removeprefix(self.prefix)

    def is_buffer(self, name: str) -> bool:
        """Tells whether a tensor, by its plain name, holds no weights."""
        return any(re.fullmatch(pattern, name) for pattern in self.buffers)

    def described(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the attributes of the model that a config asks for; None for another model's.

        Raises:
          WeightsError: when the config lacks a field, or asks for what the model has not.
        """
        return self.fields(config)
