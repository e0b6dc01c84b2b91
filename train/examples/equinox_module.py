"""An Equinox model in, a smaller one out: `python -m train.examples.equinox_module`."""

from typing import Any

import equinox as eqx
import jax

import lcjax


def main() -> tuple[Any, Any]:
    """Returns the model and the smaller one."""
    model = eqx.nn.MLP(32, 10, width_size=128, depth=3, key=jax.random.key(0))
    batches = [jax.random.normal(jax.random.key(i), (64, 32)) for i in range(4)]

    def batched(model: Any, x: jax.Array) -> jax.Array:
        return jax.vmap(model)(x)

    call = lcjax.eqx.trace(model, batches[0], fn=batched)
    print(call.sites)
    plan = call.plan_fits(batches, budget=lcjax.Params(0.6))
    small, report = call.collapse_sequential(batches, fit=plan.fits)
    print(report)
    batched(small, batches[0])
    return model, small


if __name__ == "__main__":
    main()
