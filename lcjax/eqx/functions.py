"""Functions of Equinox models: their sites, and smaller models."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcjax._messages import describe
from lcjax.calibration.calibrate import Calibration
from lcjax.calibration.fits import LEAST_SQUARES, Fit
from lcjax.eqx.delivery import deliver, take_apart
from lcjax.eqx.explaining import explained
from lcjax.eqx.library import equinox as eqx
from lcjax.eqx.owners import find_owners
from lcjax.eqx.places import split
from lcjax.errors import CollapseError
from lcjax.structure.choice import SiteSelector, select_for_fit
from lcjax.structure.sites import Sites
from lcjax.surgery.report import CollapseReport
from lcjax.transform.collapsible import collapsible
from lcjax.transform.converted_call import ConvertedCall
from lcjax.transform.lowering.bound_call import bind_call
from lcjax.transform.matching.explain import Explanation
from lcjax.transform.params.tree import read_params, restore_leaves
from lcjax.transform.traced_call import Data, TracedCall
from lcjax.tree.encoding import encode, strip_box_suffix
from lcjax.validation.functions import check_function

Fn = Callable[..., Any]


def trace(model: Any, /, *inputs: Any, fn: Fn | None = None) -> ConvertedCall[Any]:
    """Returns a call of an Equinox model, whose sites can be listed, calibrated and collapsed.

    It has the methods of `lcjax.TracedCall`; those that return a tree there return a model here.
    Slopes of the model stay in what is returned. A batch of data is the tuple of the inputs.

    Args:
      model: an `eqx.Module`, also one that `collapse` or `add_slopes` returned; arrays or
        ShapeDtypeStructs.
      *inputs: the inputs of the call, at inference (`eqx.nn.inference_mode`); arrays or
        ShapeDtypeStructs, and anything else.
      fn: called as `fn(model, *inputs)`, such as `lambda model, x: jax.vmap(model)(x)`; None calls
        the model, on a single example.

    Raises:
      TypeError: something other than an `eqx.Module` or a function; no inputs.
      CollapseError: inputs on which the model cannot run, such as a batch without `fn`.

    Example:
      >>> import equinox as eqx, jax, lcjax
      >>> model = eqx.nn.MLP(4, 3, 16, depth=1, key=jax.random.key(0))
      >>> x = jax.random.normal(jax.random.key(1), (64, 4))
      >>> call = lcjax.eqx.trace(model, x, fn=lambda model, x: jax.vmap(model)(x))
      >>> small, report = call.collapse(calibration=call.calibrate([x]))
      >>> small
      Linear(
        weight=f32[3,4], bias=f32[3], in_features=4, out_features=3, use_bias=True
      )
    """
    traced, model_of = _traced(model, inputs, fn)
    return ConvertedCall(traced, model_of)


def find_sites(model: Any, /, *inputs: Any, fn: Fn | None = None) -> Sites:
    """Returns the sites of a model in forward order; prints as a table.

    Args:
      model: as for `lcjax.eqx.trace`.
      *inputs: as for `lcjax.eqx.trace`.
      fn: as for `lcjax.eqx.trace`.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp, lcjax
      >>> model = eqx.nn.MLP(4, 3, 16, depth=2, key=jax.random.key(0))
      >>> lcjax.eqx.find_sites(model, jnp.ones(4)).paths
      ('layers/0', 'layers/1')
    """
    return trace(model, *inputs, fn=fn).sites


def explain(model: Any, /, *inputs: Any, fn: Fn | None = None) -> Explanation:
    """Returns every Dense → … → Dense of a model, and why it is a site or why not.

    Args:
      model: as for `lcjax.eqx.trace`.
      *inputs: as for `lcjax.eqx.trace`.
      fn: as for `lcjax.eqx.trace`.

    Raises:
      CollapseError: inputs on which the model cannot run.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp, lcjax
      >>> model = eqx.nn.MLP(4, 3, 16, depth=1, key=jax.random.key(0))
      >>> lcjax.eqx.explain(model, jnp.ones(4)).sites
      ('layers/0',)
    """
    return trace(model, *inputs, fn=fn).explain()


def add_slopes(
    model: Any, /, *inputs: Any, fn: Fn | None = None, sites: SiteSelector = None
) -> Any:
    """Returns the model with a slope of 0 at sites, as leaves that train with its arrays.

    `lcjax.with_linearity_penalty` finds them: `tx.init(eqx.filter(model, eqx.is_inexact_array))`.
    `collapse` then collapses the sites whose slopes have arrived at 1.

    Args:
      model: as for `trace`; slopes that it has stay.
      *inputs: as for `trace`.
      fn: as for `trace`.
      sites: as for `lcjax.collapse`; None takes all.

    Raises:
      CollapseError: no site.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp, lcjax
      >>> model = eqx.nn.MLP(4, 3, 16, depth=1, key=jax.random.key(0))
      >>> lcjax.slopes(lcjax.eqx.add_slopes(model, jnp.ones(4)))
      {'layers/0': Array(0., dtype=float32)}
    """
    traced, model_of = _traced(model, inputs, fn)
    if not traced.sites and not traced.collapsed:
        raise CollapseError(f"the model has no site.\n{traced.explain()}")
    chosen = select_for_fit(traced.sites, sites, traced.collapsed).chosen
    return model_of(traced.variables, chosen)


def collapse(
    model: Any,
    /,
    *inputs: Any,
    fn: Fn | None = None,
    sites: SiteSelector = None,
    fit: Fit | Mapping[Any, Fit] | None = None,
    data: Data | None = None,
    calibration: Calibration | None = None,
) -> tuple[Any, CollapseReport]:
    """Returns a smaller model and a report of what was done; the model is not changed.

    A module whose call is exactly a pair, as `eqx.nn.MLP` of depth 1, becomes an `eqx.nn.Linear`,
    or two for a map of low rank. In the place of any other module that runs a pair there is a
    `Collapsed`, which runs its call. Both are called as the module was.

    Args:
      model: as for `trace`.
      *inputs: as for `trace`.
      fn: as for `trace`.
      sites: as for `lcjax.collapse`.
      fit: as for `lcjax.collapse`; with data as for `lcjax.collapse_sequential`, `LeastSquares()`
        where it is None.
      data: batches of inputs, to which sites are fitted one segment after another. None takes the
        calibration, or the slopes of the model.
      calibration: of `trace(...).calibrate`.

    Raises:
      CollapseError: as `lcjax.collapse`; a pair that no call of one module runs.
      ValueError: data and a calibration; a fit for each site without data.

    Example:
      >>> import equinox as eqx, jax, lcjax
      >>> model = eqx.nn.MLP(4, 3, 16, depth=2, key=jax.random.key(0))
      >>> x = jax.random.normal(jax.random.key(1), (64, 4))
      >>> batched = lambda model, x: jax.vmap(model)(x)
      >>> small, report = lcjax.eqx.collapse(model, x, fn=batched, sites="layers/1", data=[x])
      >>> jax.vmap(small)(x).shape, report.collapsed
      ((64, 3), ('layers/1',))
    """
    call = trace(model, *inputs, fn=fn)
    if data is None:
        if isinstance(fit, Mapping):
            raise ValueError("fit: got a fit for each site; expected data with it. Pass data=.")
        return call.collapse(sites, fit, calibration=calibration)
    if calibration is not None:
        raise ValueError("data: got data and a calibration; expected one of the two.")
    return call.collapse_sequential(data, sites, LEAST_SQUARES if fit is None else fit)


def _traced(
    model: Any, inputs: Sequence[Any], fn: Fn | None
) -> tuple[TracedCall, Callable[..., Any]]:
    """Returns the call of a model, and a function that returns the model of a tree.

    That function is `model_of(tree, sites=None)`: the model with the slopes of these sites, and
    those that it had.
    """
    if not isinstance(model, eqx.Module):
        raise TypeError(
            f"model: got {describe(model)}, expected an eqx.Module. Use lcjax.nnx for Flax NNX, "
            "lcjax.linen for Flax linen, lcjax.collapsible for functions."
        )
    if fn is not None:
        check_function(fn, "fn")
    call_model = _call if fn is None else fn
    deep, slopes, fused = take_apart(model)
    arrays, static = split(deep)
    _check_names(arrays)

    def run(params: Any, /, *inputs: Any) -> Any:
        with explained(model, inputs, fn):
            return call_model(eqx.combine(params, static), *inputs)

    def model_of(tree: Mapping[str, Any], sites: Collection[str] = ()) -> Any:
        params = read_params(tree)
        call = bind_call(run, params, inputs, {}, has_state=False)
        kept = {path: slope for path, slope in params.slopes.items() if path in slopes}
        for site in call.analysis.sites:
            if site.path in sites and site.path not in kept:
                kept[site.path] = {"slope": jnp.zeros(site.stack, jnp.float32)}
        whole = eqx.combine(restore_leaves(params.model, params.removed), static)
        return deliver(whole, find_owners(whole, call, kept, call_model, inputs))

    params = {"model": arrays, "slopes": slopes, "fused": fused} if slopes or fused else arrays
    return collapsible(run).trace(params, *inputs), model_of


def _call(model: Any, *inputs: Any) -> Any:
    return model(*inputs)


def _check_names(arrays: Any) -> None:
    """Raises CollapseError for a kernel with the name that NNX has for the array in a Param."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        path = encode(keys)
        if leaf.ndim > 1 and path != strip_box_suffix(path):
            raise CollapseError(
                f"{path}: got a kernel named value, which names the array in a Flax NNX Param; "
                "expected another name. Rename the attribute, such as to weight."
            )
