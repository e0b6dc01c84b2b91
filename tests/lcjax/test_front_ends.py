"""Properties of surgery that a params tree and a traced function share, on the same networks."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

import lcjax
from lcjax.tree.paths import is_slope
from tests.helpers.front_ends import (
    BATCHES,
    DATA,
    FRONT_ENDS,
    NETS,
    X,
    as_params_tree,
    as_traced,
    variables_of,
    without_slopes,
)
from tests.helpers.tolerance import assert_close
from tests.helpers.trees import with_slopes

EXACT = lcjax.Exact(max_gap=np.inf)
RIDGE = 0.01
both = pytest.mark.parametrize("make", FRONT_ENDS.values(), ids=FRONT_ENDS)
QUICK = ("chain", "GLU")  # the others compile more
nets = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NETS]
)


def shapes(tree):
    return jax.tree.map(lambda leaf: (tuple(leaf.shape), leaf.dtype), tree)


def count(tree):
    """Returns the number of parameters, slopes left out."""
    flat = jax.tree_util.tree_leaves_with_path(tree.get("params", tree))
    return sum(leaf.size for keys, leaf in flat if not is_slope(keys))


def compact_of(front, tree, fit, sites=None, data=DATA):
    calibration = front.calibrate(tree, data, sites, fit)
    return front.collapse(tree, calibration=calibration)


def ridge(x, t, weights):
    """Ridge regression in float64 (kernel, bias), as LeastSquares(ridge=RIDGE) defines it."""
    x, t = (np.asarray(each, np.float64).reshape(-1, each.shape[-1]) for each in (x, t))
    dx, dt = x - x.mean(0), t - t.mean(0)
    variances = (dx**2).mean(0)
    share = variances * (np.asarray(weights, np.float64) ** 2).sum(1)
    penalty = RIDGE * variances * np.maximum(1, 0.3 * share.mean() / share)
    kernel = np.linalg.solve(dx.T @ dx / len(x) + np.diag(penalty), dx.T @ dt / len(x))
    return kernel, t.mean(0) - x.mean(0) @ kernel


def readers(variables, i):
    """The kernels that a block's input flows into, side by side."""
    p = variables["params"][f"block_{i}"]
    names = ("up", "gate") if "gate" in p else ("dense_0",)
    return np.concatenate([p[name]["kernel"] for name in names], axis=1)


@pytest.mark.slow
@both
@nets
def test_exact_collapse_equals_the_deep_model_at_slope_1(make, name):
    front = make(NETS[name])
    linear = with_slopes(front.tree, 1.0)
    compact, report = front.collapse(linear)
    assert_close(front.run(compact, X), front.run(linear, X), dtype=np.float32, terms=2000)
    assert report.collapsed == front.sites(linear).paths and not front.sites(compact)
    assert report.parameters_after < report.parameters_before == count(linear)
    assert report.parameters_after == count(compact)


@both
@nets
def test_collapsing_sites_one_after_another_equals_all_at_once(make, name):
    front = make(NETS[name])
    linear = with_slopes(front.tree, 1.0)
    compact = linear
    for site in reversed(front.sites(linear).paths):
        compact, _ = front.collapse(compact, site)
    at_once, _ = front.collapse(linear)
    assert_close(front.run(compact, X), front.run(at_once, X), dtype=np.float32, terms=2000)
    assert sorted(leaf.size for leaf in jax.tree.leaves(compact)) == sorted(
        leaf.size for leaf in jax.tree.leaves(at_once)
    )


@both
@nets
def test_abstract_collapse_has_the_shapes_of_collapse(make, name):
    front = make(NETS[name])
    first = front.sites(front.tree).paths[:1]
    compact, report = front.collapse(front.tree, first, EXACT)
    abstract, abstract_report = front.abstract_collapse(front.tree, first)
    assert shapes(abstract) == shapes(compact)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract))
    for field in ("collapsed", "new_leaves", "parameters_after", "flops_before", "flops_after"):
        assert getattr(abstract_report, field) == getattr(report, field)


@both
@pytest.mark.parametrize(
    "name", ["chain", pytest.param("batch norm", marks=pytest.mark.slow), "GLU"]
)
def test_least_squares_equals_a_float64_ridge(make, name):
    net, front = NETS[name], make(NETS[name])
    tree = with_slopes(front.tree, 0.2)
    target = front.run(tree, X) - (X if net.residual else 0)
    compact, report = compact_of(front, tree, lcjax.LeastSquares(ridge=RIDGE))
    kernel, bias = ridge(X, target, readers(variables_of(net), 0))
    fitted = np.asarray(X, np.float64) @ kernel + bias + (X if net.residual else 0)
    assert_close(front.run(compact, X), fitted, dtype=np.float32, terms=5000)
    (fit,) = report.fits
    assert (fit.tokens, fit.held_out_tokens) == (X.shape[0] * X.shape[1], 0)


@pytest.mark.slow
@both
def test_sequential_fits_make_up_for_earlier_ones(make):
    net, front = NETS["two blocks"], make(NETS["two blocks"])
    variables = without_slopes(variables_of(net))
    fit = lcjax.LeastSquares(ridge=RIDGE)
    compact, report = front.collapse_sequential(front.tree, DATA, fit=fit)
    assert len(report.fits) == 2
    deep = X + net.block(variables, 0, X)
    kernel, bias = ridge(X, deep - X, readers(variables, 0))
    now = np.asarray(X, np.float64) @ kernel + bias + np.asarray(X)
    out = deep + net.block(variables, 1, deep)
    kernel, bias = ridge(now, out - now, readers(variables, 1))
    expected = now + now @ kernel + bias
    assert_close(front.run(compact, X), expected, dtype=np.float32, terms=20_000)


@pytest.mark.slow
@both
@pytest.mark.parametrize("name", ["chain", "GLU"])
def test_per_unit_fit_equals_a_float64_regression_of_every_unit(make, name):
    net, front = NETS[name], make(NETS[name])
    compact, report = compact_of(front, front.tree, lcjax.PerUnit(), front.sites(front.tree)[:1])
    assert report.fits[0].fit == "per_unit"
    p, x = variables_of(net)["params"]["block_0"], np.asarray(X, np.float64)
    dense = lambda name, x: x @ np.asarray(p[name]["kernel"], np.float64) + p[name].get("bias", 0)
    if name == "GLU":
        z = dense("up", x)
        expected = x + dense("down", regressed(z, nn.silu(dense("gate", x)) * z))
    else:
        z = dense("dense_0", x)
        expected = dense("dense_2", nn.gelu(dense("dense_1", regressed(z, nn.gelu(z)))))
    assert_close(front.run(compact, X), expected, dtype=np.float32, terms=5000)


def regressed(z, a):
    """Regression of a on z in float64, each unit alone."""
    z, a = np.asarray(z, np.float64), np.asarray(a, np.float64)
    mean = lambda v: v.mean((0, 1))
    gain = mean((z - mean(z)) * (a - mean(a))) / mean((z - mean(z)) ** 2)
    return gain * (z - mean(z)) + mean(a)


# test_front_ends_agree has the other networks as functions.
ON_BATCHES = [(as_params_tree, name) for name in NETS] + [(as_traced, name) for name in QUICK]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name"), ON_BATCHES)
@pytest.mark.parametrize("fit", [lcjax.LeastSquares(), lcjax.PerUnit()], ids=lambda fit: fit.name)
def test_one_batch_equals_many(make, name, fit):
    front = make(NETS[name])
    one = lcjax.CalibrationData([X], holdout=0.0, progress=False)
    many, _ = compact_of(front, front.tree, fit)
    single, _ = compact_of(front, front.tree, fit, data=one)
    assert_close(front.run(many, X), front.run(single, X), dtype=np.float32, terms=50_000)


FITS = [
    lcjax.LeastSquares(),
    lcjax.PerUnit(),
    lcjax.Units(2),
    lcjax.LeastSquares() + lcjax.Units(2),
    lcjax.Remove(),
]


@pytest.mark.slow
@nets
@pytest.mark.parametrize("fit", FITS, ids=lambda fit: f"{fit.name} {getattr(fit, 'linear', '')}")
def test_front_ends_agree(name, fit):
    trees, reports = [], []
    for make in FRONT_ENDS.values():
        front = make(NETS[name])
        compact, report = front.collapse_sequential(front.tree, DATA, fit=fit)
        assert report.parameters_after == count(compact)
        trees.append(front.run(compact, X))
        reports.append(report)
    assert_close(*trees, dtype=np.float32, terms=50_000)
    first, second = reports
    assert first.flops_before == second.flops_before and first.flops_after == second.flops_after
    if name != "batch norm":  # its statistics are params of the function, not of the module
        assert first.parameters_before == second.parameters_before
    if name != "batch norm" or first.collapsed:
        assert first.parameters_after == second.parameters_after
    for one, other in zip(first.fits, second.fits, strict=True):
        assert one.r2 == pytest.approx(other.r2, abs=1e-4) and one.tokens == other.tokens


CHOICES = {
    "units and then a matrix": ({0: lcjax.Units(6), 1: lcjax.LeastSquares()}, {}),
    "a matrix and then units": ({0: lcjax.LeastSquares(), 1: lcjax.Units(5)}, {}),
    "a map next to units, then a matrix": (
        {0: lcjax.LeastSquares() + lcjax.Units(6), 1: lcjax.LeastSquares()},
        {},
    ),
    "fewer units afterwards": (
        {0: lcjax.Units(6), 1: lcjax.Units(5)},
        {0: lcjax.Units(4), 1: lcjax.Units(3)},
    ),
    "one matrix afterwards": (
        {i: lcjax.LeastSquares() + lcjax.Units(5) for i in (0, 1)},
        {i: lcjax.LeastSquares() for i in (0, 1)},
    ),
    "gains afterwards": ({0: lcjax.Units(6), 1: lcjax.Units(5)}, {0: lcjax.PerUnit()}),
}


@pytest.mark.parametrize(
    "choice", [pytest.param(c, marks=() if "map" in c else pytest.mark.slow) for c in CHOICES]
)
def test_front_ends_agree_on_neighbours(choice):
    outputs, sizes = [], []
    for make in FRONT_ENDS.values():
        front = make(NETS["chain"])
        tree = front.tree
        for fits in filter(None, CHOICES[choice]):
            paths = front.sites(tree).paths
            by_site = {paths[i]: fit for i, fit in fits.items()}
            tree, report = front.collapse_sequential(tree, DATA, fit=by_site)
            sizes.append((report.parameters_before, report.parameters_after, report.flops_after))
            assert report.parameters_after == count(tree)
        outputs.append(front.run(tree, X))
    assert_close(*outputs, dtype=np.float32, terms=50_000)
    half = len(sizes) // 2
    assert sizes[:half] == sizes[half:]


@pytest.mark.slow
@both
@nets
def test_all_units_are_the_identity(make, name):
    front = make(NETS[name])
    tree = with_slopes(front.tree, 0.2)
    widths = {site.path: site.d_hidden for site in front.sites(tree)}
    fits = {path: lcjax.Units(width) for path, width in widths.items()}
    compact, report = front.collapse_sequential(tree, DATA, fit=fits)
    assert_close(front.run(compact, X), front.run(tree, X), dtype=np.float32, terms=2000)
    assert not report.collapsed


@pytest.mark.slow
@both
def test_more_units_explain_more(make):
    front = make(NETS["GLU"])
    (site,) = front.sites(front.tree).paths
    stats = front.calibrate(front.tree, DATA, site, lcjax.Units(1, ridge=0.0))
    explained = [
        front.collapse(front.tree, fit=lcjax.Units(k, ridge=0.0), calibration=stats)[1].fits[0].r2
        for k in range(1, 17)
    ]
    assert explained == sorted(explained)


@pytest.mark.slow
def test_one_device_equals_eight():
    """In a process of its own, with simulated devices."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.lcjax.test_front_ends"],
        env=os.environ | flags,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def compare_devices():
    """Checks that data that is sharded over all devices gives the fits of one device."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = lambda batch: jax.device_put(batch, jax.NamedSharding(mesh, jax.P("data")))
    sharded = lcjax.CalibrationData(list(map(place, BATCHES)), holdout=0.0, progress=False)
    for make in FRONT_ENDS.values():
        for name in ("chain", "two blocks"):
            front = make(NETS[name])
            tree = jax.device_put(front.tree, jax.NamedSharding(mesh, jax.P()))
            last = front.sites(front.tree).paths[-1:]
            for fit, sites in ((lcjax.LeastSquares(), None), (lcjax.Units(3, linear=True), last)):
                eight, _ = compact_of(front, tree, fit, sites, data=sharded)
                one, _ = compact_of(front, front.tree, fit, sites)
                assert_close(front.run(eight, X), front.run(one, X), dtype=np.float32, terms=50_000)


if __name__ == "__main__":
    compare_devices()
