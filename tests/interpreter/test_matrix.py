"""The cells of the contract's matrix for the backend `gpu`, in Triton's interpreter."""

import pytest

from tests.contract.matrix import COMMAND, cell, cells, printed

pytestmark = pytest.mark.filterwarnings("ignore:.*(overflow|divide by zero|invalid value).*:RuntimeWarning")


@pytest.mark.parametrize(("name", "weights", "state"), cells("gpu"))
def test_a_cell_holds_and_is_printed(name: str, weights: str, state: str) -> None:
    assert cell("gpu", name, weights, state) == printed("gpu", name, weights, state), f"run `{COMMAND} {name}`"
