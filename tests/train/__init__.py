"""Tests of `train`; skipped without the extra `train`."""

import pytest

pytest.importorskip("tyro", reason="extra train")
