"""Collapses a model folder: layer by layer from disk, into a smaller folder of the same kind."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcjax.errors import WeightsError
from lcjax.folder.data.batches import Batch, make_batches, read_tokenizer
from lcjax.folder.families import Family, family_of
from lcjax.folder.fitting.forms import KEY, form_of
from lcjax.folder.fitting.plan import Fits, is_uniform, planned_fits, uniform_fits
from lcjax.folder.fitting.solve import bytes_of_fit
from lcjax.folder.options import FolderOptions
from lcjax.folder.run import FolderRun
from lcjax.folder.storage.model_folder import ModelFolder, read_model_folder
from lcjax.folder.storage.work_directory import check_target, open_work
from lcjax.planning.budgets import Budget

PathLike = str | Path


def collapse_model(
    source: PathLike,
    target: PathLike,
    texts: Sequence[str],
    *,
    budget: Budget | None = None,
    plan: PathLike | None = None,
    options: FolderOptions | None = None,
) -> dict[str, Any]:
    """Writes a smaller model folder, and returns its report.

    The source is a folder of Hugging Face transformers: config.json, tokenizer.json, safetensors
    files. It is read layer by layer: the weights of one layer are in memory, and the hidden states
    of one batch; those of the others are on disk, next to the target. Each layer is fitted to
    give, from the hidden states of the compact model, the output of the deep model's layer.

    The target is there whole or not at all. A call that was killed goes on, when it is repeated,
    after the last layer that was finished, and writes the same bytes.

    Args:
      source: the folder.
      target: folder to create.
      texts: to calibrate on; a tenth of them is held out, to judge the fits by.
      budget: of parameters, `lcjax.Params(0.75)`; either this or a plan.
      plan: file of a plan of fits for the sites `block_0/mlp/act`, `block_1/mlp/act`, ... (of BERT
        `block_0/mlp/act_0`, ...), as `FitPlan.save` and `PlanFile.save` write it.
      options: further ones.

    Returns:
      the contents of lcjax_report.json in the target.

    Raises:
      FileNotFoundError: no such source or plan.
      FileExistsError: the target exists, or is being written.
      WeightsError: a source that is not a whole model of a known architecture with float weights,
        or that has mixed forms already.
      ValueError: no texts, a budget that cannot be met, a plan for another model, a buffer that is
        too small; both or neither of budget and plan.
      CollapseError: values that are not finite, or too few tokens.
      ImportError: safetensors or tokenizers is missing: `pip install 'lcjax[text]'`.

    Example:
      >>> import lcjax
      >>> texts = ["The cat sat on the mat.", "It rained all day."]  # a few hundred, of your kind
      >>> report = lcjax.folder.collapse_model(  # doctest: +SKIP
      ...     "Llama-3.2-1B", "Llama-3.2-1B-small", texts, budget=lcjax.Params(0.75)
      ... )
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    options = options or FolderOptions()
    if (budget is None) == (plan is None):
        raise ValueError("budget, plan: got both or neither, expected one of them.")
    check_target(source, target)
    if not texts:
        raise ValueError("texts: got none, expected one at least.")
    folder = read_model_folder(source)
    if KEY in folder.config:
        raise WeightsError(
            f"{source}/config.json, {KEY}: got a folder of mixed forms, expected one whose MLPs "
            "are whole. Collapse the model that it was made from."
        )
    family = family_of(folder)
    tokenizer = read_tokenizer(source, family.vocabulary)
    batches = make_batches(
        tokenizer,
        texts,
        longest=min(options.longest, family.longest),
        tokens_per_batch=_tokens_per_batch(family, options.buffer),
    )
    fits = _fits(family, budget, plan, options)
    _check_buffer(family, fits, options.buffer)
    job = _job(folder, batches, budget, fits, options)
    with open_work(target, job, lambda error: isinstance(error, ValueError)) as work:
        run = FolderRun(family, batches, work, options, texts=len(texts))
        done = run.best(budget) if fits is None and budget else run.finish(fits or [])
        done.work.publish(target)
    return done.report


def _fits(
    family: Family, budget: Budget | None, plan: PathLike | None, options: FolderOptions
) -> Fits | None:
    """Returns the fit of each layer; None where they are still to be measured."""
    if plan is not None:
        fits = planned_fits(family, Path(plan))
        if not any(fits):
            raise ValueError(f"{plan}: keeps every layer of this model; expected a fit for one.")
        forms = [form_of(fit, family.hidden) for fit in fits]
        if not options.mixed and not is_uniform(forms):
            raise ValueError(
                f"{plan}: layers differ in form, which takes a folder of mixed forms. Give "
                "--mixed, or a plan of one Units(count) for all layers."
            )
        return fits
    if budget is None or budget.quantity != "parameters":
        raise ValueError(f"budget: got {budget}, expected lcjax.Params(...).")
    return None if options.mixed else uniform_fits(family, budget, options.multiple_of)


def _check_buffer(family: Family, fits: Fits | None, buffer: int) -> None:
    """Raises unless the moments of every fit fit in the buffer."""
    for fit in fits or ():
        if fit is not None and (need := bytes_of_fit(family, fit)) > buffer:
            raise ValueError(
                f"buffer: got {buffer:,} bytes, expected at least {need:,} for the moments "
                f"of {fit}. Give a larger one."
            )


def _tokens_per_batch(family: Family, buffer: int) -> int:
    """Returns how many tokens' values take a quarter of a buffer at most; a power of 2."""
    each = 4 * (8 * family.hidden + 16 * family.width)
    return 1 << (max(min(buffer // 4 // each, 4096), 16).bit_length() - 1)


def _job(
    folder: ModelFolder,
    batches: Sequence[Batch],
    budget: Budget | None,
    fits: Fits | None,
    options: FolderOptions,
) -> dict[str, Any]:
    """Returns all on which the result depends."""
    tokens = hashlib.sha256()
    for batch in batches:
        for array in batch:
            tokens.update(repr(array.shape).encode() + array.tobytes())
    return {
        **folder.identity,
        "texts": tokens.hexdigest(),
        "budget": str(budget),
        "plan": repr(fits),
        "options": options.to_json(),
    }
