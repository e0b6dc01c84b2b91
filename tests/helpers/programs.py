"""The programs that JAX runs during a call, and the precision of their products."""

import re
from collections import Counter
from contextlib import contextmanager

import jax
from jax.extend import core
from jax.extend.core.primitives import jit_p

PLATFORMS = ("cpu", "cuda", "tpu")


def marked(fn):
    """Returns a function whose products have precision HIGH, which no product of lcjax has."""

    def run(*args, **kwargs):
        with jax.default_matmul_precision("high"):
            return fn(*args, **kwargs)

    return run


@contextmanager
def recorded():
    """Yields a list: of the jaxprs of all programs that run inside, by the end.

    Operations outside of `jax.jit` are programs too. JAX runs programs past their primitive, except
    where it looks for reused keys.
    """
    found, bind = [], jit_p.bind

    def record(*args, **params):
        found.append(params["jaxpr"])
        with jax.debug_key_reuse(False):
            return bind(*args, **params)

    jax.clear_caches()
    jit_p.bind = record
    jax.config.update("jax_debug_key_reuse", True)
    try:
        yield found
    finally:
        jax.config.update("jax_debug_key_reuse", False)
        del jit_p.bind


def precisions(programs):
    """Returns how often each precision is that of a product, in StableHLO for every platform."""
    found = Counter()
    for jaxpr in dict.fromkeys(programs):
        if re.search(r"dot_general|conv_general", str(jaxpr)):
            traced = jax.jit(core.jaxpr_as_fun(jaxpr)).trace(*jaxpr.in_avals)
            found += _precisions(traced.lower(lowering_platforms=PLATFORMS).as_text())
    return found


def _precisions(text):
    lines = re.findall(r"(?:dot_general|convolution)\W.*->.*", text)
    return Counter(
        name for line in lines for name in re.findall(r"DEFAULT|HIGHEST|HIGH\b", line) or ["none"]
    )
