"""The life cycle of sites in an NNX module, each step as one function."""

from collections.abc import Mapping, Sequence
from typing import Any

from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.data import as_data
from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.nnx.trace import ModuleCall, trace
from lcjax.structure.choice import SiteSelector
from lcjax.structure.sites import Sites
from lcjax.surgery.report import CollapseReport
from lcjax.transform.matching.explain import Explanation
from lcjax.transform.traced_call import Data


def find_sites(model: Any, /, *inputs: Any, **kwargs: Any) -> Sites:
    """Returns the sites of a module, in forward order; as `lcjax.nnx.trace(...).sites`.

    Args:
      model: as for `lcjax.nnx.trace`.
      *inputs: example inputs; arrays or ShapeDtypeStructs.
      **kwargs: those given by name.

    Raises:
      TypeError: something other than a module; inputs that it does not take.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> lcjax.nnx.find_sites(model, jax.ShapeDtypeStruct((1, 4), "float32")).paths
      ('layers/0',)
    """
    return trace(model, *inputs, **kwargs).sites


def explain(model: Any, /, *inputs: Any, **kwargs: Any) -> Explanation:
    """Returns every Dense → … → Dense of a module, and why it is a site or why not.

    Args:
      model: as for `lcjax.nnx.trace`.
      *inputs: example inputs; arrays or ShapeDtypeStructs.
      **kwargs: those given by name.

    Raises:
      TypeError: something other than a module; inputs that it does not take.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> lcjax.nnx.explain(model, jax.ShapeDtypeStruct((1, 4), "float32")).sites
      ('layers/0',)
    """
    return trace(model, *inputs, **kwargs).explain()


def add_slopes(model: Any, /, *inputs: Any, sites: SiteSelector = None) -> Any:
    """Returns a module with a slope of 0 at sites, which computes what the module does.

    A slope α makes the activation `α z + (1 − α) σ(z)`. Slopes are `lcjax.nnx.Slope`, a kind of
    `nnx.Param`, named after the site they are at: `nnx.Optimizer(model,
    lcjax.with_linearity_penalty(tx, strength=...), wrt=nnx.Param)` trains them to 1 where the data
    allows, and `lcjax.nnx.collapse` fuses those sites exactly.

    Args:
      model: as for `lcjax.nnx.trace`.
      *inputs: example inputs; arrays or ShapeDtypeStructs.
      sites: paths, globs or Sites; None for all.

    Raises:
      CollapseError: no site, or a pattern that matches none.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> sloped = lcjax.nnx.add_slopes(model, x)
      >>> len(jax.tree.leaves(nnx.state(sloped, lcjax.nnx.Slope)))
      1
    """
    return trace(model, *inputs).add_slopes(sites)


def calibrate(
    model: Any,
    data: Data,
    /,
    *inputs: Any,
    sites: SiteSelector = None,
    fit: Fit = LEAST_SQUARES,
) -> Calibration:
    """Returns statistics with which `collapse(calibration=...)` fits sites; as `lcjax.calibrate`.

    Args:
      model: as for `lcjax.nnx.trace`.
      data: batches of inputs, or `lcjax.CalibrationData`.
      *inputs: example inputs; none for the first batch.
      sites: as for `lcjax.calibrate`.
      fit: the kind of fit.

    Raises:
      CollapseError: as `lcjax.calibrate`; a module without sites.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> lcjax.nnx.calibrate(model, [x])
      <Calibration of layers/0: LeastSquares(), 58 tokens to fit on>
    """
    return traced(model, data, inputs).calibrate(data, sites, fit)


def collapse(
    model: Any,
    /,
    *inputs: Any,
    sites: SiteSelector = None,
    fit: Fit | None = None,
    calibration: Calibration | None = None,
) -> tuple[Any, CollapseReport]:
    """Returns a smaller module of the same classes, and a report of what was done.

    As `lcjax.collapse`. The module is called as before. Of a module that runs a collapsed pair the
    result has a subclass, with the layers that replace the pair in its attribute `lcjax` and None
    in the place of the Params that are gone. The module that is given is not changed; Params that
    are not touched share their arrays with it.

    Args:
      model: as for `lcjax.nnx.trace`.
      *inputs: example inputs; arrays or ShapeDtypeStructs. Those of a module that takes arguments
        by name are given to `lcjax.nnx.trace`.
      sites: paths, globs, Sites or a Plan; None takes those that are linear or were calibrated.
      fit: None takes `lcjax.Exact()`, with a calibration the fit that it was made for.
      calibration: what `calibrate` returned for this module.

    Raises:
      CollapseError: as `lcjax.collapse`; a module without sites; a pair that no method of one
        module runs; a Param of it that the module also has in another place.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> compact, report = lcjax.nnx.collapse(model, x, fit=lcjax.Exact(max_gap=1))
      >>> report.parameters_before, report.parameters_after
      (148, 20)
    """
    return trace(model, *inputs).collapse(sites, fit, calibration=calibration)


def collapse_sequential(
    model: Any,
    data: Data,
    /,
    *inputs: Any,
    sites: SiteSelector = None,
    fit: Fit | Mapping[str, Fit] = LEAST_SQUARES,
) -> tuple[Any, CollapseReport]:
    """Returns the module with sites collapsed one segment after another, and the report.

    As `lcjax.collapse_sequential`; `fit=plan.fits` carries a plan out.

    Args:
      model: as for `lcjax.nnx.trace`.
      data: batches of inputs, or `lcjax.CalibrationData`.
      *inputs: example inputs; none for the first batch.
      sites: as for `lcjax.collapse_sequential`.
      fit: one for all sites, or one for each.

    Raises:
      CollapseError: as `collapse`.

    Example:
      >>> import jax, lcjax
      >>> from flax import nnx
      >>> linear = lambda i, a, b: nnx.Linear(a, b, rngs=nnx.Rngs(i))
      >>> model = nnx.Sequential(linear(0, 4, 16), nnx.relu, linear(1, 16, 4))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> compact, _ = lcjax.nnx.collapse_sequential(model, [x], fit=lcjax.Units(6))
      >>> compact(x).shape
      (64, 4)
    """
    return traced(model, data, inputs).collapse_sequential(data, sites, fit)


def traced(model: Any, data: Data, inputs: Sequence[Any]) -> ModuleCall:
    """Returns the call of a module with inputs, or with the first batch."""
    return trace(model, *(inputs or as_data(data).first_batch()))
