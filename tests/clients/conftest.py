"""Clients run as their users run them, and their rows make a table.

`pytest tests/clients --publish-clients` writes it to benchmarks/results.
"""

from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.harness.publish import Column, publish, tabulate

pytest.register_assert_rewrite("tests.clients.contract")
HERE = Path(__file__).parent
ROWS = []
COLUMNS = (
    Column("client", "client"),
    Column("package", "package"),
    Column("version", "version"),
    Column("sites", "sites"),
    Column("FLOPs deep", "deep_flops", "{:,.0f}"),
    Column("compact", "compact_flops", "{:,.0f}"),
)


def pytest_addoption(parser):
    parser.addoption("--publish-clients", action="store_true", help="write benchmarks/results")


@pytest.hookimpl(tryfirst=True)  # before -m deselects slow tests
def pytest_collection_modifyitems(items):
    """Lets clients promote dtypes implicitly and warn; a warning from lcjax is an error."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slow")
            item.add_marker("promotes")
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.filterwarnings("error:::lcjax"))


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        ROWS.extend(value for name, value in report.user_properties if name == "client")


def pytest_terminal_summary(terminalreporter, config):
    if not ROWS:
        return
    rows = sorted(ROWS, key=lambda row: (row["package"], row["client"]))
    table = tabulate(COLUMNS, rows)
    if config.getoption("--publish-clients", default=False):
        settings = {"command": "pytest tests/clients --publish-clients", "flax": version("flax")}
        publish("clients", settings, rows, table)
    elif config.getoption("file_or_dir"):
        terminalreporter.write_line(table.text())
