"""Tests that share an expensive fixture run in one process."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("groups")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="the tests run in one process")
def test_groups_of_tests_are_seen(request: pytest.FixtureRequest) -> None:
    """A version of pytest-xdist that does not fit pytest divides them, and each process starts its processes again."""
    assert request.node.nodeid.endswith("@groups")
