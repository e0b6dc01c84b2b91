"""A gated multi-layer perceptron whose params decide its form: gated or collapsed."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.nn.activations import Activation, CollapsibleGate, SlopePer
from lcjax.nn.bypass import Bypass
from lcjax.nn.stored import Initializer, check_has_params, child_path, stored_in, stored_width
from lcjax.validation.arguments import check_activation


class CollapsibleGLU(nn.Module):
    """A gated MLP, `down((1 − α) σ(gate(x)) ⊙ up(x) + α up(x))`, or its collapsed form.

    The children are `gate`, `up`, `act` and `down`. A collapse removes the gate; `up` and `down`
    remain as factors, or `down` alone is their product where that is smaller. `gate_in`, `up_in`
    and `down_in`, each a Dense without bias, run before the child whose name they begin with, where
    its kernel is two factors. Where params have
    `bypass`, its affine map of x is added to the output, and the hidden units may be fewer than
    `hidden`, or none.

    Attributes:
      hidden: width between up and down.
      features: output width.
      activation: elementwise σ of the gate; `nn.silu` gives SwiGLU, `nn.gelu` GEGLU.
      use_bias: whether `init` gives the three Dense layers biases; afterwards the params decide.
      dtype: computation dtype; None takes the common dtype of inputs and params.
      param_dtype: dtype of kernels and biases at `init`; the slope is always float32.
      kernel_init: initializer of the kernels; may return boxed values.
      bias_init: initializer of the biases; may return boxed values.
      slope_per: as for `CollapsibleMLP`.

    Raises:
      CollapseError: if the params are half collapsed or of another width; names the path.

    Example:
      >>> import jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleGLU(hidden=16, features=4)
      >>> sorted(model.init(jax.random.key(0), jnp.ones((1, 8)))["params"])
      ['act', 'down', 'gate', 'up']

    References:
      Shazeer 2020, arXiv 2002.05202, equation 6.
    """

    hidden: int
    features: int
    activation: Activation = nn.silu
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()
    slope_per: SlopePer = "site"

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Maps x (..., d_in) to (..., features); `deterministic` has no effect.

        It is accepted so that a CollapsibleGLU can replace a CollapsibleMLP.
        """
        check_activation(self.activation, "CollapsibleGLU")
        params = stored_in(self)
        check_has_params(self, params)
        children = [name for name in ("gate", "up", "act", "down") if name in params]
        narrowed = "bypass" in params
        factors = {name for name in ("gate_in", "up_in", "down_in") if name in params}
        deep = len(children) == 4 or not (children or narrowed or factors)
        collapsed = children in (["up", "down"], ["down"]) and "gate_in" not in factors
        if not (deep or collapsed or (narrowed and not children and not factors)):
            raise CollapseError(
                f"{child_path(self, '')}: params have {[*children, *sorted(factors)]} of gate, up, "
                "act, down: half collapsed. Restore a tree that lcjax.collapse or init made."
            )
        if "act" in params and not narrowed:
            self._check_width(params, "gate", self.hidden)
            self._check_width(params, "up", self.hidden)
        if "down" in params:
            self._check_width(params, "down", self.features)
        bypass = Bypass(dtype=self.dtype, name="bypass") if narrowed else None
        if bypass is not None and not children:
            return bypass(None, x)
        source = self._factor("up", params, x)
        if deep:
            gate = self._dense("gate", self.hidden, params)(self._factor("gate", params, x))
            act = CollapsibleGate(self.activation, slope_per=self.slope_per, name="act")
            x = act(gate, self._dense("up", self.hidden, params)(source))
        else:
            x = self._dense("up", self.hidden, params)(source) if "up" in params else source
        y = self._factor("down", params, x)
        if bypass is not None and "down_in" in params:
            y, bypass = bypass(y, source), None
        y = self._dense("down", self.features, params)(y)
        return y if bypass is None else bypass(y, source)

    def _factor(self, name: str, params: Mapping[str, Any], x: jax.Array) -> jax.Array:
        """Returns the output of the factor before a child; x where params have none."""
        factor = f"{name}_in"
        return self._dense(factor, 0, params)(x) if factor in params else x

    def _dense(self, name: str, width: int, params: Mapping[str, Any]) -> nn.Dense:
        """Returns a Dense as it is in params, or one of this width."""
        return nn.Dense(
            stored_width(params, name) if name in params else width,
            use_bias="bias" in params[name] if name in params else self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name=name,
        )

    def _check_width(self, params: Mapping[str, Any], name: str, width: int):
        stored = stored_width(params, name)
        if stored != width:
            raise CollapseError(
                f"{child_path(self, name)}: the kernel is {stored} wide in params, the module says "
                f"{width}. Give the module the widths that the params were made with."
            )
