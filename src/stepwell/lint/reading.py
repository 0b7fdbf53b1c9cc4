"""A file as a document, whatever it holds: each reason not to read it is one line."""

from __future__ import annotations

import os
import stat

from stepwell.lint.decoded import decoded
from stepwell.lint.document import Document, Unread

# A source of 2 MB takes Python's parser 3 s and 1 GB; the longest one written by hand that was seen has 1.1 MB.
LARGEST = 2_000_000
LARGEST_NOTEBOOK = 100_000_000  # with the pictures in it


def bytes_of(path: str) -> bytes:
    """The content of a file. Raises Unread."""
    try:
        # without waiting, since a pipe would be waited for
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unread("no regular file")
            check_size(status.st_size, path.endswith(".ipynb"))
            return stream.read()
    except OSError as error:
        raise Unread(error.strerror or str(error)) from None


def check_size(size: int, is_notebook: bool) -> None:
    """Raises Unread for a file that is too long."""
    largest = LARGEST_NOTEBOOK if is_notebook else LARGEST
    if size > largest:
        raise Unread(f"it has {size / 1e6:.1f} MB, more than the {largest / 1e6:g} MB that are read: exclude it")


def document(file: str, data: bytes) -> Document:
    """The document of a file's content; `file` tells by its ending whether it is a notebook. Raises Unread."""
    if not file.endswith(".ipynb"):
        return decoded(file, data)
    from stepwell.lint.notebook import notebook

    found = notebook(file, data)
    check_size(len(found.source), is_notebook=False)
    return found
