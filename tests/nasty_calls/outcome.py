"""How a call with a nasty argument ends, and what is wrong with that."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stepwell.errors import UsageError

LIMIT = 20  # seconds for one call; the longest takes less than one
LONGEST = 700  # characters of a message


class Late(BaseException):
    """A call did not end in time."""


def check_message(message: str, words: tuple[str, ...] = ()) -> None:
    """A message is one printable line, not too long, and has one of `words` in it, if there are any."""
    assert message.isprintable(), f"not one printable line: {message[:200]!r}"
    assert len(message) <= LONGEST, f"{len(message)} characters: {message[:200]}"
    assert not words or any(word in message for word in words), f"none of {words} is in: {message}"


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise Late where the body takes longer."""

    def late(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(call: Callable[[], Any], words: tuple[str, ...] = (), users_own: bool = False) -> str:
    """What went wrong in one call, or "".

    Args:
        words: what names the argument in a message; one of them must be there.
        users_own: whether exceptions of the user's own code may come through.
    """
    try:
        with at_most(LIMIT):
            call()
    except UsageError as error:
        try:
            check_message(str(error), words)
        except AssertionError as wrong:
            return str(wrong)
    except Late:
        return f"no end after {LIMIT} s"
    except (TypeError, RuntimeError, ZeroDivisionError, ValueError) as error:
        return "" if users_own else f"{type(error).__name__}: {error}"[:300]
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""
