"""Atomic file writes: a reader sees the complete old content or the complete new content."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stepwell.errors import UsageError, printable


def write_whole(path: Path, data: str | bytes, mode: int | None = None) -> Path:
    """Write a file atomically, replacing an existing file. Returns its path.

    The content is written to a temporary file, `path` with `.part` appended, which is renamed when it is complete. If
    an error occurs, the temporary file is removed and the old file is unchanged.

    Args:
        path: the path of the file; its folder must exist.
        data: bytes, or text, which is encoded as UTF-8 with escapes for lone surrogates.
        mode: the permissions of the file; by default those of a new file.

    Raises UsageError, one line, if the file cannot be written.

    >>> write_whole(Path("results.json"), "{}\\n").name
    'results.json'
    """
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)  # left by a process that was killed; or a pipe, which would be waited for
        try:
            with part.open("xb") as file:
                file.write(content)
            if mode is not None:
                part.chmod(mode)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {printable(str(path))[:200]}: {error.strerror or error}") from None
    return path
