"""Settings of the whole suite."""

import os
import sys
from collections.abc import Iterator

import pytest

from tests.of_one_optimizer import concerns

# Before torch is imported: threads that wait for work sleep instead of spinning. Two workers with two threads each on
# two cores otherwise take the cores from one another: 40 s instead of 4 s for four optimizers of matrices.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # bench/gpu.sh runs the tests marked gpu where there is pytest alone
    pass
else:
    # The same examples every time, and no clock: the machines that run this are shared.
    too_slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=too_slow)
    settings.load_profile("suite")

# These need a process that interprets Triton's kernels; tests/engine/test_gpu.py starts it.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreter"]


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    """A test that sets the threads of torch leaves them to the next one: sums of another order train another way."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--optimizer", metavar="NAME", help="only what a new or changed optimizer NAME can break")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--optimizer"):
        return
    from stepwell import UsageError
    from stepwell.optimizers import find

    try:
        name = find(config.getoption("--optimizer")).__name__
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    kept = [item for item in items if concerns(name, item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept
