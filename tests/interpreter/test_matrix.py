"""The cells of the contract's matrix for the backend `gpu`, in Triton's interpreter."""

import pytest

from tests.contract.matrix import COMMAND, PAGE, committed_rows, marks
from tests.contract.table import RULES

pytestmark = pytest.mark.filterwarnings("ignore:.*(overflow|divide by zero|invalid value).*:RuntimeWarning")


@pytest.mark.parametrize("name", RULES)
def test_every_cell_holds_and_is_printed(name: str) -> None:
    found = marks("gpu", name)
    assert committed_rows(PAGE.read_text())["gpu"].get(name) == found, f"run `{COMMAND}`"
