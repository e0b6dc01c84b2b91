"""An NNX module in, an NNX module out.

Example:
  >>> import jax, lcjax
  >>> from flax import nnx
  >>> class MLP(nnx.Module):
  ...     def __init__(self, rngs):
  ...         self.up, self.down = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)
  ...     def __call__(self, x):
  ...         return self.down(nnx.relu(self.up(x)))
  >>> model, x = MLP(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (64, 4))
  >>> lcjax.nnx.find_sites(model, x).paths
  ('up',)
  >>> compact, report = lcjax.nnx.collapse_sequential(model, [x], fit=lcjax.LeastSquares())
  >>> compact(x).shape, isinstance(compact, MLP), report.parameters_after
  ((64, 4), True, 20)
"""

from lcjax.nnx.functions import (
    add_slopes,
    calibrate,
    collapse,
    collapse_sequential,
    explain,
    find_sites,
)
from lcjax.nnx.merging import merge
from lcjax.nnx.plans import plan, plan_fits, sensitivity
from lcjax.nnx.rewritten import Slope
from lcjax.nnx.stacking import stack_layers, unstack_layers
from lcjax.nnx.trace import ModuleCall, trace

__all__ = [
    "ModuleCall",
    "Slope",
    "add_slopes",
    "calibrate",
    "collapse",
    "collapse_sequential",
    "explain",
    "find_sites",
    "merge",
    "plan",
    "plan_fits",
    "sensitivity",
    "stack_layers",
    "trace",
    "unstack_layers",
]
