"""Functions whose kernels around an activation are two factors each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lcjax
from lcjax.calibration.candidates import collect_for_fit
from lcjax.calibration.data import as_data
from lcjax.cli.inspection import inspect_checkpoint
from lcjax.io.reader import open_checkpoint
from lcjax.io.traced import collapse_traced, contents_of, function_source
from lcjax.planning.measuring.padded import padded
from lcjax.surgery.checks import solve_checked
from tests.helpers.front_ends import DATA, FRONT_ENDS, NETS, X
from tests.helpers.functions import close
from tests.helpers.trees import with_slopes

D, H = 8, 24
KEYS = jax.random.split(jax.random.key(0), 5)
ROWS = jax.random.normal(KEYS[0], (96, D)) @ jax.random.normal(KEYS[4], (D, D))
KERNELS = {
    name: jax.random.normal(key, shape) / 3
    for name, key, shape in zip(
        ("gate", "up", "down"), KEYS[1:], [(D, H), (D, H), (H, D)], strict=False
    )
}
RANK = lcjax.LowRank(3)


def apart(p, x):
    """A gated MLP."""
    return x + (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def joined(p, x):
    """The same with gate and value in one kernel."""
    gate, up = jnp.split(x @ p["up"], 2, axis=-1)
    return x + (jax.nn.silu(gate) * up) @ p["down"]


JOINED = {
    "up": jnp.concatenate([KERNELS["gate"], KERNELS["up"]], -1),
    "down": KERNELS["down"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chain", "GLU"])
@pytest.mark.parametrize(
    "fits",
    [
        [RANK],
        [RANK, lcjax.Units(4), lcjax.LowRank(1)],
        [lcjax.Units(5), lcjax.LowRank(1)],
        [RANK, lcjax.LeastSquares()],
    ],
    ids=str,
)
def test_function_equals_the_params_tree_with_the_same_fits(name, fits):
    found = []
    for make in FRONT_ENDS.values():
        front = make(NETS[name])
        tree = with_slopes(front.tree, 0.2)
        for fit in fits:
            tree, report = front.collapse_sequential(tree, DATA, fit=fit)
        found.append((front.run(tree, X), report))
    (ours, one), (theirs, other) = found
    close(theirs, ours)
    assert one.parameters_after == other.parameters_after
    assert one.flops_after == other.flops_after


def test_gate_and_value_are_factors_whether_in_one_kernel_or_in_two():
    outs = []
    for fn, params in [(apart, KERNELS), (joined, JOINED)]:
        f = lcjax.collapsible(fn)
        call = f.trace(params, ROWS)
        tree, report = call.collapse_sequential([ROWS], fit=RANK)
        (entry,) = tree["fused"].values()
        first, second, gate = entry["layers"]["0"], entry["layers"]["1"], entry["gates"]["0"]
        whole = {
            "gate": gate["0"]["kernel"] @ gate["1"]["kernel"],
            "up": first["0"]["kernel"] @ first["1"]["kernel"],
            "down": second["0"]["kernel"] @ second["1"]["kernel"],
        }
        assert {np.linalg.matrix_rank(np.asarray(kernel)) for kernel in whole.values()} == {3}
        want = apart(whole, ROWS) + second["1"]["bias"]
        close(f(tree, ROWS), want)
        assert report.parameters_after == 3 * 3 * (D + H) + D
        outs.append(want)
    close(*outs)


@pytest.mark.slow
def test_units_are_cut_from_the_last_factor_of_value_and_gate():
    f = lcjax.collapsible(joined)
    tree, _ = f.trace(JOINED, ROWS).collapse_sequential([ROWS], fit=RANK)
    narrow, report = f.trace(tree, ROWS).collapse_sequential([ROWS], fit=lcjax.Units(9))
    (entry,) = narrow["fused"].values()
    assert entry["gates"]["0"]["0"]["kernel"].shape == (D, 3)
    assert entry["gates"]["0"]["1"]["kernel"].shape == (3, 9)
    (units,) = report.units.values()
    np.testing.assert_array_equal(
        entry["gates"]["0"]["1"]["kernel"],
        next(iter(tree["fused"].values()))["gates"]["0"]["1"]["kernel"][:, units],
    )
    assert np.isfinite(f(narrow, ROWS)).all()


def test_kernels_that_factors_do_not_make_smaller_stay():
    f = lcjax.collapsible(apart)
    call = f.trace(KERNELS, ROWS)
    tree, report = call.collapse_sequential([ROWS], fit=lcjax.LowRank(D))
    assert not tree["fused"] and report.parameters_after == report.parameters_before
    np.testing.assert_array_equal(f(tree, ROWS), apart(KERNELS, ROWS))


@pytest.mark.parametrize("first", [None, pytest.param(lcjax.Units(20), marks=pytest.mark.slow)])
@pytest.mark.parametrize("fn, params", [(apart, KERNELS), (joined, JOINED)])
def test_padded_form_computes_the_same(first, fn, params):
    f = lcjax.collapsible(fn)
    call = f.trace(params, ROWS)
    if first is not None:
        call = f.trace(call.collapse_sequential([ROWS], fit=first)[0], ROWS)
    (segment,) = call.segments(call.sites.paths)
    found = collect_for_fit(call, [segment], as_data([ROWS]), RANK)
    shapes = set()
    for rank in (2, 3):
        replacement = solve_checked(lcjax.LowRank(rank), segment, found)
        small = call.rebuild({segment: replacement}).tree
        whole = call.rebuild({segment: padded(segment, replacement)}).tree
        close(f(whole, ROWS), f(small, ROWS))
        shapes.add(str(jax.tree.map(jnp.shape, whole)))
    assert len(shapes) == 1


@pytest.mark.slow
def test_plan_chooses_a_rank_where_the_kernels_have_one():
    thin = {
        name: kernel[:, :2] @ jax.random.normal(KEYS[3], (2, kernel.shape[1]))
        for name, kernel in KERNELS.items()
    }
    f = lcjax.collapsible(apart)
    tries = lcjax.Candidates(fractions=(0.4, 0.8), multiple_of=2)
    call = f.trace(thin, ROWS)
    plan = call.plan_fits([ROWS], budget=lcjax.Params(0.4), candidates=tries)
    assert [fit.name for fit in plan.fits.values()] == ["low_rank"]
    tree, report = call.collapse_sequential([ROWS], fit=plan.fits)
    assert report.parameters_after <= 0.4 * report.parameters_before
    want = apart(thin, ROWS)
    assert jnp.linalg.norm(f(tree, ROWS) - want) < 0.1 * jnp.linalg.norm(want)


@pytest.mark.promotes
@pytest.mark.slow
def test_optimizer_state_is_carried_over():
    f = lcjax.collapsible(apart)
    params = f.init(KERNELS | {"other": jnp.ones(3)}, ROWS)
    tx = optax.adam(1e-3)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), params)
    state = tx.update(grads, tx.init(params), params)[1]
    compact, report = f.trace(params, ROWS).collapse_sequential([ROWS], fit=RANK)
    carried = lcjax.carry_opt_state(tx, state, params, compact, report)
    assert jax.tree.structure(carried) == jax.tree.structure(tx.init(compact))
    np.testing.assert_array_equal(carried[0].mu["model"]["other"], state[0].mu["model"]["other"])
    (levels,) = carried[0].nu["fused"].values()
    assert all((leaf > 0).all() for leaf in jax.tree.leaves(levels))


@pytest.mark.slow
@pytest.mark.parametrize("fn, params", [(apart, KERNELS), (joined, JOINED)])
def test_checkpoint_collapses_as_a_stream(fn, params, tmp_path):
    f = lcjax.collapsible(fn)
    lcjax.save(tmp_path / "deep", params)
    call = f.trace(params, ROWS)
    stats = call.calibrate([ROWS], fit=RANK)
    lcjax.save_calibration(tmp_path / "stats", stats)
    read = lcjax.restore_calibration(tmp_path / "stats")
    source = function_source(contents_of(open_checkpoint(tmp_path / "deep")), fn, [ROWS])
    report = collapse_traced(source, tmp_path / "small", calibration=read)
    tree, want = call.collapse(calibration=stats)
    restored = lcjax.restore(tmp_path / "small")
    assert report.parameters_after == want.parameters_after
    jax.tree.map(np.testing.assert_array_equal, restored["fused"], tree["fused"])
    close(f(restored, ROWS), f(tree, ROWS))
    assert "all 24 hidden units" in str(inspect_checkpoint(tmp_path / "small"))


@pytest.mark.slow
def test_exported_function_runs(tmp_path):
    f = lcjax.collapsible(joined)
    tree, _ = f.trace(JOINED, ROWS).collapse_sequential([ROWS], fit=RANK)
    lcjax.export(f, tree, [ROWS], tmp_path / "exported")
    close(lcjax.load_exported(tmp_path / "exported")(ROWS[:5]), f(tree, ROWS[:5]))
