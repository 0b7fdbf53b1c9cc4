"""The tests of one optimizer run in one worker of pytest-xdist: they share kernels and reference trajectories."""

import pytest


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        call = getattr(item, "callspec", None)
        if item.nodeid.startswith("tests/contract/") and call is not None and "name" in call.params:
            item.add_marker(pytest.mark.xdist_group(call.params["name"]))
