"""What was found in files that have not changed since.

One small JSON file for each checked file, in `.stepwell_cache/lint/` beside the pyproject.toml. An entry holds what all
checks found, whatever is selected, and counts only for the same bytes, the same sources of the linter and the same
Python. A cache that cannot be read or written costs time and nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from stepwell.findings import Edit, Evidence, Finding, Fix, Source
from stepwell.lint.codes import check_of
from stepwell.lint.examined import Examined, Hit

if TYPE_CHECKING:
    from hashlib import blake2b
else:
    try:
        from _blake2 import blake2b  # what hashlib hands on; hashlib itself loads OpenSSL, which takes 6 ms
    except ImportError:
        from hashlib import blake2b

FOLDER = ".stepwell_cache"


def key(data: bytes, is_notebook: bool) -> str:
    """Names a file's content together with the linter that looks at it."""
    return blake2b(data, digest_size=20, key=_linter(), person=b"notebook" if is_notebook else b"source").hexdigest()


@cache
def _linter() -> bytes:
    """What the linter is: the sources it is made of, and the Python that parses."""
    from stepwell import __version__

    digest = blake2b(f"{__version__} {sys.version_info[:3]}".encode(), digest_size=32)
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in (here, os.path.join(os.path.dirname(here), "findings")):
        for at, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                if name.endswith(".py"):
                    with open(os.path.join(at, name), "rb") as stream:
                        digest.update(name.encode() + stream.read())
    return digest.digest()


def load(folder: str, path: str, wanted: str, file: str) -> Examined | None:
    """What was found in the file at `path` when its key was `wanted`, or None."""
    import json

    try:
        with open(_entry(folder, path), "rb") as stream:
            entry = json.loads(stream.read())
        if entry["key"] != wanted:
            return None
        return Examined(hits=[_hit(one, file) for one in entry["hits"]])
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None


def save(folder: str, path: str, wanted: str, found: Examined) -> None:
    """Keep what was found; nothing where something went wrong, so that it is said again."""
    if found.unreadable or found.failed:
        return
    import json

    entry = _entry(folder, path)
    part = f"{entry}.{os.getpid()}"
    with suppress(OSError, ValueError):
        _prepare(folder, os.path.dirname(entry))
        content = json.dumps({"key": wanted, "hits": [_plain(one) for one in found.hits]})
        try:
            with open(part, "w", encoding="ascii") as stream:
                stream.write(content)
            os.replace(part, entry)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise


def _entry(folder: str, path: str) -> str:
    name = blake2b(os.fsencode(path), digest_size=12).hexdigest()
    return os.path.join(folder, "lint", name[:2], f"{name[2:]}.json")


def _prepare(folder: str, inside: str) -> None:
    if os.path.isdir(inside):
        return
    os.makedirs(inside, exist_ok=True)
    ignore = os.path.join(folder, ".gitignore")
    if not os.path.exists(ignore):
        with open(ignore, "w", encoding="ascii") as stream:
            stream.write("*\n")


def _plain(hit: Hit) -> dict[str, Any]:
    finding = hit.finding
    fix = finding.fix
    return {
        "code": finding.code,
        "place": _where(finding.place),
        "seen": finding.seen,
        "instead": finding.instead,
        "evidence": [[_where(one.place), one.seen] for one in finding.evidence],
        "fix": None if fix is None else [fix.says, fix.safe, [[one.start, one.end, one.new] for one in fix.edits]],
        "line": hit.line,
        "muted": hit.muted,
    }


def _hit(entry: Mapping[str, Any], file: str) -> Hit:
    fix = entry["fix"]
    if fix is not None:
        says, safe, edits = fix
        fix = Fix(says, tuple(Edit((a, b), (c, d), new) for (a, b), (c, d), new in edits), safe)
    finding = Finding(
        check=check_of(entry["code"]),
        place=_source(entry["place"], file),
        seen=entry["seen"],
        evidence=tuple(Evidence(_source(place, file), seen) for place, seen in entry["evidence"]),
        instead=entry["instead"],
        fix=fix,
    )
    return Hit(finding, entry["line"], tuple(entry["muted"]))


def _where(place: Any) -> list[Any]:
    assert isinstance(place, Source)
    return [place.line, place.column, place.end, place.cell]


def _source(where: list[Any], file: str) -> Source:
    line, column, end, cell = where
    return Source(file, line, column, None if end is None else (end[0], end[1]), cell)
