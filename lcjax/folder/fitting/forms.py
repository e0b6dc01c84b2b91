"""Forms of an MLP in a compact folder: which parts it has, and how config.json says so.

`lcjax_forms` in config.json is `{"version": 1, "layers": [...]}` with an object for each layer,
`{"form": "units", "width": 256, "linear": false}`; see `Form`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lcjax._messages import printable
from lcjax.calibration.fits import Fit, LeastSquares, Remove, Units
from lcjax.errors import WeightsError

KEY = "lcjax_forms"
VERSION = 1
_KINDS = ("deep", "units", "linear", "constant")


class Form(NamedTuple):
    """What runs in the place of an MLP.

    Attributes:
      kind: "deep", unchanged; "units", some of the hidden units, with a bias; "linear", one affine
        map; "constant", a bias.
      width: number of hidden units; 0 without any.
      linear: whether a linear map of the input is added to the output of the units.
    """

    kind: str
    width: int
    linear: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the form as an element of `layers` in config.json."""
        return {"form": self.kind, "width": self.width, "linear": self.linear}

    def parameters(self, width: int, readers: int, biases: int, bias: bool) -> int:
        """Returns how many weights the MLP has.

        Args:
          width: of a hidden state.
          readers: number of layers before the activation: 2 where one is a gate.
          biases: how many of them have a bias.
          bias: whether the output has one.
        """
        inner = self.width * (readers * width + biases + width)
        match self.kind:
            case "linear":
                return width * width + width
            case "constant":
                return width
        return inner + (width * width if self.linear else 0) + (width if bias else 0)


def form_of(fit: Fit | None, hidden: int) -> Form:
    """Returns the form that a fit makes of an MLP.

    Args:
      fit: None keeps the MLP.
      hidden: its hidden width.

    Raises:
      ValueError: a fit that has no form in a folder, or more units than the MLP has.
    """
    fit = None if fit is None else fit.reduced()
    match fit:
        case None:
            return Form("deep", hidden)
        case Units(count=count, linear=linear) if count <= hidden:
            return (
                Form("units", count, linear) if count < hidden or linear else Form("deep", hidden)
            )
        case Units(count=count):
            raise ValueError(f"plan: got {count:,} units to keep, expected at most {hidden:,}.")
        case LeastSquares(rank=None):
            return Form("linear", 0)
        case Remove():
            return Form("constant", 0)
    raise ValueError(
        f"plan: got {fit}, expected Units(count), LeastSquares() + Units(count), LeastSquares() or "
        "Remove(): a folder has no form of others."
    )


def forms_to_json(forms: Sequence[Form]) -> dict[str, Any]:
    """Returns the value of `lcjax_forms` in config.json."""
    return {"version": VERSION, "layers": [form.to_json() for form in forms]}


def forms_from_config(config: Mapping[str, Any], depth: int, hidden: int) -> list[Form]:
    """Returns the form of every layer that a config describes; all are deep without the key.

    Raises:
      WeightsError: forms of another version, or that are not such a description.
    """
    found = config.get(KEY)
    if found is None:
        return [Form("deep", hidden)] * depth
    layers = found.get("layers") if isinstance(found, dict) else None
    if not isinstance(layers, list) or found.get("version") != VERSION or len(layers) != depth:
        raise WeightsError(
            f"config.json, {KEY}: expected version {VERSION} and {depth} layers; the folder is "
            "damaged, or of another version of lcjax. Make it again."
        )
    return [_form(layer, hidden) for layer in layers]


def _form(layer: Any, hidden: int) -> Form:
    if isinstance(layer, dict) and layer.get("form") in _KINDS:
        width, linear = layer.get("width"), layer.get("linear")
        if type(width) is int and 0 <= width <= hidden and type(linear) is bool:
            return Form(layer["form"], width, linear)
    raise WeightsError(
        f"config.json, {KEY}: got {printable(repr(layer), longest=80)}, expected a form, one of "
        f"{', '.join(_KINDS)}, with width and linear. Make the folder again."
    )
