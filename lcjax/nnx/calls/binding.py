"""A call of a deep model, traced once: as a function, and with the calls of its modules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from lcjax.nnx.arguments import errors_of_inputs
from lcjax.nnx.calls.recording import MethodCall, recordable, recorded
from lcjax.nnx.functional import ModuleFunction, module_function
from lcjax.transform.lowering.bound_call import BoundCall, bind_call
from lcjax.transform.params.tree import FunctionParams


def bound(
    model: nnx.Module,
    method: Callable[..., Any],
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[ModuleFunction, BoundCall, list[MethodCall]]:
    """Returns a method as a function, its call, and the calls of methods that it makes.

    Args:
      model: the deep model.
      method: called as `method(model, *inputs, **kwargs)`.
      inputs: arrays or ShapeDtypeStructs.
      kwargs: those given by name.

    Raises:
      CollapseError: inputs on which the model cannot run.
    """
    function, traced = (module_function(each, method) for each in (model, recordable(model)))
    params, args = FunctionParams(function.params, {}, {}), (function.states, *inputs)
    with errors_of_inputs(model, inputs, kwargs), recorded() as calls:
        call = bind_call(traced.fn, params, args, kwargs, has_state=True)
    return function, call, calls
