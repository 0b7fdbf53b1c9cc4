"""IPython's own syntax in the cells of a notebook, taken out so that Python remains.

Every line stays a line: a magic becomes `pass`, which also keeps a block that holds nothing else.
"""

from __future__ import annotations

import ast
import re
import warnings

from stepwell.lint.lines import split

# cell magics whose cell is Python all the same (IPython's `%%time` and friends)
_PYTHON_CELLS = {"capture", "debug", "prun", "time", "timeit", "python", "python3", "pypy", "code_wrap"}
_CELL = re.compile(r"\s*%%(\w+)?")
_LINE = re.compile(r"(\s*)(?:[%!?]|/[A-Za-z_])")
_HELP = re.compile(r"(\s*)[\w.*\[\]'\"()]+\?{1,2}\s*$")
_ASSIGNED = re.compile(r"(\s*[\w.,\s\[\]'\"]+?=\s*)(?:!|%(?=[a-zA-Z]))")


def python_of(cell: str) -> str:
    """The Python of a cell, line by line.

    >>> python_of("%matplotlib inline\\nfiles = !ls\\nprint(files)")
    'pass\\nfiles = None\\nprint(files)'
    """
    lines = split(cell)
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return cell
    magic = _CELL.match(lines[first])
    if magic:
        if magic[1] not in _PYTHON_CELLS:
            return "".join(_bare("", line) for line in lines)
        lines[first] = _bare("", lines[first])
    elif _parses(cell):  # `%` may also begin a line as an operator, and `!` stand in a string
        return cell
    kept = []
    inside = ""  # the indentation of a magic that goes on after a backslash
    for line in lines:
        text = line.rstrip("\r\n")
        begins = _LINE.match(text) or _HELP.match(text)
        assigned = _ASSIGNED.match(text)
        if inside or begins:
            kept.append(_bare("" if inside else begins[1] + "pass" if begins else "", line))
        elif assigned:
            kept.append(_bare(assigned[1] + "None", line))
        else:
            kept.append(line)
            continue
        inside = "yes" if text.endswith("\\") else ""
    return "".join(kept)


def _bare(text: str, line: str) -> str:
    return text + line[len(line.rstrip("\r\n")) :]


def _parses(cell: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(cell)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
