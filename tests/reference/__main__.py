"""Computes the golden values: `python -m tests.reference`, with the extra `reference` installed.

Writes golden.json beside this file: for every case the names and shapes of the tensors in a file
of its weights, and what the reference makes of the inputs.
"""

import json
from pathlib import Path

from tests.reference.cases import CASES, compared
from tests.reference.programs import PROGRAMS, outputs_of, shapes_of

golden = {}
for name, make in PROGRAMS.items():
    outputs = compared(CASES[name], outputs_of(name))
    golden[name] = {
        "tensors": shapes_of(make()),
        "outputs": [[round(float(x), 6) for x in row] for row in outputs],
    }
text = json.dumps(golden).replace('"outputs"', '\n  "outputs"').replace("}, ", "},\n")
(Path(__file__).parent / "golden.json").write_text(text + "\n", encoding="utf-8")
