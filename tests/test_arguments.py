"""How arguments are read: what each reader takes, and that every refusal is one line which names the argument."""

from __future__ import annotations

import fractions
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stepwell import arguments as a
from stepwell.errors import UsageError, nearest, shown, unknown

from .nasty import VALUES, one

READERS: dict[str, Callable[[Any], Any]] = {
    "whole": lambda value: a.whole("Step", "argument", value),
    "whole in a range": lambda value: a.whole("Step", "argument", value, least=1, most=10),
    "number": lambda value: a.number("Step", "argument", value),
    "number in a range": lambda value: a.number("Step", "argument", value, least=0, below=1),
    "fraction": lambda value: a.fraction("Step", "argument", value),
    "flag": lambda value: a.flag("Step", "argument", value),
    "choice": lambda value: a.choice("Step", "argument", value, ("linear", "cosine")),
    "text": lambda value: a.text("Step", "argument", value),
    "path": lambda value: a.path("Step", "argument", value),
    "sequence": lambda value: a.sequence("Step", "argument", value, "a list of names"),
    "mapping": lambda value: a.mapping("Step", "argument", value, "a dict of options"),
    "function": lambda value: a.function("Step", "argument", value, "model -> loss"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_nasty_value_is_read_or_refused_in_one_line_that_names_the_argument(reader: str) -> None:
    refused = 0
    for label, make in VALUES:
        try:
            READERS[reader](make())
        except UsageError as error:
            refused += 1
            said = str(error)
            assert said.startswith("Step: argument="), (label, said)
            assert "it must be" in said, (label, said)
            assert len(said) < 300, (label, said)
            assert said.isprintable(), (label, said)
            said.encode()
    assert refused > 20


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (3, 3), (np.int64(3), 3), (np.uint8(3), 3), (np.array(3), 3), (torch.tensor(3), 3), (one("IntEnum"), 1),
    ],
    ids=lambda value: repr(value),
)  # fmt: skip
def test_a_whole_number_is_pythons_whatever_it_was(value: Any, plain: int) -> None:
    read = a.whole("Step", "n", value)
    assert read == plain
    assert type(read) is int


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5), fractions.Fraction(1, 2)],
    ids=lambda value: type(value).__name__,
)
def test_a_number_is_pythons_whatever_it_was(value: Any) -> None:
    read = a.number("Step", "x", value)
    assert read == 0.5
    assert type(read) is float


@pytest.mark.parametrize(
    "label",
    ["True", "np.True_", "array 0-d bool", "tensor 0-d bool", "number as text", "text that is a float", "bytes", "None",
     "1j", "np.complex64", "tensor complex", "tensor meta", "list", "array", "nan", "inf", "10**400",
     "Fraction 10**400", "np.float64 nan", "tensor 0-d nan", "object that raises", "object without attributes",
     "np.datetime64"],
)  # fmt: skip
def test_no_number(label: str) -> None:
    with pytest.raises(UsageError, match=r"^Step: x=.*; it must be a finite number"):
        a.number("Step", "x", one(label))
    assert not a.is_finite_number(one(label))


@pytest.mark.parametrize("value", [1.0, 1.5, np.float64(2), math.nan, math.inf, True, np.True_, torch.tensor(2.0), "2"])
def test_no_whole_number(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^Step: n=.*; it must be a whole number of at least 0"):
        a.whole("Step", "n", value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: a.whole("Step", "n", 0, least=1), "Step: n=0; it must be a whole number of at least 1"),
        (lambda: a.whole("Step", "n", 9, most=8), "Step: n=9; it must be a whole number from 0 to 8"),
        (lambda: a.whole("", "n", -1), "n=-1; it must be a whole number of at least 0"),
        (lambda: a.number("Step", "x", -1, least=0), "Step: x=-1; it must be a finite number, at least 0"),
        (lambda: a.number("Step", "x", 0, above=0), "Step: x=0; it must be a finite number above 0"),
        (lambda: a.number("Step", "x", 2, least=0, most=1), "Step: x=2; it must be in [0, 1]"),
        (lambda: a.number("Step", "x", 0, above=0, below=1), "Step: x=0; it must be in (0, 1)"),
        (lambda: a.number("Step", "x", 3, most=2), "Step: x=3; it must be a finite number, at most 2"),
        (lambda: a.number("Step", "x", 2, below=2), "Step: x=2; it must be a finite number below 2"),
        (lambda: a.fraction("EMA", "decay", 1.0), "EMA: decay=1.0; it must be in [0, 1)"),
        (lambda: a.flag("compare", "prune", 1), "compare: prune=1; it must be True or False"),
        (lambda: a.choice("w", "shape", "linaer", ("cosine", "linear")),
         "w: shape='linaer'; it must be one of cosine, linear; did you mean 'linear'?"),
        (lambda: a.choice("w", "shape", np.array(["linear"]), ("cosine", "linear")),
         "w: shape=a ndarray of shape (1,), <U6; it must be one of cosine, linear"),
        (lambda: a.number("Step", "x", 3, most=2, do="divide it by 2"),
         "Step: x=3; it must be a finite number, at most 2; divide it by 2"),
    ],
)  # fmt: skip
def test_one_shape_of_sentence(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == said


def test_flags_words_paths_and_lists_come_back_as_pythons_own() -> None:
    assert a.flag("compare", "prune", np.True_) is True
    assert type(a.choice("w", "shape", np.str_("linear"), ("linear",))) is str
    assert a.path("compare", "out", "runs/x") == Path("runs/x")
    assert a.sequence("SGD", "betas", np.array([0.5, 0.25]), "two numbers") == [0.5, 0.25]
    assert a.sequence("SGD", "betas", range(3), "numbers") == [0, 1, 2]


@pytest.mark.parametrize("label", ["lone surrogate", "text with null", "empty text", "blank text", "bytes", "None"])
def test_text_that_no_file_takes_is_refused(label: str) -> None:
    with pytest.raises(UsageError, match=r"^compare: out="):
        a.path("compare", "out", one(label))


def test_an_unknown_name_of_any_kind_is_one_short_line() -> None:
    for label, make in VALUES:
        said = str(unknown("optimizer", make(), ["adam", "sgd"]))
        assert said.isprintable(), label
        assert len(said) < 200, label
        nearest(make(), ["adam", "sgd"])


def test_a_value_is_shown_short_and_printable_whatever_its_repr_does() -> None:
    for label, make in VALUES:
        text = shown(make())
        assert 0 < len(text) <= 60, label
        assert text.isprintable(), label
