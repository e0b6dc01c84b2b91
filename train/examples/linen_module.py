"""Compact params through an unchanged linen model: `python -m train.examples.linen_module`."""

from typing import Any

import flax.linen as nn
import jax

import lcjax


class Model(nn.Module):
    """A residual network as one writes it without lcjax."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the stream after three MLPs."""
        for _ in range(3):
            x = x + nn.Dense(32)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))
        return x


def main() -> tuple[Any, Any]:
    """Returns the model's variables and the smaller ones."""
    batches = [jax.random.normal(jax.random.key(i), (64, 32)) for i in range(4)]
    variables = Model().init(jax.random.key(0), batches[0])

    model = lcjax.linen.Collapsed(Model())  # in the place of the model, for trainers and samplers
    call = model.trace(variables, batches[0])
    print(call.sites)
    plan = call.plan_fits(batches, budget=lcjax.Params(0.6))
    compact, report = call.collapse_sequential(batches, fit=plan.fits)
    print(report)
    model.apply(compact, batches[0])
    return variables, compact


if __name__ == "__main__":
    main()
