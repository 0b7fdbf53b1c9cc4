"""Values that no argument expects: `VALUES` is a list of (label, make), for fuzzing and for tables of refusals.

Each `make()` gives a fresh value, so that a generator is never used up by the case before. A call that is handed one of
them ends in a result or in one line that names the argument: nothing else, and never a hang.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


class _Raises:
    """An object whose every question raises."""

    def _refuse(self, *args: Any) -> Any:
        raise RuntimeError("this object cannot be asked")

    __len__ = __bool__ = __repr__ = __str__ = __iter__ = __getitem__ = __contains__ = _refuse
    __float__ = __int__ = __index__ = __lt__ = __gt__ = __le__ = __ge__ = __call__ = __fspath__ = _refuse

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("this object cannot be compared")

    def __hash__(self) -> int:
        raise RuntimeError("this object cannot be hashed")


class _NoAttributes:
    """An object whose every attribute raises something else than AttributeError."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no attribute {name}")


class _LongRepr:
    def __repr__(self) -> str:
        return "x\n\ud800" * 100_000


class _FloatText(str):
    """Text that float() takes for a number."""

    def __float__(self) -> float:
        return 0.5


class _HugeLength(list[int]):
    def __len__(self) -> int:
        return 2**62


class _Color(enum.IntEnum):
    RED = 1


def _used_up() -> Iterator[int]:
    made = iter([1, 2, 3])
    list(made)
    return made


def _cyclic() -> list[Any]:
    held: list[Any] = []
    held.append(held)
    return held


def _deep() -> list[Any]:
    return functools.reduce(lambda inner, _: [inner], range(5000), [])


VALUES: list[tuple[str, Callable[[], Any]]] = [
    ("None", lambda: None),
    ("True", lambda: True),
    ("False", lambda: False),
    ("np.True_", lambda: np.True_),
    ("0", lambda: 0),
    ("-1", lambda: -1),
    ("1", lambda: 1),
    ("3", lambda: 3),
    ("2**31", lambda: 2**31),
    ("2**63", lambda: 2**63),
    ("2**70", lambda: 2**70),
    ("-2**70", lambda: -(2**70)),
    ("10**400", lambda: 10**400),
    ("-10**400", lambda: -(10**400)),
    ("10**5000", lambda: 10**5000),
    ("0.0", lambda: 0.0),
    ("-0.0", lambda: -0.0),
    ("0.5", lambda: 0.5),
    ("1.0", lambda: 1.0),
    ("1.5", lambda: 1.5),
    ("-0.5", lambda: -0.5),
    ("1e-320", lambda: 1e-320),
    ("1e300", lambda: 1e300),
    ("nan", lambda: float("nan")),
    ("inf", lambda: float("inf")),
    ("-inf", lambda: float("-inf")),
    ("1j", lambda: 1j),
    ("Decimal", lambda: decimal.Decimal("0.1")),
    ("Decimal nan", lambda: decimal.Decimal("nan")),
    ("Fraction", lambda: fractions.Fraction(1, 3)),
    ("Fraction 10**400", lambda: fractions.Fraction(10**400)),
    ("IntEnum", lambda: _Color.RED),
    ("np.int64", lambda: np.int64(2)),
    ("np.uint8", lambda: np.uint8(200)),
    ("np.float16", lambda: np.float16(0.1)),
    ("np.float32", lambda: np.float32(0.1)),
    ("np.float64 nan", lambda: np.float64("nan")),
    ("np.longdouble", lambda: np.longdouble("0.1")),
    ("np.complex64", lambda: np.complex64(1j)),
    ("np.str_", lambda: np.str_("adamw")),
    ("np.datetime64", lambda: np.datetime64("2026-01-01")),
    ("array 0-d", lambda: np.array(0.1)),
    ("array 0-d int", lambda: np.array(3)),
    ("array 0-d bool", lambda: np.array(True)),
    ("array 0-d text", lambda: np.array("adamw")),
    ("array", lambda: np.array([0.1, 0.2])),
    ("array of words", lambda: np.array(["a", "b"])),
    ("array of objects", lambda: np.array([None, {}], dtype=object)),
    ("array empty", lambda: np.empty(0)),
    ("array 2-d", lambda: np.ones((2, 2))),
    ("tensor 0-d", lambda: torch.tensor(0.1)),
    ("tensor 0-d int", lambda: torch.tensor(3)),
    ("tensor 0-d bool", lambda: torch.tensor(True)),
    ("tensor 0-d nan", lambda: torch.tensor(float("nan"))),
    ("tensor", lambda: torch.tensor([0.1, 0.2])),
    ("tensor empty", lambda: torch.empty(0)),
    ("tensor complex", lambda: torch.tensor(1j)),
    ("tensor complex 1-d", lambda: torch.ones(2, dtype=torch.complex64)),
    ("tensor meta", lambda: torch.empty((), device="meta")),
    ("tensor sparse", lambda: torch.eye(2).to_sparse()),
    ("tensor float8", lambda: torch.ones(2).to(torch.float8_e4m3fn)),
    ("parameter", lambda: torch.nn.Parameter(torch.ones(2))),
    ("module", lambda: torch.nn.Linear(1, 1)),
    ("device", lambda: torch.device("cpu")),
    ("dtype", lambda: torch.float32),
    ("generator of torch", lambda: torch.Generator()),
    ("empty text", lambda: ""),
    ("blank text", lambda: "  "),
    ("word", lambda: "adamw"),
    ("number as text", lambda: "3"),
    ("nan as text", lambda: "nan"),
    ("text with newline", lambda: "adam\nw"),
    ("text with null", lambda: "a\0b"),
    ("lone surrogate", lambda: "\ud800"),
    ("escape sequence", lambda: "\x1b[31mred"),
    ("long text", lambda: "x" * 1_000_000),
    ("glob", lambda: "[*"),
    ("path up", lambda: "../../evil/x"),
    ("text that is a float", lambda: _FloatText("0.5")),
    ("bytes", lambda: b"adamw"),
    ("bytes not utf8", lambda: b"\xff\xfe"),
    ("bytearray", lambda: bytearray(b"ab")),
    ("memoryview", lambda: memoryview(b"ab")),
    ("Path", lambda: Path("adamw")),
    ("empty list", list),
    ("list", lambda: [1, 2]),
    ("list of None", lambda: [None]),
    ("list of words", lambda: ["a", "a"]),
    ("list of surrogates", lambda: ["\ud800"]),
    ("list of lists", lambda: [[1], [2]]),
    ("long list", lambda: [0] * 100_000),
    ("cyclic list", _cyclic),
    ("deep list", _deep),
    ("empty tuple", tuple),
    ("tuple of nan", lambda: (float("nan"), 1)),
    ("tuple of 10**400", lambda: (10**400, 10**400)),
    ("set", lambda: {1, 2}),
    ("empty set", set),
    ("frozenset", lambda: frozenset({"a"})),
    ("dict", lambda: {"lr": 0.1}),
    ("empty dict", dict),
    ("dict of None", lambda: {None: None}),
    ("dict of surrogates", lambda: {"\ud800": "\ud800"}),
    ("dict of tuples", lambda: {(1, 2): [3]}),
    ("generator", lambda: (i for i in range(3))),
    ("generator used up", _used_up),
    ("endless iterator", itertools.count),
    ("iterator", lambda: iter([1, 2])),
    ("range", lambda: range(3)),
    ("huge range", lambda: range(10**400)),
    ("function", lambda: len),
    ("function that raises", lambda: lambda *args, **named: 1 / 0),
    ("function that gives None", lambda: lambda *args, **named: None),
    ("class", lambda: int),
    ("exception", lambda: ValueError("x")),
    ("NotImplemented", lambda: NotImplemented),
    ("Ellipsis", lambda: ...),
    ("slice", lambda: slice(1)),
    ("date", lambda: datetime.date(2026, 1, 1)),
    ("object", object),
    ("object that raises", _Raises),
    ("object without attributes", _NoAttributes),
    ("object with a long repr", _LongRepr),
    ("list of a huge length", _HugeLength),
]


def one(label: str) -> Any:
    """A fresh value by its label."""
    return dict(VALUES)[label]()
