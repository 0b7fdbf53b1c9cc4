"""Files that are there whole or not at all: a reader sees the old content or the new, never half of one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stepwell.errors import UsageError, printable


def write_whole(path: Path, data: str | bytes, mode: int | None = None) -> Path:
    """Write a file in one piece, in the place of what stood there. Returns its path.

    The content goes to a file beside it, `path` with `.part` behind its name, which is renamed when it is complete.
    If anything fails on the way, that file is removed and the old one stays as it was.

    Args:
        path: where; its folder must be there.
        data: bytes as they are; text as UTF-8, with escapes for lone surrogates, which UTF-8 does not know.
        mode: the permissions of the file; those of any new file if not given.

    Raises UsageError, one line, if it cannot be written.

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
