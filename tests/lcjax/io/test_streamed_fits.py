"""Streamed collapses by fits to data: what they write is what a collapse in memory gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.cli.command import main
from lcjax.planning.plan_file import PlanFile, PlannedSite
from lcjax.structure.params_tree import ParamsTree
from tests.helpers.narrowed import narrow_every_mlp
from tests.lcjax.io.checkpoints import bits

pytestmark = pytest.mark.promotes

X = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


class Net(nn.Module):
    """A chain of three Dense layers, one of two, and a gated unit."""

    @nn.compact
    def __call__(self, x):
        x = lcjax.CollapsibleMLP((8, 7, 6), nn.relu, name="chain")(x)
        x = x + lcjax.CollapsibleMLP((9, 6), name="pair")(x)
        return x + lcjax.CollapsibleGLU(12, 6, name="gated")(x)


@pytest.fixture(scope="module")
def variables():
    return Net().init(jax.random.key(0), X)


@pytest.fixture(scope="module")
def source(variables, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "deep"
    lcjax.save(path, variables, metadata={"step": 3})
    return path


def calibrated(variables, sites=None, fit=None):
    fit = lcjax.LeastSquares() if fit is None else fit
    return lcjax.calibrate(Net().apply, variables, [X], sites, fit)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fit", [lcjax.LeastSquares(), lcjax.PerUnit(), lcjax.Units(3)], ids=lambda fit: fit.name
)
def test_calibrations_are_restored_as_they_were(variables, tmp_path, fit):
    stats = calibrated(variables, fit=fit)
    lcjax.save_calibration(tmp_path / "stats", stats)
    again = lcjax.restore_calibration(tmp_path / "stats")
    assert (again.fit, again.segments, again.weights) == (fit, stats.segments, stats.weights)
    assert jax.tree.structure(again) == jax.tree.structure(stats)
    jax.tree.map(np.testing.assert_array_equal, again, stats)
    assert str(again) == str(stats)


@pytest.mark.slow
def test_what_is_no_calibration_is_refused(source, tmp_path):
    with pytest.raises(lcjax.CheckpointError, match="expected a calibration"):
        lcjax.restore_calibration(source)
    with pytest.raises(TypeError, match="calibration is a dict; expected a Calibration"):
        lcjax.save_calibration(tmp_path / "a", {"train": {}})


@pytest.mark.slow
@pytest.mark.parametrize("sites", [None, ["pair/act_0", "gated/act"]], ids=["all", "some"])
def test_a_streamed_fit_is_that_in_memory(source, variables, tmp_path, sites):
    stats = calibrated(variables)
    report = lcjax.collapse_checkpoint(source, tmp_path / "a", sites, calibration=stats)
    compact, want = lcjax.collapse(lcjax.restore(source), sites, calibration=stats)
    assert bits(lcjax.restore(tmp_path / "a")) == bits(compact)
    assert str(report) == str(want)
    assert (report.new_leaves, report.removed_leaves) == (want.new_leaves, want.removed_leaves)
    assert lcjax.read_metadata(tmp_path / "a") == {"step": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fit",
    [lcjax.Units(3), lcjax.Units(3, linear=True), lcjax.Remove(), lcjax.LowRank(2)],
    ids=lambda fit: fit.name,
)
def test_a_streamed_narrowing_is_that_in_memory_and_runs_the_same(source, variables, tmp_path, fit):
    stats = calibrated(variables, ["pair/act_0", "gated/act"], fit)
    report = lcjax.collapse_checkpoint(source, tmp_path / "a", calibration=stats)
    compact, want = lcjax.collapse(lcjax.restore(source), calibration=stats)
    restored = lcjax.restore(tmp_path / "a")
    assert bits(restored) == bits(compact)
    assert str(report) == str(want) and report.units.keys() == want.units.keys()
    out = Net().apply(compact, X)
    np.testing.assert_array_equal(Net().apply(restored, X), out)
    assert not np.allclose(out, Net().apply(variables, X))


def test_an_exact_collapse_of_a_narrowed_checkpoint_folds_its_bypass(variables, tmp_path):
    linear = lcjax.map_slopes(jnp.ones_like, variables)
    narrow = jax.tree.map(jnp.asarray, narrow_every_mlp(jax.device_get(linear), 3))
    lcjax.save(tmp_path / "a", narrow)
    report = lcjax.collapse_checkpoint(tmp_path / "a", tmp_path / "b", ["pair/*", "gated/*"])
    assert report.collapsed == ("gated/act", "pair/act_0")
    restored = lcjax.restore(tmp_path / "b")
    assert bits(restored) == bits(lcjax.collapse(narrow, ["pair/*", "gated/*"])[0])
    assert "bypass_0" not in restored["params"]["pair"]
    got, want = (Net().apply(tree, X) for tree in (restored, narrow))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_fit_for_every_site(source, variables, tmp_path):
    stats = calibrated(variables, ["gated/act"])
    fits = {"gated/act": lcjax.LeastSquares(), "pair/act_0": lcjax.Exact(max_gap=1)}
    report = lcjax.collapse_checkpoint(source, tmp_path / "a", fit=fits, calibration=stats)
    compact, _ = lcjax.collapse(lcjax.restore(source), "pair/act_0", lcjax.Exact(max_gap=1))
    compact, _ = lcjax.collapse(compact, calibration=stats)
    assert bits(lcjax.restore(tmp_path / "a")) == bits(compact)
    assert report.collapsed == ("gated/act", "pair/act_0")
    assert [skip.site for skip in report.skipped] == ["chain/act_0", "chain/act_1"]


@pytest.mark.slow
@pytest.mark.parametrize("fit", [lcjax.Units(3), lcjax.LowRank(2)], ids=lambda fit: fit.name)
def test_one_calibration_of_hidden_units_serves_fits_of_several_kinds(
    source, variables, fit, tmp_path
):
    stats = calibrated(variables, ["gated/act", "pair/act_0"], fit)
    for other in (lcjax.LeastSquares(), lcjax.Remove()):
        own = calibrated(variables, ["pair/act_0"], other)
        got, _ = lcjax.collapse(variables, ["pair/act_0"], other, calibration=stats)
        want, _ = lcjax.collapse(variables, calibration=own)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
        plan = plan_of(variables, {"gated/act": fit, "pair/act_0": other})
        plan.save(tmp_path / "plan.json")
        lcjax.save_calibration(tmp_path / f"stats-{other.name}", stats)
        paths = [str(source), str(tmp_path / other.name), "--plan", str(tmp_path / "plan.json")]
        main(["collapse", *paths, "--calibration", str(tmp_path / f"stats-{other.name}")])
        both = lcjax.restore(tmp_path / other.name)
        assert lcjax.find_sites(both).paths == ("chain/act_0", "chain/act_1", "gated/act")
    own = calibrated(variables, ["gated/act"])
    got, _ = lcjax.collapse(variables, ["gated/act"], lcjax.LeastSquares(), calibration=stats)
    want, _ = lcjax.collapse(variables, calibration=own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)
    with pytest.raises(ValueError, match="a calibration for lcjax.Units or lcjax.LowRank serves"):
        lcjax.collapse(variables, ["pair/act_0"], lcjax.PerUnit(), calibration=stats)


@pytest.mark.slow
def test_statistics_of_pairs_do_not_serve_a_map_over_several_sites(variables):
    stats = calibrated(variables, ["chain/*"], lcjax.Units(3))
    with pytest.raises(
        lcjax.CollapseError, match="of pairs of Dense layers, but one map takes .* 3"
    ):
        lcjax.collapse(variables, ["chain/*"], lcjax.LeastSquares(), calibration=stats)


@pytest.mark.slow
def test_fits_that_cannot_be_streamed_are_refused(source, variables, tmp_path):
    stats = calibrated(variables)
    chain = {"chain/act_0": lcjax.LeastSquares(), "chain/act_1": lcjax.Exact(max_gap=1)}
    with pytest.raises(lcjax.CollapseError, match="in one chain, expected one fit"):
        lcjax.collapse_checkpoint(source, tmp_path / "a", fit=chain, calibration=stats)
    with pytest.raises(ValueError, match="pair/act_0: got the fit LeastSquares.* expected a calib"):
        lcjax.collapse_checkpoint(source, tmp_path / "a", "pair/*", lcjax.LeastSquares())
    with pytest.raises(ValueError, match="sites: got them and a fit for every site"):
        lcjax.collapse_checkpoint(source, tmp_path / "a", "pair/*", chain)
    other = calibrated(jax.tree.map(lambda leaf: leaf + 1, variables))
    with pytest.raises(lcjax.CollapseError, match="got statistics of other weights"):
        lcjax.collapse_checkpoint(source, tmp_path / "a", calibration=other)
    assert [path.name for path in tmp_path.iterdir()] == []


def plan_of(variables, fits):
    model, sites = ParamsTree(variables), {}
    for site, fit in fits.items():
        (segment,) = model.segments([site])
        sites[site] = PlannedSite(fit, segment.widths, segment.weights)
    return PlanFile(sites)


@pytest.fixture
def plan_file(variables, tmp_path):
    fits = {"gated/act": lcjax.LeastSquares(ridge=0.01), "pair/act_0": None}
    plan_of(variables, fits).save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_the_command_carries_a_plan_of_fits_out(source, variables, plan_file, tmp_path, capsys):
    stats = calibrated(variables, ["gated/act"])
    lcjax.save_calibration(tmp_path / "stats", stats)
    out = [str(source), str(tmp_path / "a"), "--plan", str(plan_file)]
    main(["collapse", *out, "--calibration", str(tmp_path / "stats")])
    fit = lcjax.LeastSquares(ridge=0.01)
    compact, report = lcjax.collapse(lcjax.restore(source), fit=fit, calibration=stats)
    assert bits(lcjax.restore(tmp_path / "a")) == bits(compact)
    assert str(report) in capsys.readouterr().out


def test_the_command_carries_an_exact_plan_out_without_data(source, variables, tmp_path):
    plan_of(variables, {"pair/act_0": lcjax.Exact(max_gap=1)}).save(tmp_path / "plan.json")
    main(["collapse", str(source), str(tmp_path / "a"), "--plan", str(tmp_path / "plan.json")])
    compact, _ = lcjax.collapse(lcjax.restore(source), "pair/*", lcjax.Exact(max_gap=1))
    assert bits(lcjax.restore(tmp_path / "a")) == bits(compact)


def test_the_command_says_what_a_plan_of_fits_to_data_needs(source, plan_file, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["collapse", str(source), str(tmp_path / "a"), "--plan", str(plan_file)])
    assert "got least_squares for gated/act, a fit to data; expected --calib" in str(end.value.code)
    assert "lcjax.collapse_sequential(apply_fn, variables, data, fit=fits)" in str(end.value.code)


def test_the_command_refuses_a_plan_of_another_model(source, variables, tmp_path):
    wider = Net().init(jax.random.key(1), jnp.ones((1, 5)))
    plan_of(wider, {"chain/act_0": lcjax.Exact(max_gap=1)}).save(tmp_path / "plan.json")
    with pytest.raises(SystemExit, match="chain/act_0: the plan is for layers"):
        main(["collapse", str(source), str(tmp_path / "a"), "--plan", str(tmp_path / "plan.json")])


def test_linear_units_fold_in_a_stream_as_in_memory(variables, tmp_path):
    def start(slope):
        linear = 9 if len(slope) == 12 else len(slope) if len(slope) == 7 else 2
        return slope.at[:linear].set(1)

    units = lcjax.map_slopes(start, lcjax.with_unit_slopes(variables))
    lcjax.save(tmp_path / "units", units)
    report = lcjax.collapse_checkpoint(tmp_path / "units", tmp_path / "compact")
    compact, own = lcjax.collapse(units)
    assert bits(lcjax.restore(tmp_path / "compact")) == bits(compact)
    assert report.collapsed == own.collapsed == ("chain/act_1",)
    assert list(report.units) == list(own.units) == ["gated/act"]
    assert {skip.site: skip.reason for skip in own.skipped}["pair/act_0"] == "few_linear_units"
    assert {skip.site for skip in report.skipped} == {skip.site for skip in own.skipped}
    assert report.parameters_after == own.parameters_after
