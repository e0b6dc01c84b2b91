"""Collapse run by run in forward order, so that later fits correct earlier errors."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lcjax.calibration import Calibration, Fit, pairs_of, runs_to_fit
from lcjax.chains import Chain
from lcjax.chosen import Choice, to_fit
from lcjax.fitting import fitted
from lcjax.fuse import Norm
from lcjax.gathering import Mask, as_batch, check_batches, gather
from lcjax.replacement import Rank, Replacement, Truncation, exactly
from lcjax.report import CollapseReport
from lcjax.rewrite import rewrite
from lcjax.runs import Run
from lcjax.sites import find_sites


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
    `lcjax.calibrate`, one pass for all, cannot. It takes one pass over the batches for every run.

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
    check_batches(batches, more_than_once="each run of sites")
    truncation = Truncation(rank, tolerance)
    _, kept = to_fit(find_sites(variables), sites)
    runs = _forward(apply_fn, variables, batches, runs_to_fit(variables, sites))
    found: dict[Run, Replacement] = {}
    compact, report = rewrite(variables, set(), kept, exactly(truncation))
    for run in runs:
        gathered = gather(
            apply_fn,
            variables,
            batches,
            pairs_of([run], fit),
            compact=compact if found else None,
            mask=mask,
            holdout=holdout,
            progress=progress,
        )
        stats = Calibration(fitted=gathered.fitted, held=gathered.held, fit=fit, runs=(run,))
        solve = fitted(stats, ridge, truncation)

        def replace(chain: Chain, run: Run, norms: Mapping[int, Norm], solve=solve) -> Replacement:
            if run not in found:
                found[run] = solve(chain, run, norms)
            return found[run]

        chosen = {site for one in (*found, run) for site in one.sites}
        compact, report = rewrite(variables, chosen, kept, replace)
    return compact, report


def _forward(
    apply_fn: Callable[..., Any], variables: Any, batches: Iterable[Any], runs: Iterable[Run]
) -> list[Run]:
    """Returns runs in the order in which apply_fn comes to them."""
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("batches is empty: give at least one batch of what apply_fn takes.")
    order = find_sites(variables, apply_fn=apply_fn, inputs=as_batch(first)).paths
    return sorted(runs, key=lambda run: order.index(run.sites[0]))
