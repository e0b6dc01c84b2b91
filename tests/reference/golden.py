"""The golden values, as `python -m tests.reference` wrote them."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "golden.json"


def golden() -> dict[str, Any]:
    """Returns tensors and outputs of every case, and what stands for MiniLM."""
    return json.loads(FILE.read_text("utf-8"))
