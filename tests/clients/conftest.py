"""Clients run as their users run them: implicit dtype promotion, warnings of their own."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.clients.contract")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("promotes")
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.filterwarnings("error:::lcjax"))
