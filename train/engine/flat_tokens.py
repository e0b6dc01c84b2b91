"""Runs Dense layers on flattened tokens: (batch, tokens, width) as (batch · tokens, width)."""

from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn


def flat_tokens() -> AbstractContextManager[None]:
    """Within it, every `nn.Dense` receives a matrix; attention's `nn.DenseGeneral` does not.

    The gradient of its kernel is then a product over one axis. Over two axes, XLA first copies both
    factors into another layout. The sharding along the batch axis is unchanged.
    """
    return nn.intercept_methods(_flat)


def _flat(run: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    dense = isinstance(context.module, nn.Dense) and context.method_name == "__call__"
    if not dense or not args or args[0].ndim < 3:
        return run(*args, **kwargs)
    x, *rest = args
    y = run(x.reshape(-1, x.shape[-1]), *rest, **kwargs)
    return y.reshape(*x.shape[:-1], y.shape[-1])
