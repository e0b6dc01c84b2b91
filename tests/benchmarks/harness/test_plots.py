"""Plots of benchmarks."""

from benchmarks.harness import plots

SEEDS = {"accuracy": [0.8, 0.9], "parameters": [4, 2]}


def test_plots_write_png(tmp_path):
    points = [{"method": method, **SEEDS} for method in ("lcjax: L1", "pruned")]
    deep = {"deep_accuracy": [0.9, 0.8], "deep_parameters": [4, 4]}
    sweep = [{"value": value, **SEEDS, **deep} for value in ("1", "2")]
    timed = [point | {"seconds": 1.0, "seconds_with_deep": 2.0} for point in points]
    paths = [
        plots.plot_pareto_front(points, tmp_path / "front.png", network="a Mixer"),
        plots.plot_methods(points, tmp_path / "methods.png", network="an MLP"),
        plots.plot_sweep(sweep, tmp_path / "sweep.png", label="width", default="2"),
        plots.plot_time_to_accuracy(timed, tmp_path / "time.png"),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
