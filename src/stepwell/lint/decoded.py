"""Bytes of a Python file as text, as Python itself decodes them (PEP 263)."""

from __future__ import annotations

import re

from stepwell.errors import printable
from stepwell.lint.document import Document, Unread

_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(rb"^[ \t\f]*(?:#.*)?$")
_MARK = b"\xef\xbb\xbf"


def decoded(file: str, data: bytes) -> Document:
    """The document of a Python file. Raises Unread for bytes that are no text."""
    mark = _MARK if data.startswith(_MARK) else b""
    body = data[len(mark) :]
    encoding = _cookie(body)
    if not encoding:
        try:
            return Document(file, body.decode("utf-8"), "utf-8", mark)
        except UnicodeDecodeError as error:
            line = body.count(b"\n", 0, error.start) + 1
            raise Unread(
                f"line {line} is not UTF-8 and the file names no other encoding: save it as UTF-8, "
                "or write `# -*- coding: NAME -*-` in its first line"
            ) from None
    if mark and encoding.lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig"):
        raise Unread(f"it begins with the mark of UTF-8 and names the encoding {encoding!r}: remove one of both")
    encoding = "utf-8" if mark else encoding
    try:
        return Document(file, body.decode(encoding), encoding, mark)
    except LookupError:
        raise Unread(f"its first lines name the encoding {encoding!r}, which Python does not know as a text") from None
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise Unread(f"line {line} is not {encoding}, which its first lines name: {printable(error.reason)}") from None
    except (UnicodeError, ValueError) as error:
        raise Unread(f"it does not decode as {encoding}: {printable(str(error))[:80]}") from None


def _cookie(body: bytes) -> str:
    for number, line in enumerate(re.split(rb"\r\n|\r|\n", body[:2000], maxsplit=2)[:2]):
        found = _COOKIE.match(line)
        if found:
            return found[1].decode("ascii", "replace")
        if number == 0 and not _BLANK.match(line):
            return ""
    return ""
