"""Patterns of paths, as `.gitignore` and ruff have them.

A pattern without a slash is compared with the names of files and folders: `build`, `*_old.py`. One with a slash is
compared with the path from the folder of the configuration on: `examples/*.py`, `src/**/legacy`. What lies inside a
folder that fits, fits; folders above that of the configuration do not count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache


def fits(path: str, patterns: Iterable[str], base: str) -> bool:
    """Whether an absolute path fits one of the patterns, which begin at the folder `base`."""
    patterns = tuple(patterns)
    if not patterns:
        return False
    path, base = path.replace(os.sep, "/"), base.replace(os.sep, "/").rstrip("/")
    is_inside = path.startswith(base + "/")
    parts = path[len(base) + 1 :].split("/") if is_inside else path.rsplit("/", 1)[1:]
    for pattern in patterns:
        wanted = pattern.replace(os.sep, "/").rstrip("/")
        if "/" not in wanted:
            if any(_compiled(wanted).fullmatch(part) for part in parts):
                return True
            continue
        wanted = wanted.removeprefix("./").lstrip("/") if not wanted.startswith("/") else wanted
        if not wanted.startswith("/") and not is_inside:
            continue
        whole = path if wanted.startswith("/") else "/".join(parts)
        heads = [whole] + [whole[:at] for at, sign in enumerate(whole) if sign == "/" and at]
        if any(_compiled(wanted).fullmatch(head) for head in heads):
            return True
    return False


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """`**` stands for folders, also none; `*` and `?` for signs of one name; `[ab]` for one of some."""
    found, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            found, at = found + "(?:[^/]+/)*", at + 3
        elif pattern.startswith("**", at):
            found, at = found + ".*", at + 2
        elif pattern[at] == "*":
            found, at = found + "[^/]*", at + 1
        elif pattern[at] == "?":
            found, at = found + "[^/]", at + 1
        elif pattern[at] == "[" and "]" in pattern[at + 2 :]:
            end = pattern.index("]", at + 2)
            inner = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            found += "[" + ("^" + inner[1:] if inner[0] in "!^" else inner) + "]"
            at = end + 1
        else:
            found, at = found + re.escape(pattern[at]), at + 1
    try:
        return re.compile(found)
    except re.error:
        return re.compile(re.escape(pattern))
