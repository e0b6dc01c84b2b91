"""Collapse run by run in forward order, so that later fits correct earlier errors."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lcjax.algebra.fuse import Norm
from lcjax.calibration.calibrate import Calibration, Fit, pairs_of, runs_to_fit
from lcjax.calibration.capture import beside
from lcjax.calibration.masks import Mask
from lcjax.calibration.statistics import Pair, gather
from lcjax.structure.chains import Chain
from lcjax.structure.choice import Choice, to_fit
from lcjax.structure.runs import Run
from lcjax.structure.sites import find_sites
from lcjax.surgery.fitting import fitted
from lcjax.surgery.replacement import Rank, Replacement, Truncation, exactly
from lcjax.surgery.report import CollapseReport
from lcjax.surgery.rewrite import rewrite
from lcjax.validation.arguments import check_tree
from lcjax.validation.batches import as_batch, check_batches
from lcjax.validation.functions import check_function


def collapse_sequential(
    apply_fn: Callable[..., Any],
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    sites: Choice = None,
    *,
    fit: Fit = "least_squares",
    ridge: float = 1e-3,
    rank: Rank = None,
    tolerance: float = 0.05,
    mask: Mask | None = None,
    holdout: float = 0.1,
    progress: bool = True,
) -> tuple[Any, CollapseReport]:
    """Returns the tree with these sites collapsed one run after another, and the report.

    In forward order each run is fitted to map what the already compact model feeds it to what the
    deep model makes of it there; so a later run corrects what earlier ones got wrong, which
    `lcjax.calibrate`, one pass for all, cannot. Where the run's output is added to something, as
    in a residual block, least squares fits the sum: `t + r − r'`, with r what is added in the deep
    model and r' in the compact one. It takes one pass over the batches for every run.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; jitted or not.
      variables: params or variables, as apply_fn takes them; nested dicts.
      batches: held in memory or re-iterable, as for `lcjax.calibrate`.
      sites: paths, globs, Sites or a Plan; None takes every paired site.
      fit: "least_squares" or "moments".
      ridge: as for `lcjax.collapse`.
      rank: as for `lcjax.collapse`.
      tolerance: as for `lcjax.collapse`.
      mask: as for `lcjax.calibrate`.
      holdout: as for `lcjax.calibrate`.
      progress: whether passes that take long show a bar (where tqdm is installed).

    Returns:
      `(compact, report)`, as `lcjax.collapse`; the report's errors are of each run by itself, its
      inputs as they are in the compact model.

    Raises:
      TypeError: batches that can be gone through only once.
      ValueError: as `lcjax.calibrate` and `lcjax.collapse`.
    """
    check_function(apply_fn)
    check_tree(variables, "collapse_sequential")
    check_batches(batches, more_than_once="each run of sites")
    return in_turn(
        apply_fn,
        variables,
        batches,
        sites,
        fit=fit,
        ridge=ridge,
        truncation=Truncation(rank, tolerance),
        gathering=dict(mask=mask, holdout=holdout, progress=progress),
        known={},
    )


def in_turn(
    apply_fn: Callable[..., Any],
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    sites: Choice,
    *,
    fit: Fit,
    ridge: float,
    truncation: Truncation,
    gathering: Mapping[str, Any],
    known: dict[tuple[Run, ...], Replacement],
) -> tuple[Any, CollapseReport]:
    """Returns what `collapse_sequential` does, and remembers what it finds.

    Args:
      apply_fn: and what else is not explained here, as for `collapse_sequential`.
      variables: of the deep model.
      batches: re-iterable.
      sites: to collapse.
      fit: "least_squares" or "moments".
      ridge: of least squares.
      truncation: of what is fitted.
      gathering: mask, holdout and progress.
      known: what takes the place of a run, by the runs up to and with it; is added to.
    """
    _, kept = to_fit(find_sites(variables), sites)
    runs = _forward(apply_fn, variables, batches, runs_to_fit(variables, sites))
    compact, report = rewrite(variables, set(), kept, exactly(truncation))
    for end in range(1, len(runs) + 1):
        so_far, solve = tuple(runs[:end]), None
        if so_far not in known:
            before = compact if end > 1 else None
            pairs = _pairs(so_far[-1], fit)
            own, held = gather(apply_fn, variables, batches, pairs, compact=before, **gathering)
            stats = Calibration(fitted=own, held=held, fit=fit, runs=so_far[-1:])
            solve = fitted(stats, ridge, truncation)

        def replace(
            chain: Chain, run: Run, norms: Mapping[int, Norm], so_far=so_far, solve=solve
        ) -> Replacement:
            up_to = so_far[: so_far.index(run) + 1]
            if up_to not in known and solve is not None:
                known[up_to] = solve(chain, run, norms)
            return known[up_to]

        chosen = {site for run in so_far for site in run.sites}
        compact, report = rewrite(variables, chosen, kept, replace)
    return compact, report


def _pairs(run: Run, fit: Fit) -> tuple[Pair, ...]:
    """Returns what to gather for a run, with what is added to its output for least squares."""
    pairs = pairs_of([run], fit)
    if fit == "moments":
        return pairs
    return tuple(pair._replace(beside=beside(run.last)) for pair in pairs)


def _forward(
    apply_fn: Callable[..., Any], variables: Any, batches: Iterable[Any], runs: Iterable[Run]
) -> list[Run]:
    """Returns runs in the order in which apply_fn comes to them."""
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("batches is empty: give at least one batch of what apply_fn takes.")
    order = find_sites(variables, apply_fn=apply_fn, inputs=as_batch(first)).paths
    return sorted(runs, key=lambda run: order.index(run.sites[0]))
