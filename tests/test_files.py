"""A file is the old one or the new one, whatever happens on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stepwell.errors import UsageError
from stepwell.files import write_whole


@pytest.mark.parametrize(
    ("data", "content"),
    [("new ä\n", "new ä\n".encode()), ("\ud800", b"\\ud800"), (b"\x00\xff", b"\x00\xff"), ("", b"")],
)
def test_what_is_written_is_what_is_read_and_nothing_else_stays(
    tmp_path: Path, data: str | bytes, content: bytes
) -> None:
    path = write_whole(tmp_path / "x.json", "old, and longer than what follows")
    assert write_whole(path, data) == path
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_replaced_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "one.json.part").write_text("half a fi")
    os.mkfifo(tmp_path / "two.json.part")
    for name in ("one.json", "two.json"):
        assert write_whole(tmp_path / name, "new").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


def test_what_cannot_be_written_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path / "folder.json", tmp_path / "none" / "x.json", tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=r"^cannot write ") as caught:
            write_whole(path, "new")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_after_a_fault_on_the_way_the_old_file_is_there_and_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    path = write_whole(tmp_path / "x.json", "old")

    def fails(self: Path, target: Path) -> None:
        raise fault

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(UsageError if isinstance(fault, OSError) else KeyboardInterrupt):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
