"""An NNX module in, a smaller NNX module out: `python -m train.examples.nnx_module`."""

import jax
from flax import nnx

import lcjax


class Block(nnx.Module):
    """A residual block as one writes it without lcjax."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.up = nnx.Linear(32, 128, rngs=rngs)
        self.down = nnx.Linear(128, 32, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the stream with what the MLP adds."""
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


def main() -> tuple[nnx.Module, nnx.Module]:
    """Returns the model and the smaller one."""
    model = nnx.Sequential(*(Block(nnx.Rngs(i)) for i in range(3)))
    batches = [jax.random.normal(jax.random.key(i), (64, 32)) for i in range(4)]

    print(lcjax.nnx.find_sites(model, batches[0]))
    plan = lcjax.nnx.plan_fits(model, batches, budget=lcjax.Params(0.6))
    small, report = lcjax.nnx.collapse_sequential(model, batches, fit=plan.fits)
    print(report)
    small(batches[0])  # and nnx.Optimizer, nnx.jit, nnx.split, qwix, orbax …
    return model, small


if __name__ == "__main__":
    main()
