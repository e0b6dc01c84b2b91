"""Dense layers on flat tokens: (batch, tokens, width) becomes (batch · tokens, width) and back."""

from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn


def flat_tokens() -> AbstractContextManager[None]:
    """Inside, every `nn.Dense` is given a matrix; attention's `nn.DenseGeneral` is not.

    The gradient of its kernel is then a product over one axis. Over two, XLA copies both factors
    into another layout first. Batches are cut along their first axis alone, and stay so.
    """
    return nn.intercept_methods(_flat)


def _flat(run: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    dense = isinstance(context.module, nn.Dense) and context.method_name == "__call__"
    if not dense or not args or args[0].ndim < 3:
        return run(*args, **kwargs)
    x, *rest = args
    y = run(x.reshape(-1, x.shape[-1]), *rest, **kwargs)
    return y.reshape(*x.shape[:-1], y.shape[-1])
