"""The options of a collapse of a model folder."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from lcjax.validation.arguments import is_count


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How a model folder is collapsed.

    Attributes:
      forms: "units", the same number of hidden units in every layer, a folder that every program
        loads; "mixed", a form for each layer, which needs transformers' `trust_remote_code`.
      multiple_of: of which numbers of hidden units are multiples.
      longest: tokens of a text after which it is cut.
      buffer: bytes that moments, solvers and the values of a batch may take, next to the weights of
        a layer.

    Raises:
      ValueError: something else.

    Example:
      >>> import lcjax
      >>> lcjax.folder.FolderOptions(forms="mixed", multiple_of=64).mixed
      True
    """

    forms: Literal["units", "mixed"] = "units"
    multiple_of: int = 128
    longest: int = 512
    buffer: int = 2**31

    def __post_init__(self):
        if self.forms not in ("units", "mixed"):
            raise ValueError(f"forms: got {self.forms!r}, expected 'units' or 'mixed'.")
        for name in ("multiple_of", "longest", "buffer"):
            if not is_count(value := getattr(self, name)):
                raise ValueError(f"{name}: got {value!r}, expected a number of at least 1.")

    @property
    def mixed(self) -> bool:
        """Whether layers may differ in form."""
        return self.forms == "mixed"

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON."""
        return asdict(self)
