"""`pytest --optimizer NAME` keeps what names the optimizer, and what goes through the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import of_one_optimizer, test_cli, test_door, test_floors
from tests.contract import test_contract, test_matrix
from tests.optimizers import test_catalogue


def item(test: Callable[..., Any], slow: bool = False, **params: Any) -> Any:
    file = Path(test.__code__.co_filename).relative_to(Path(__file__).parents[1]).as_posix()
    call = SimpleNamespace(id="-".join(str(value) for value in params.values()), params=params) if params else None
    marker = object() if slow else None
    return SimpleNamespace(
        nodeid=f"{file}::{test.__name__}", function=test, get_closest_marker=lambda _: marker,
        **({"callspec": call} if call else {}),
    )  # fmt: skip


@pytest.mark.parametrize("slow", [False, True])
def test_what_names_an_optimizer_is_its_own(slow: bool) -> None:
    for name, kept in (("Lion", True), ("AdamW", False)):
        cell = item(test_matrix.test_a_cell_of_cpu_holds_and_is_printed, slow, name=name, weights="fp32")
        assert of_one_optimizer.concerns("Lion", cell) is kept
    row = item(test_contract.test_a_skipped_step_changes_no_bit, label="StableAdamW-raw_decay-cpu")
    assert of_one_optimizer.names_in(row) == {"StableAdamW"}


def test_what_goes_through_the_table_is_kept_for_each() -> None:
    for test in (
        test_door.test_checkers_and_python_see_the_same_names,
        test_matrix.test_the_page_is_what_its_rows_print,
        test_matrix.test_cells_that_are_not_run_say_so,
        test_contract.test_every_row_has_a_name_of_its_own_that_tells_its_options,
        test_catalogue.test_the_page_of_the_catalogue_is_what_the_command_prints,
        test_cli.test_tasks_and_optimizers_are_listed,
    ):
        assert of_one_optimizer.concerns("Lion", item(test))
        assert not of_one_optimizer.concerns("Lion", item(test, slow=True))
    assert not of_one_optimizer.concerns("Lion", item(test_door.test_a_name_far_from_all_and_names_of_python))
    assert of_one_optimizer.concerns(
        "Lion", item(test_floors.test_a_file_imports_from_lower_rows_only, path="lint/__init__.py")
    )


def test_the_files_that_read_all_sources_exist() -> None:
    assert all((Path(__file__).parents[1] / file).exists() for file in of_one_optimizer.READ_ALL)
