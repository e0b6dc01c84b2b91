"""Collapse: from a variables tree to a smaller one that the same module runs."""

from collections.abc import Mapping
from typing import Any, Literal

import jax

from lcjax.calibration.calibrate import Calibration, check_calibrated, runs_to_fit, weights_of
from lcjax.structure.choice import Choice, by_gap, to_fit
from lcjax.structure.sites import Sites, find_sites, params_of
from lcjax.surgery.fitting import fitted
from lcjax.surgery.replacement import Rank, Truncation, exactly
from lcjax.surgery.report import CollapseReport
from lcjax.surgery.rewrite import rewrite
from lcjax.tree.slopes import with_slopes_from
from lcjax.validation.arguments import check_number, check_tree


def collapse(
    variables: Mapping[str, Any],
    sites: Choice = None,
    *,
    threshold: float = 0.05,
    fit: Literal["exact"] | Calibration = "exact",
    ridge: float = 1e-3,
    rank: Rank = None,
    tolerance: float = 0.05,
    slopes_from: Any = None,
) -> tuple[Any, CollapseReport]:
    """Returns a smaller tree for the same module, and a report of what was done.

    With fit="exact" each chosen site's activation is taken for the identity, which is exact at
    slope 1 in inference (dropout and the update of batch statistics at a collapsed site are gone).
    Neighbouring Dense layers with no activation between them fuse, `W = W1 W2`,
    `b = b1 W2 + b2`, with a batch norm between them folded in; where one matrix would be larger
    than two, the cheapest factors stay. For relu the error of taking slope α for 1 is at most
    `gap · (‖W1‖₂ ‖x‖ + ‖b1‖) · ‖diag(s) W2‖₂`.

    With statistics from `lcjax.calibrate` the calibrated sites are collapsed, whatever their
    slopes: each run of Denses gives way to the ridge regression of its outputs on its inputs
    ("least_squares"), `W = (Σxx + ρ D)⁻¹ Σxt`, `b = E t − E x W`, with ρ the ridge and D the
    variances of the inputs, larger for inputs that contribute little to the first kernel's output,
    so that their units do not matter, or each activation to a gain and an
    offset for every unit ("moments"), as `g ⊙ z + c` before the fuse. Where one matrix would be
    larger, the regression is cut to the run's narrowest width (reduced-rank regression). Solved in
    float64 on the host; the report tells how well each does on its own tokens and on those held
    out. Biases appear where there were none.

    The input is not changed. Untouched leaves are shared with it: donating one tree deletes the
    other's. In whatever order sites are collapsed exactly the function is the same; so are the
    shapes, unless a chain's widths differ enough that its cheapest cut moves when more sites go.

    Args:
      variables: nested dicts: params alone, or variables with "params" and whatever else; plain or
        FrozenDict, leaves boxed or not; NumPy or JAX arrays of any float dtype, sharded or not.
      sites: paths, globs, Sites or a Plan; None takes every site within the threshold, or those
        that were calibrated. Under `jax.jit` they must be given, and gaps are not checked.
      threshold: largest accepted gap `|1 − α|` of an exact fuse; dimensionless, at least 0; inf
        accepts any. Fits take any slope.
      fit: "exact", or what `lcjax.calibrate` returned for these variables.
      ridge: of least squares on standardised inputs; dimensionless, at least 0.
      rank: keep a matrix as two factors of at most this rank, or with "auto" of the least rank
        within the tolerance, where they are smaller. None: as is cheapest without loss.
      tolerance: largest relative error of rank="auto", in [0, 1): of what flows out of the run on
        the calibration data for least squares, else of the matrix, in Frobenius norm.
      slopes_from: a tree with the same sites whose slopes say which are linear: the raw params, of
        which variables are an average (EMA) or a target network's copy. Sites that stay keep the
        slopes of variables.

    Returns:
      `(compact, report)`; compact has the type of variables.

    Raises:
      CollapseError: no site; a pattern that matches none; a named site over the threshold or
        unpaired; other sites, or other weights, than were calibrated; a slope that is not finite; a
        half-collapsed tree; kernels that do not compose, are no floats or are on different devices;
        a result that is not finite, as beyond the range of float16; a norm whose statistics are not
        in the tree; a fit or a rank under jit.
      ValueError: a number out of range, an unknown fit.
      TypeError: a tree that is not nested dicts.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3 and algorithm 1.
    """
    check_tree(variables, "collapse")
    truncation = Truncation(rank, tolerance)
    if fit != "exact" and not isinstance(fit, Calibration):
        raise ValueError(
            f"fit is {fit!r}, must be 'exact' or what lcjax.calibrate returns: "
            "stats = lcjax.calibrate(apply_fn, variables, batches, fit='least_squares'), then "
            "fit=stats."
        )
    for name, value in (("threshold", threshold), ("ridge", ridge)):
        check_number(name, value)
        if not value >= 0:
            raise ValueError(f"{name} is {value}, must be at least 0.")
    judged = variables if slopes_from is None else with_slopes_from(variables, slopes_from)
    found = find_sites(params_of(judged))
    if isinstance(fit, Calibration):
        chosen, kept = _calibrated(variables, found, sites, fit)
        return rewrite(variables, chosen, kept, fitted(fit, ridge, truncation))
    chosen, kept = by_gap(found, sites, threshold)
    if slopes_from is not None:
        variables = with_slopes_from(variables, slopes_from, only=chosen)
    return rewrite(variables, chosen, kept, exactly(truncation))


def abstract_collapse(variables: Mapping[str, Any], sites: Choice) -> tuple[Any, CollapseReport]:
    """Returns what `collapse` returns, in ShapeDtypeStructs, with nothing computed.

    Where the input's leaves have shardings, so have the result's.

    Args:
      variables: as for `collapse`, of arrays or ShapeDtypeStructs.
      sites: paths, globs or Sites; they must be given, since abstract slopes have no gap.

    Raises:
      CollapseError: as `collapse`, but for gaps.
    """

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
        )

    return collapse(jax.tree.map(shape, variables), sites)


def _calibrated(
    variables: Any, found: Sites, sites: Choice, stats: Calibration
) -> tuple[set[str], list]:
    """Returns the sites to fit, of those that were calibrated, and the others with the reason."""
    chosen, kept = to_fit(found, stats.sites if sites is None else sites)
    runs = runs_to_fit(variables, sorted(chosen))
    check_calibrated(stats, runs, weights_of(params_of(variables), runs))
    return chosen, kept
