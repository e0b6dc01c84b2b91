"""Calibration: the statistics of a model's runs from which a collapse is fitted."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lcjax._table import render
from lcjax.algebra.fingerprints import fingerprint
from lcjax.algebra.moments import Moments
from lcjax.calibration.capture import into, out_of
from lcjax.calibration.masks import Mask
from lcjax.calibration.statistics import Pair, gather
from lcjax.errors import CollapseError
from lcjax.structure.chains import Chain, find_chains
from lcjax.structure.choice import Choice, to_fit
from lcjax.structure.runs import Run, runs_of
from lcjax.structure.sites import find_sites, params_of
from lcjax.validation.arguments import check_tree
from lcjax.validation.batches import check_batches
from lcjax.validation.functions import check_function

Fit = Literal["least_squares", "moments"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a pass over data tells about the runs that a choice of sites makes.

    For least squares the moments of a run's inputs and outputs, called by the path of its last
    Dense; for the moments fit those of every pre-activation and activation, called by the site.

    Attributes:
      fitted: moments of the tokens to fit on.
      held: moments of the tokens held out, by which fits are judged.
      fit: "least_squares" or "moments".
      runs: what is replaced, each by one linear map.
      weights: of each run a fingerprint of the weights that it had; empty where they are known to
        be those of the model.
    """

    fitted: dict[str, Moments]
    held: dict[str, Moments]
    fit: Fit = field(metadata={"static": True})
    runs: tuple[Run, ...] = field(metadata={"static": True})
    weights: tuple[str | None, ...] = field(default=(), metadata={"static": True})

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that are collapsed with it, in forward order."""
        return tuple(site for run in self.runs for site in run.sites)

    def __str__(self) -> str:
        """Returns a table of the runs with the tokens that count."""
        rows = []
        for run in self.runs:
            key = run.last if self.fit == "least_squares" else run.sites[0]
            sizes = (run.d_in, run.d_out, int(self.fitted[key].count), int(self.held[key].count))
            rows.append((", ".join(run.sites), *(f"{size:,}" for size in sizes)))
        table = render(("sites of one run", "d_in", "d_out", "tokens", "held out"), rows)
        return "\n".join([table, *self.notes])

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say before a fit: runs with fewer tokens than inputs."""
        if self.fit != "least_squares":
            return ()
        counts = {run: int(self.fitted[run.last].count) for run in self.runs}
        return tuple(
            f"{', '.join(run.sites)}: {count:,} tokens to fit on for {run.d_in:,} inputs; expected "
            "more tokens than inputs, several times as many for a fit that generalizes. "
            "Give more batches, or take fit='moments'."
            for run, count in counts.items()
            if count < run.d_in
        )


def calibrate(
    apply_fn: Callable[..., Any],
    variables: Any,
    batches: Iterable[Any],
    sites: Choice = None,
    *,
    fit: Fit = "least_squares",
    mask: Mask | None = None,
    holdout: float = 0.1,
    progress: bool = True,
) -> Calibration:
    """Returns statistics with which `lcjax.collapse(variables, fit=...)` fits the chosen sites.

    They are of these weights: once the sites are trained on, calibrate again. Of what is calibrated
    some runs can be collapsed by themselves, as sites of different chains.

    Where sites of one chain stand next to each other, they make one run, which one linear map
    replaces. "least_squares" gathers second moments of the run's inputs x and outputs t, from which
    follows the map with the least `E ‖t − x W − b‖²`; `d_in (d_in + d_out)` numbers a run.
    "moments" gathers means and variances of every unit, from which follow a gain and an offset for
    each; the best where tokens are few or widths large. A site's slope may be anything.

    One pass, compiled once for every shape of batch, and anew in every call: what apply_fn and mask
    read from outside (an attribute, a global) is as it is then, but for what functions that you
    compiled yourself with `jax.jit` have read before. Moments are float32 (float64 where
    activations are), centred and merged, and the same however the data is cut into batches. On a
    mesh they are reduced over it. What does not lead to a chosen run is not computed.

    Rows along the first axis of a batch are spread over two groups: those that are fitted on, and
    those held out, by which the report judges the fit.

    Args:
      apply_fn: runs Flax linen modules in inference mode, such as `model.apply`; jitted or not.
      variables: params or variables, as apply_fn takes them.
      batches: any iterable, of any length; a batch is the tuple of what apply_fn takes after the
        variables, or the one array that it takes.
      sites: paths, globs, Sites or a Plan; None takes every paired site.
      fit: "least_squares" or "moments".
      mask: `mask(*batch)` returns which positions count, as padding must not: bool, or numbers of
        which all but 0 count, as ids of segments; its axes a module's leading axes from the first
        on, each of the same length or 1.
      holdout: part of the rows that is held out, in [0, 1).
      progress: whether a pass that takes long shows a bar (where tqdm is installed).

    Raises:
      CollapseError: as `lcjax.collapse` for sites; a site within `nn.scan` or `vmap`, or one that
        apply_fn does not run; a mask of another shape, or with negative numbers; values that are
        complex or not finite; nothing counts; arrays on different devices.
      ValueError: no batch; an unknown fit; a holdout out of range.
      TypeError: batches that are a single array, or that hold something other than arrays.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp, jax, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 3), nn.relu)
      >>> variables = model.init(jax.random.key(0), jnp.ones((64, 4)))
      >>> stats = lcjax.calibrate(model.apply, variables, [jnp.ones((64, 4))])
      >>> compact, report = lcjax.collapse(variables, fit=stats)

    References:
      Shopkhoev et al. 2025, arXiv 2505.02819, replace transformer blocks by least squares.
    """
    check_function(apply_fn)
    check_tree(variables, "calibrate")
    check_batches(batches)
    runs = runs_to_fit(variables, sites)
    gathered = gather(
        apply_fn,
        variables,
        batches,
        pairs_of(runs, fit),
        mask=mask,
        holdout=holdout,
        progress=progress,
    )
    return Calibration(
        fitted=gathered.fitted,
        held=gathered.held,
        fit=fit,
        runs=runs,
        weights=weights_of(params_of(variables), runs),
    )


def weights_of(params: Any, runs: Iterable[Run]) -> tuple[str | None, ...]:
    """Returns the fingerprints of the weights of runs; None where they are traced or abstract."""
    chains = [(chain, set(map(chain.site, chain.acts))) for chain in find_chains(params)]
    found = []
    for run in runs:
        chain = next(chain for chain, sites in chains if sites.issuperset(run.sites))
        parts = [*(chain.denses[i] for i in run.denses), *([chain.gate] if chain.gate else [])]
        norms = [chain.norms[i] for i in run.acts if i in chain.norms]
        slopes = [chain.acts[i] for i in run.acts]
        found.append(fingerprint(jax.tree.leaves((parts, norms, slopes))))
    return tuple(found)


def check_calibrated(
    stats: Calibration, runs: Sequence[Run], weights: Sequence[str | None]
) -> None:
    """Raises CollapseError unless statistics are of these runs, as they are now.

    Args:
      stats: of a calibration.
      runs: what is to be replaced: all that was calibrated, or some of it.
      weights: their fingerprints.
    """
    for run, now in zip(runs, weights, strict=True):
        sites = ", ".join(run.sites)
        if run not in stats.runs:
            same = any(own.sites == run.sites for own in stats.runs)
            raise CollapseError(
                f"{sites}: the Dense layers around them are not those that were calibrated. "
                "Calibrate again with this tree."
                if same
                else f"{sites}: asked for, but the fit was calibrated for "
                f"{', '.join(stats.sites)}, and holds for those of one run of Dense layers "
                "together. Leave sites out, or calibrate again with these."
            )
        then = stats.weights[stats.runs.index(run)] if stats.weights else None
        if None not in (now, then) and now != then:
            raise CollapseError(
                f"{sites}: got statistics of other weights than this tree has, as of another "
                "model, or from before it was trained on: a fit would bring those back. Calibrate "
                "again with this tree."
            )


def runs_to_fit(variables: Any, sites: Choice) -> tuple[Run, ...]:
    """Returns the runs that a choice of sites makes, in forward order.

    Raises:
      CollapseError: as `calibrate`, of sites and trees.
    """
    params = params_of(variables)
    chosen, _ = to_fit(find_sites(params), sites)
    runs = []
    for chain in find_chains(params):
        of_chain = runs_of(chain, chosen)
        if of_chain:
            _check_single(chain, of_chain[0])
        runs += of_chain
    if not runs:
        raise CollapseError(
            "no site is chosen that has a Dense on both sides, so there is nothing to fit. Build "
            "such pairs with lcjax.CollapsibleMLP, or choose more sites."
        )
    return tuple(runs)


def pairs_of(runs: Iterable[Run], fit: Fit) -> tuple[Pair, ...]:
    """Returns the pairs of values whose moments a fit of these runs needs."""
    if fit == "least_squares":
        return tuple(Pair(run.last, into(run.first), out_of(run.last), False) for run in runs)
    if fit == "moments":
        sites = (site for run in runs for site in run.sites)
        return tuple(Pair(site, into(site), out_of(site), True) for site in sites)
    raise ValueError(f"fit is {fit!r}, must be 'least_squares' or 'moments'.")


def _check_single(chain: Chain, run: Run) -> None:
    kernel = chain.denses[run.denses[0]]["kernel"]
    shape = kernel.shape
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise CollapseError(
            f"{run.first}: got a kernel of dtype {kernel.dtype}, but fits are of real floating "
            "point. Dequantize it; or collapse with fit='exact', which takes complex kernels too."
        )
    if len(shape) != 2:
        raise CollapseError(
            f"{run.first}: kernel {tuple(shape)} is of layers stacked by nn.scan or nn.vmap, whose "
            "values cannot be told apart. Unstack the layers, or collapse with fit='exact'."
        )
