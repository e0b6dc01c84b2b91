"""Trees for tests: chains of any length and norm, with given slopes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcjax import CollapsibleMLP
from lcjax.tree.paths import is_slope, site_of


def with_slopes(variables, slopes):
    """Returns the variables with slopes set: a dict by site path, or one number for all sites."""

    def place(keys, leaf):
        if not is_slope(keys):
            return leaf
        value = slopes.get(site_of(keys)) if isinstance(slopes, dict) else slopes
        return leaf if value is None else jnp.full_like(leaf, value)

    return jax.tree_util.tree_map_with_path(place, variables)


def random_chain(features, d_in, *, bias=True, norm=None, seed=0, dtype=np.float32):
    """Returns a CollapsibleMLP and variables of it with slopes 1 and everything else random.

    Made in NumPy: nothing is compiled, and float64 works without jax_enable_x64.
    """
    rng = np.random.default_rng(seed)
    model = CollapsibleMLP(features, nn.relu, norm=norm, use_bias=bias)
    params, stats = {}, {}
    norm_dtype = np.float64 if dtype == np.float64 else np.float32
    for i, width in enumerate(features):
        kernel = rng.normal(size=(d_in, width)) / np.sqrt(d_in)
        params[f"dense_{i}"] = {"kernel": kernel.astype(dtype)}
        if bias:
            params[f"dense_{i}"]["bias"] = rng.normal(size=width).astype(dtype)
        if i < len(features) - 1:
            params[f"act_{i}"] = {"slope": np.float32(1)}
            if norm:
                scale, shift, mean = rng.normal(size=(3, width)).astype(norm_dtype)
                params[f"norm_{i}"] = {"scale": scale, "bias": shift}
                var = rng.uniform(0.5, 2, size=width).astype(norm_dtype)
                stats[f"norm_{i}"] = {"mean": mean, "var": var}
        d_in = width
    return model, {"params": params} | ({"batch_stats": stats} if norm else {})
