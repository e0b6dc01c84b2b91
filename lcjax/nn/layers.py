"""Multi-layer perceptrons that run whichever form, deep or compact, their params hold."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from lcjax.errors import CollapseError
from lcjax.nn.activations import Activation, CollapsibleActivation, CollapsibleGate
from lcjax.validation.arguments import check_activation, check_features

# Surgery folds a batch norm by this ε, which no tree holds.
NORM_EPSILON = 1e-5

Initializer = Callable[..., Any]


def _held(module: nn.Module, collection: str = "params") -> Mapping[str, Any]:
    return meta.unbox(module.variables.get(collection, {}))


def _where(module: nn.Module, child: str) -> str:
    return "/".join((*module.path, child))


def _check_has_params(module: nn.Module, held: Mapping[str, Any]):
    if not held and not module.is_initializing() and not module.is_mutable_collection("params"):
        raise CollapseError(
            f"{'/'.join(module.path) or type(module).__name__}: the variables hold no params of "
            "this module; expected variables with a collection 'params'. Pass what init returned, "
            "or {'params': params}."
        )


class CollapsibleMLP(nn.Module):
    """A chain of Dense layers with collapsible activations between them.

    The params decide what runs: at every place i a Dense and its activation (deep), the Dense alone
    (its activation collapsed, kept as a factor), or nothing (fused into the next Dense that is
    held). `init` builds the deep form; `lcjax.collapse` makes the others.

    Inside `nn.scan` stack params along the first axis, `variable_axes={"params": 0}`: a slope is a
    scalar, so Flax cannot stack it along axis 1 (it raises an AssertionError without a message).

    Children: `dense_i`, `act_i`, and with a norm `norm_i`. At each place the order is Dense,
    activation, norm, dropout; the last Dense has none of the three.

    Attributes:
      features: output widths of the Dense layers, the last one included.
      activation: elementwise function σ of `a(z) = α z + (1 − α) σ(z)`.
      norm: None, or "batch" for batch normalisation over all axes but the last; its statistics are
        updated where `deterministic` is False and "batch_stats" is mutable.
      dropout: fraction of hidden units dropped in training, 0 to 1.
      use_bias: whether `init` gives the Dense layers biases. Afterwards the params decide.
      dtype: computation dtype; None takes the common dtype of inputs and params.
      param_dtype: dtype of kernels and biases at `init`; slopes are float32 always.
      kernel_init: initializer of the kernels; may return boxed (partitioned) values.
      bias_init: initializer of the biases; may return boxed values.

    Raises:
      CollapseError: when the params are half collapsed or of another width; names the path.

    References:
      Shabgahi, Shariff and Koushanfar 2023, arXiv 2311.17943, sections 3 and 4.
    """

    features: Sequence[int]
    activation: Activation = nn.gelu
    norm: Literal["batch"] | None = None
    dropout: float = 0.0
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Maps x (..., d_in) to (..., features[-1]); deterministic turns dropout off.

        Batch normalisation uses stored statistics where `deterministic` is True.
        """
        self._check_fields()
        held = _held(self)
        _check_has_params(self, held)
        last = len(self.features) - 1
        deep = not any(f"{kind}_{i}" in held for kind in ("dense", "act") for i in range(last + 1))
        if not deep:
            self._check_held(held)
        for i, width in enumerate(self.features):
            bias = self.use_bias
            if not deep:
                if f"dense_{i}" not in held:
                    continue
                width = held[f"dense_{i}"]["kernel"].shape[-1]
                bias = "bias" in held[f"dense_{i}"]
            x = self._dense(i, width, bias)(x)
            if i < last and (deep or f"act_{i}" in held):
                x = self._after(i, x, deterministic)
        return x

    def _dense(self, i: int, width: int, bias: bool) -> nn.Dense:
        return nn.Dense(
            width,
            use_bias=bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name=f"dense_{i}",
        )

    def _after(self, i: int, x: jax.Array, deterministic: bool) -> jax.Array:
        x = CollapsibleActivation(self.activation, name=f"act_{i}")(x)
        if self.norm is not None:
            norm = nn.BatchNorm(
                use_running_average=deterministic,
                momentum=0.9,
                epsilon=NORM_EPSILON,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"norm_{i}",
            )
            x = norm(x)
        if self.dropout:
            x = nn.Dropout(self.dropout, name=f"dropout_{i}")(x, deterministic=deterministic)
        return x

    def _check_fields(self):
        check_features(self.features, "CollapsibleMLP")
        check_activation(self.activation, "CollapsibleMLP")
        if not self.features:
            raise ValueError("CollapsibleMLP: features is empty, at least one width is needed.")
        if self.norm not in (None, "batch"):
            raise ValueError(f"CollapsibleMLP: norm is {self.norm!r}, must be None or 'batch'.")

    def _check_held(self, held: Mapping[str, Any]):
        """Raises unless params hold a form that collapse can have made."""
        last = len(self.features) - 1
        # A shared scope may hold another module's norm_i: ours has statistics, or norm is given.
        norms = set(_held(self, "batch_stats")) | (set(held) if self.norm else set())
        for i, width in enumerate(self.features):
            dense, act, norm = f"dense_{i}", f"act_{i}" in held, f"norm_{i}" in norms
            if dense in held:
                stored = held[dense]["kernel"].shape[-1]
                if stored != width and (act or i == last):
                    raise CollapseError(
                        f"{_where(self, dense)}: the kernel is {stored} wide in params, "
                        f"features[{i}] is {width}. Give the module the features that the params "
                        "were made with."
                    )
            elif act or i == last:
                child = f"act_{i}" if act else "the chain"
                raise CollapseError(
                    f"{_where(self, dense)}: {child} is held without it: params are half "
                    "collapsed. Restore a tree that lcjax.collapse or init made."
                )
            if norm and not act:
                raise CollapseError(
                    f"{_where(self, f'norm_{i}')}: held without act_{i}: params or batch_stats "
                    "are half collapsed. Collapse the whole variables, batch_stats included."
                )
            if act and norm != (self.norm is not None):
                state = "held" if norm else "not held"
                raise CollapseError(
                    f"{_where(self, f'norm_{i}')}: {state}, though act_{i} is held and norm is "
                    f"{self.norm!r}. Give the module the norm that the params were made with."
                )


class CollapsibleGLU(nn.Module):
    """A gated MLP, `down((1 − α) σ(gate(x)) ⊙ up(x) + α up(x))`, that params may hold collapsed.

    Children `gate`, `up`, `act` and `down`. Collapsed, the gate is gone; `up` and `down` stay as
    factors, or `down` alone holds their product where that is smaller.

    Attributes:
      hidden: width between up and down.
      features: output width.
      activation: elementwise σ of the gate; `nn.silu` gives SwiGLU, `nn.gelu` GEGLU.
      use_bias: whether `init` gives the three Dense layers biases; afterwards the params decide.
      dtype: computation dtype; None takes the common dtype of inputs and params.
      param_dtype: dtype of kernels and biases at `init`; the slope is float32 always.
      kernel_init: initializer of the kernels; may return boxed values.
      bias_init: initializer of the biases; may return boxed values.

    Raises:
      CollapseError: when the params are half collapsed or of another width; names the path.

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

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Maps x (..., d_in) to (..., features); `deterministic` is accepted and changes nothing.

        It stands there so that a CollapsibleGLU can take a CollapsibleMLP's place.
        """
        check_activation(self.activation, "CollapsibleGLU")
        held = _held(self)
        _check_has_params(self, held)
        children = [name for name in ("gate", "up", "act", "down") if name in held]
        deep = not children or len(children) == 4
        if not deep and children not in (["up", "down"], ["down"]):
            raise CollapseError(
                f"{_where(self, '')}: params hold {children} of gate, up, act, down: half "
                "collapsed. Restore a tree that lcjax.collapse or init made."
            )
        if "act" in held:
            self._check_width(held, "gate", self.hidden)
            self._check_width(held, "up", self.hidden)
        if "down" in held:
            self._check_width(held, "down", self.features)
        if deep:
            gate = self._dense("gate", self.hidden, held)(x)
            x = self._dense("up", self.hidden, held)(x)
            x = CollapsibleGate(self.activation, name="act")(gate, x)
        elif "up" in held:
            x = self._dense("up", held["up"]["kernel"].shape[-1], held)(x)
        return self._dense("down", self.features, held)(x)

    def _dense(self, name: str, width: int, held: Mapping[str, Any]) -> nn.Dense:
        return nn.Dense(
            width,
            use_bias="bias" in held[name] if name in held else self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name=name,
        )

    def _check_width(self, held: Mapping[str, Any], name: str, width: int):
        stored = held[name]["kernel"].shape[-1]
        if stored != width:
            raise CollapseError(
                f"{_where(self, name)}: the kernel is {stored} wide in params, the module says "
                f"{width}. Give the module the widths that the params were made with."
            )
