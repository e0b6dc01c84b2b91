"""Collapse: from a model whose activations have become linear to a smaller one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lcjax._messages import describe
from lcjax.algebra.abstract import shapes_of
from lcjax.calibration.calibrate import Calibration, check_calibrated, segments_for
from lcjax.calibration.fits import Exact, Fit, check_fit
from lcjax.calibration.of_segments import for_segments
from lcjax.errors import BypassedError, CollapseError
from lcjax.structure.choice import SiteSelector, select_for_fit, select_linear
from lcjax.structure.front_end import Collapsible
from lcjax.structure.params_tree import ParamsTree
from lcjax.structure.sites import Site, Sites, linear_units, worst_slope
from lcjax.surgery.checks import solve_each
from lcjax.surgery.fold import Linear, fold_linear_units, partly_linear, worth_folding
from lcjax.surgery.report import CollapseReport, make_report
from lcjax.tree.slopes import slopes as slopes_of
from lcjax.tree.slopes import with_slopes_from


def collapse(
    variables: Mapping[str, Any],
    sites: SiteSelector = None,
    fit: Fit | None = None,
    *,
    calibration: Calibration | None = None,
    slopes_from: Any = None,
) -> tuple[Any, CollapseReport]:
    """Returns a smaller tree for the same module, and a report of what was done.

    With `Exact()` each chosen site's activation is taken for the identity, which is exact at slope
    1 in inference (dropout and the update of batch statistics at a collapsed site disappear).
    Neighbouring Dense layers with no activation between them fuse, `W = W1 W2`,
    `b = b1 W2 + b2`, with a batch norm between them folded in; where one matrix would be larger
    than two, the cheapest factors stay. For relu the error of taking slope α for 1 is at most
    `gap · (‖W1‖₂ ‖x‖ + ‖b1‖) · ‖diag(s) W2‖₂`.

    Where a site has a slope for each hidden unit and only some are within the gap, these fold into
    a linear map next to the other units, `W += A_j B_j`, if that is smaller: the map has d_in d_out
    weights, a folded unit frees d_in + d_out.

    With a calibration from `lcjax.calibrate` the calibrated sites are collapsed, whatever their
    slopes: `LeastSquares` replaces each segment of Dense layers by the ridge regression of its
    outputs on its inputs, `PerUnit` each activation by a gain and an offset for every unit before
    the fuse. Where one matrix would be larger, the regression is cut to the segment's narrowest
    width (reduced-rank regression). `Units` keeps some hidden units of each site and fits the last
    kernel again, with a linear map next to them or without; `LowRank` keeps the activations and
    makes two factors of each kernel; `Remove` leaves a bias of whole chains. Solved in float64 on
    the host; the report says how well each does on its own tokens and on those held out. Biases
    appear where there were none.

    The input is not changed. Untouched leaves are shared with it: donating one tree deletes the
    other's. Collapsing sites exactly in any order gives the same function; and the same shapes,
    unless a chain's widths differ enough that its cheapest cut moves when more sites go.

    Args:
      variables: nested dicts: params alone, or variables with "params" and whatever else; plain or
        FrozenDict, leaves boxed or not; NumPy or JAX arrays of any float dtype, sharded or not.
      sites: paths, globs, `re.Pattern`s, Sites or a Plan; None takes every site within the
        fit's `max_gap`, or those that were calibrated. Under `jax.jit` they must be given, and gaps
        are not checked.
      fit: None takes `Exact()`, with a calibration the fit that it was made for. One for `Units` or
        `LowRank` serves `LeastSquares` and `Remove` too, of a site between two Dense layers.
      calibration: what `lcjax.calibrate` returned for these variables.
      slopes_from: a tree with the same sites whose slopes say which are linear: the raw params, of
        which variables are an average (EMA) or a target network's copy. Sites that stay keep the
        slopes of variables.

    Returns:
      `(compact, report)`; compact has the type of variables.

    Raises:
      CollapseError: no site; a pattern that matches none; a named site over `max_gap` or unpaired;
        more units to keep than there are; a part of a chain to remove; other sites, or other
        weights, than were calibrated; a slope that is not finite; a half-collapsed tree; kernels
        that do not compose, are not floats or are on different devices; a result that is not
        finite, as beyond the range of float16; a norm whose statistics are not in the tree; a fit
        to data or a rank under jit.
      ValueError: a fit that needs a calibration without one, or with one for another kind of fit.
      TypeError: a tree that is not nested dicts; something other than a fit.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3), nn.relu)
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
      >>> compact, report = lcjax.collapse(variables, fit=lcjax.Exact(max_gap=1))
      >>> compact["params"]["dense_1"]["kernel"].shape
      (4, 3)

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, section 3 and algorithm 1.
    """
    model = ParamsTree(variables, caller="collapse")
    return collapse_model(model, sites, fit, calibration=calibration, slopes_from=slopes_from)


def collapse_model(
    model: Collapsible,
    sites: SiteSelector = None,
    fit: Fit | None = None,
    *,
    calibration: Calibration | None = None,
    slopes_from: Any = None,
) -> tuple[Any, CollapseReport]:
    """Returns what `collapse` does, for a model of any front end."""
    if isinstance(sites, Calibration):
        raise TypeError("sites is a Calibration; expected paths. Pass it as calibration=.")
    fit, slopes = _fit_for(fit, calibration), None
    if calibration is not None and fit.observed == "segment":
        calibration = for_segments(calibration)
    partly: Linear = {}
    if calibration is None:
        found, judged = model.sites, model.variables
        if slopes_from is not None:
            judged = with_slopes_from(model.variables, slopes_from)
            slopes = slopes_of(judged)
            found = Sites(_judged(site, slopes[site.path]) for site in found)
        partly = partly_linear(found, judged, fit.max_gap)
        selection = select_linear(found, sites, fit.max_gap, model.collapsed, partly)
    else:
        chosen = calibration.sites if sites is None else sites
        selection = select_for_fit(model.sites, chosen, model.collapsed)
    while True:
        try:
            segments = segments_for(model, selection.chosen, fit)
            if calibration is not None:
                check_calibrated(calibration, segments)
            replacements = solve_each(fit, segments, calibration)
            rebuilt = model.rebuild(replacements)
            break
        except BypassedError as error:
            if sites is not None or calibration is not None:
                raise
            selection = selection.without(error.sites)
    report = make_report(model.sites, replacements, rebuilt, selection.skipped, slopes)
    over = {skip.site for skip in selection.skipped if skip.reason == "gap"}
    linear = {path: units for path, units in partly.items() if path in over}
    if fit.rank is not None and (folded := worth_folding(model, linear)):
        raise CollapseError(
            f"{next(iter(folded))}: got rank={fit.rank!r} for a site some of whose units have a "
            "slope of 1, expected None: these fold into a whole matrix, exactly. Leave rank out, "
            "or name the other sites in sites=."
        )
    return fold_linear_units(model, rebuilt, report, linear)


def _judged(site: Site, slope: Any) -> Site:
    """Returns a site with this slope in place of its own."""
    units = None if site.linear_units is None else linear_units(slope)
    return replace(site, slope=worst_slope(slope), linear_units=units)


def abstract_collapse(
    variables: Mapping[str, Any], sites: SiteSelector, fit: Fit | None = None
) -> tuple[Any, CollapseReport]:
    """Returns what `collapse` returns, in ShapeDtypeStructs, with nothing computed.

    Where the input's leaves have shardings, so have the result's. With a rank the shapes depend on
    the values: then variables must be arrays, and the collapse is computed.

    Args:
      variables: as for `collapse`, of arrays or ShapeDtypeStructs.
      sites: paths, globs, `re.Pattern`s, Sites or a Plan; they must be given, since abstract
        slopes have no gap.
      fit: None takes `Exact()`.

    Raises:
      CollapseError: as `collapse`, except for gaps.
      ValueError: a fit whose shapes depend on data.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3), nn.relu)
      >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 4)))
      >>> compact, report = lcjax.abstract_collapse(shapes, ["act_0"])
      >>> compact["params"]["dense_1"]["kernel"].shape
      (4, 3)
    """
    return abstract_collapse_model(ParamsTree(variables, caller="abstract_collapse"), sites, fit)


def abstract_collapse_model(
    model: Collapsible, sites: SiteSelector, fit: Fit | None = None
) -> tuple[Any, CollapseReport]:
    """Returns what `abstract_collapse` does, for a model of any front end."""
    fit = Exact() if fit is None else fit
    check_fit(fit)
    if fit.needs_data:
        raise ValueError(
            f"fit is {fit}, whose shapes depend on data; expected lcjax.Exact(). "
            "Collapse arrays with lcjax.collapse."
        )
    fit = fit.at_any_gap()
    if fit.rank is None:
        return collapse_model(model.abstract(), sites, fit)
    tree, report = collapse_model(model, sites, fit)
    return shapes_of(tree), replace(report, gaps=shapes_of(report.gaps))


def _fit_for(fit: Fit | None, calibration: Calibration | None) -> Fit:
    """Returns the fit to take.

    Raises:
      TypeError: something other than a fit, or than a calibration.
      ValueError: a fit and a calibration that do not belong together.
    """
    if calibration is not None and not isinstance(calibration, Calibration):
        raise TypeError(
            f"calibration is {describe(calibration)}; expected a Calibration. Pass what "
            "lcjax.calibrate(apply_fn, variables, data) returns."
        )
    if fit is None:
        return Exact() if calibration is None else calibration.fit
    check_fit(fit)
    if calibration is None and fit.needs_data:
        raise ValueError(
            f"fit is {fit}, which needs data; expected a calibration with it. Make one: stats = "
            "lcjax.calibrate(apply_fn, variables, data, fit=...), then "
            "lcjax.collapse(variables, calibration=stats)."
        )
    if calibration is None:
        return fit
    both = (fit.observed, calibration.fit.observed)
    if not fit.needs_data or (both[0] != both[1] and both != ("segment", "hidden")):
        raise ValueError(
            f"fit is {fit}, but the calibration is for {calibration.fit}. Leave fit out, or "
            "calibrate for it; a calibration for lcjax.Units or lcjax.LowRank serves "
            "lcjax.LeastSquares and lcjax.Remove too."
        )
    return fit
