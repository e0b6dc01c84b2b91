"""The choices of fits worth carrying out: measured layer by layer, within a budget."""

from collections.abc import Mapping, Sequence

from lcjax.folder.data.batches import Batch
from lcjax.folder.families import Family
from lcjax.folder.fitting.choosing import choose, costs_of
from lcjax.folder.fitting.followed import Followed
from lcjax.folder.fitting.passes import LayerPasses
from lcjax.folder.fitting.plan import Fits, uniform_fits
from lcjax.folder.fitting.planning import Measuring
from lcjax.folder.fitting.solve import bytes_of_fit
from lcjax.folder.fitting.streams import Streams
from lcjax.folder.options import FolderOptions
from lcjax.folder.storage.work_directory import WorkDirectory
from lcjax.planning.budgets import Budget

# Of the loss that a compact model adds; smaller differences may turn around on other texts.
_CLEARLY = 0.05


def plan_forms(
    family: Family,
    batches: Sequence[Batch],
    passes: LayerPasses,
    work: WorkDirectory,
    options: FolderOptions,
    budget: Budget,
) -> tuple[dict[str, Fits], float]:
    """Returns choices of a fit for each layer by name, and the loss predicted for the first.

    Args:
      family: of the model.
      batches: of the calibration set.
      passes: compiled.
      work: directory in which steps that are done stay so.
      options: of the call.
      budget: of parameters.

    Returns:
      the choice "planned", and "uniform" where the same number of units meets the budget too.

    Raises:
      ValueError: no choice meets the budget; says the nearest that is possible.
    """
    streams = Streams(work.path / "plan", batches, family)
    followed = Followed(family, work.path / "followed", batches, passes)
    measuring = Measuring(family, streams, followed, passes, options.buffer, options.multiple_of)
    names, measured = [], []
    for layer in range(family.depth):
        step = f"plan_{layer}"
        found = work.result(step)
        if found is None:
            if layer == 0:
                streams.embed()
                followed.embed()
            found = measuring.run(layer, names)
            work.mark_done(step, found)
        streams.drop(("plan",), layer)
        followed.drop(names, layer)
        names = found["names"]
        measured.append(found["tried"])
    streams.drop(("plan",), family.depth)
    losses = work.result("followed")
    if losses is None:
        losses = followed.losses(names)
        work.mark_done("followed", losses)
    followed.drop(names, family.depth)
    uniform = _uniform(family, budget, options)
    planned, predicted = choose(
        family,
        [costs_of(tried, losses) for tried in measured],
        budget,
        multiple_of=options.multiple_of,
        buffer=options.buffer,
        more=[fit for fit in uniform[:1] if fit is not None],
    )
    choices = {"planned": planned}
    if uniform and uniform != planned:
        choices["uniform"] = uniform
    return choices, predicted


def better(losses: Mapping[str, float], deep: float) -> str:
    """Returns the name of the choice to take: the planned one unless it is not clearly better.

    Args:
      losses: of the choices carried out, by name.
      deep: loss of the deep model.

    Example:
      >>> better({"planned": 0.0810, "uniform": 0.0815}, 0.0)
      'uniform'
      >>> better({"planned": 0.0770, "uniform": 0.0815}, 0.0)
      'planned'
    """
    planned, uniform = losses["planned"], losses.get("uniform")
    if uniform is None or planned < uniform - _CLEARLY * abs(uniform - deep):
        return "planned"
    return "uniform"


def _uniform(family: Family, budget: Budget, options: FolderOptions) -> Fits:
    """Returns the same number of units for every layer; none where no number meets the budget."""
    try:
        fits = uniform_fits(family, budget, options.multiple_of, bias=True)
    except ValueError:
        return []
    return [fit for fit in fits if fit is not None and bytes_of_fit(family, fit) <= options.buffer]
