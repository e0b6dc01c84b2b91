"""Products of fits and fuses have full precision, whatever a device's default is.

By default a GPU multiplies float32 in TF32 and a TPU in bfloat16. StableHLO has the precision of
every product, so these tests need neither: models are marked with HIGH, and no other product that
is compiled during a collapse may have less than HIGHEST.
"""

import ast
import re
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.algebra import fuse_dense
from lcjax.algebra.moments import measure
from tests.helpers.trees import random_chain, with_slopes

ROOMS = ("algebra", "calibration", "surgery", "structure", "planning", "folder", "io")
X = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
DATA = lcjax.CalibrationData([X], progress=False)
FITS = {
    "least squares": lcjax.LeastSquares(),
    "low rank": lcjax.LeastSquares(rank=2),
    "per unit": lcjax.PerUnit(),
    "units": lcjax.Units(4),
    "units and linear": lcjax.LeastSquares() + lcjax.Units(4),
    "exact": lcjax.Exact(max_gap=9),
}


def precisions(program):
    """Returns how often each precision is that of a product in a StableHLO program."""
    lines = re.findall(r"(?:dot_general|convolution)\W.*->.*", program)
    return Counter(
        name for line in lines for name in re.findall(r"DEFAULT|HIGHEST|HIGH\b", line) or ["none"]
    )


@contextmanager
def compiled(folder):
    """Yields a Counter: of the precisions of all that is compiled inside, by the end."""
    found = Counter()
    jax.clear_caches()
    jax.config.update("jax_dump_ir_to", str(folder))
    try:
        yield found
    finally:
        jax.config.update("jax_dump_ir_to", "")
    for file in folder.glob("*.mlir"):
        found.update(precisions(file.read_text()))


def marked(apply_fn):
    """Returns a function whose products have precision HIGH."""

    def apply(*args):
        with jax.default_matmul_precision("high"):
            return apply_fn(*args)

    return apply


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_params_trees_are_fitted_in_full_precision(name, tmp_path):
    model, variables = random_chain((13, 5), 7)
    variables, fit = jax.tree.map(jnp.asarray, with_slopes(variables, 0.2)), FITS[name]
    with compiled(tmp_path) as found:
        if name == "exact":
            lcjax.collapse(variables, fit=fit)
        else:
            lcjax.collapse_sequential(marked(model.apply), variables, DATA, fit=fit)
    assert found["HIGHEST"] or name == "per unit" and found["HIGH"], found
    assert not found["DEFAULT"] and not found["none"], found


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_functions_are_fitted_in_full_precision(name, tmp_path):
    params = {"up": jnp.asarray(X[:7, :7] * 2), "down": jnp.asarray(X[7:14, :5])}
    f = lcjax.collapsible(marked(lambda p, x: nn.gelu(x @ p["up"]) @ p["down"]))
    call = f.trace(params, X)
    with compiled(tmp_path) as found:
        if name == "exact":
            call.collapse(fit=FITS[name])
        else:
            call.collapse_sequential(DATA, fit=FITS[name])
    assert found["HIGHEST"] or name == "per unit" and found["HIGH"], found
    assert not found["DEFAULT"] and not found["none"], found


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_products_lower_in_full_precision(platform):
    first, last = ({"kernel": X[:7], "bias": X[0]}, {"kernel": X[:7], "bias": X[1]})
    programs = {
        measure: (X, X[:, :3]),
        lambda a, b: fuse_dense([a, b]): jax.tree.map(jnp.asarray, (first, last)),
    }
    for fn, args in programs.items():
        lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
        found = precisions(lowered.as_text())
        assert found["HIGHEST"] >= 4 and set(found) == {"HIGHEST"}, found


def test_every_product_says_its_precision():
    products = {"dot", "matmul", "einsum", "tensordot", "vdot", "inner", "dot_general"}
    missing = []
    for room in ROOMS:
        for file in (Path(lcjax.__file__).parent / room).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text())):
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                    continue
                if call.func.attr in products and ast.unparse(call.func.value) != "np":
                    if "precision" not in {each.arg for each in call.keywords}:
                        missing.append(f"{file.name}:{call.lineno}")
    assert not missing
