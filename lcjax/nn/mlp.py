"""A multi-layer perceptron whose params decide its form: deep or collapsed."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError
from lcjax.nn.activations import Activation, CollapsibleActivation, SlopePer
from lcjax.nn.bypass import Bypass
from lcjax.nn.stored import Initializer, check_has_params, child_path, stored_in, stored_width
from lcjax.validation.arguments import check_activation, check_features

# Surgery folds a batch norm with this ε, which no tree contains.
NORM_EPSILON = 1e-5


class CollapsibleMLP(nn.Module):
    """A chain of Dense layers with collapsible activations between them.

    The params decide what runs at each place i: a Dense and its activation (deep), the Dense alone
    (its activation collapsed, its kernel kept as a factor), or nothing (fused into the next Dense).
    `init` builds the deep form; `lcjax.collapse` makes the others. Where params have `bypass_i`,
    its affine map of the input of `dense_i` is added to the output of the next Dense, and `dense_i`
    may be narrower than `features` or, if the chain ends there, absent. `dense_i_in`, a Dense
    without bias, runs before `dense_i` where the kernel of that layer is two factors.

    Inside `nn.scan` stack params along the first axis, `variable_axes={"params": 0}`: a slope of a
    site is a scalar, which Flax cannot stack along axis 1 (it raises an AssertionError without a
    message).

    The children are `dense_i`, `act_i`, and with a norm `norm_i`. The order at each place is Dense,
    activation, norm, dropout; the last Dense has none of the three.

    Attributes:
      features: output widths of all Dense layers.
      activation: elementwise function σ of `a(z) = α z + (1 − α) σ(z)`.
      norm: None, or "batch" for batch normalisation over all axes but the last; its statistics are
        updated if `deterministic` is False and "batch_stats" is mutable.
      dropout: fraction of hidden units dropped in training, 0 to 1.
      use_bias: whether `init` gives the Dense layers biases. Afterwards the params decide.
      dtype: computation dtype; None takes the common dtype of inputs and params.
      param_dtype: dtype of kernels and biases at `init`; slopes are always float32.
      kernel_init: initializer of the kernels; may return boxed (partitioned) values.
      bias_init: initializer of the biases; may return boxed values.
      slope_per: whether `init` gives one slope for each "site", or one for each hidden "unit";
        afterwards the params decide.

    Raises:
      CollapseError: if the params are half collapsed or of another width; names the path.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, lcjax
      >>> model = lcjax.CollapsibleMLP((16, 4), nn.relu)
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 8)))["params"]
      >>> sorted(params)
      ['act_0', 'dense_0', 'dense_1']

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
    slope_per: SlopePer = "site"

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Maps x (..., d_in) to (..., features[-1]); deterministic turns dropout off.

        Batch normalisation uses stored statistics if `deterministic` is True.
        """
        self._check_fields()
        params = stored_in(self)
        check_has_params(self, params)
        last = len(self.features) - 1
        kinds = ("dense_{}", "dense_{}_in", "act_{}", "bypass_{}")
        deep = not any(kind.format(i) in params for kind in kinds for i in range(last + 1))
        if not deep:
            self._check_form(params)
        start: tuple[int, jax.Array] | None = None  # of a pair with a bypass: place and input
        for i, width in enumerate(self.features):
            source = x
            for name in (f"dense_{i}_in", f"dense_{i}"):
                if name in params or (deep and name == f"dense_{i}"):
                    source, x = x, self._dense(name, width, params)(x)
                    if start is not None:
                        x, start = self._bypass(*start, x), None
            if i < last and (deep or f"act_{i}" in params):
                x = self._after(i, x, deterministic)
            if f"bypass_{i}" in params:
                start = (i, source)
        return x if start is None else self._bypass(*start, None)

    def _bypass(self, i: int, source: jax.Array, y: jax.Array | None) -> jax.Array:
        return Bypass(dtype=self.dtype, name=f"bypass_{i}")(y, source)

    def _dense(self, name: str, width: int, params: Mapping[str, Any]) -> nn.Dense:
        """Returns a Dense as it is in params, or one of a deep module, of this width."""
        stored = name in params
        return nn.Dense(
            stored_width(params, name) if stored else width,
            use_bias="bias" in params[name] if stored else self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name=name,
        )

    def _after(self, i: int, x: jax.Array, deterministic: bool) -> jax.Array:
        x = CollapsibleActivation(self.activation, slope_per=self.slope_per, name=f"act_{i}")(x)
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
            raise ValueError("CollapsibleMLP: features is empty; expected at least one width.")
        if self.norm not in (None, "batch"):
            raise ValueError(f"CollapsibleMLP: norm is {self.norm!r}; expected None or 'batch'.")

    def _check_form(self, params: Mapping[str, Any]):
        """Raises unless the params have a form that `init` or collapse makes."""
        last = len(self.features) - 1
        # In a shared scope norm_i may be of another module: ours has statistics, or norm is given.
        norms = set(stored_in(self, "batch_stats")) | (set(params) if self.norm else set())
        for i, width in enumerate(self.features):
            dense, act, norm = f"dense_{i}", f"act_{i}" in params, f"norm_{i}" in norms
            bypass, ends = f"bypass_{i}", i == last and not self._ends_in_bypass(params)
            if bypass in params:
                self._check_bypass(params, i)
            if dense in params:
                stored = stored_width(params, dense)
                if stored != width and (ends or (act and bypass not in params)):
                    raise CollapseError(
                        f"{child_path(self, dense)}: the kernel is {stored} wide in params, "
                        f"features[{i}] is {width}. Give the module the features that the params "
                        "were made with."
                    )
            elif act or ends:
                reason = f"params have act_{i}" if act else "it is the last Dense"
                raise CollapseError(
                    f"{child_path(self, dense)}: missing, though {reason}: params are half "
                    "collapsed. Restore a tree that lcjax.collapse or init made."
                )
            if norm and not act:
                raise CollapseError(
                    f"{child_path(self, f'norm_{i}')}: found without act_{i}: params or "
                    "batch_stats are half collapsed. Collapse the whole variables, batch_stats "
                    "included."
                )
            if act and norm != (self.norm is not None):
                state = "found" if norm else "missing"
                raise CollapseError(
                    f"{child_path(self, f'norm_{i}')}: {state}, though params have act_{i} and "
                    f"norm is {self.norm!r}. Give the module the norm that the params were made "
                    "with."
                )

    def _ends_in_bypass(self, params: Mapping[str, Any]) -> bool:
        """Whether the last pair is replaced by its bypass alone."""
        places = [i for i in range(len(self.features)) if f"dense_{i}" in params]
        bypasses = [i for i in range(len(self.features)) if f"bypass_{i}" in params]
        return bool(bypasses) and bypasses[-1] > max(places, default=-1)

    def _check_bypass(self, params: Mapping[str, Any], i: int):
        """Raises unless the output of a bypass is added to that of a Dense, or ends the chain."""
        width = params[f"bypass_{i}"]["bias"].shape[-1]
        places = range(i + 1, len(self.features))
        names = (name for j in places for name in (f"dense_{j}_in", f"dense_{j}"))
        later = [name for name in names if name in params]
        if later and f"act_{i}" not in params:
            raise CollapseError(
                f"{child_path(self, f'bypass_{i}')}: found without act_{i}, though params have "
                f"{later[0]}: half collapsed. Restore a tree that lcjax.collapse made."
            )
        expected = stored_width(params, later[0]) if later else self.features[-1]
        if width != expected or i == len(self.features) - 1:
            raise CollapseError(
                f"{child_path(self, f'bypass_{i}')}: got a bias of width {width}, expected "
                f"{expected}, the width that it is added to, and a later place in features: params "
                "are half collapsed. Restore a tree that lcjax.collapse made."
            )
