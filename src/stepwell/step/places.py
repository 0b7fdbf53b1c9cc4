"""Passes over a loader: with one batch of look-ahead, and an exact resume of a pass that was saved in its middle."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from stepwell.errors import UsageError
from stepwell.step.generators import Generators, captured, check_generator_states
from stepwell.step.part import PutBack
from stepwell.step.passes import Pass
from stepwell.step.place import KINDS, Drawn, Place, untouched
from stepwell.step.progress import Progress, marks, moved

_RECORD = {"kind", "length", "taken", "began", "held", "order", "digest", "outside", "stepwise", "starts"}


class Places:
    """The passes of a Step: how many have ended, the open pass, and the pass to resume."""

    def __init__(self, progress: Progress, generators: Generators) -> None:
        self._progress, self._generators = progress, generators
        progress.watch()
        self.finished = 0
        self._counted: Pass | None = None  # the calls in the pass that is open
        self._calls_per_batch: int | None = None  # in the passes before
        self._open: Place | None = None
        self._left: Place | None = None  # a pass that the loop left before its end
        self._saved: Mapping[str, Any] | None = None
        self._at_end = False
        self._since: Any = None  # how far the step was when the checkpoint was loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None, "_left": None}  # a pass cannot be copied

    def begin(self, loader: Iterable[Any], resume: bool) -> Place:
        """Start a pass over the loader, or the rest of the saved pass."""
        one = Place(loader, self._generators.given)
        if self._saved is not None and self._since != self._progress.mark():
            self._saved = None  # steps have been made outside of it: the place is over
        if self._at_end and resume:
            warnings.warn(
                f"Step: the checkpoint was saved at the last batch of a pass, so this is a new pass; count passes "
                f"with step.passes, which is {self.finished}",
                UserWarning,
                stacklevel=3,
            )
        if self._saved is not None and resume:
            one.resume(self._saved)
        else:
            one.begin()
        self._saved, self._left, self._at_end, self._open = None, None, False, one
        return one

    def batches(self, place: Place, settle: Callable[[], None], before_next: Callable[[], None]) -> Iterator[Any]:
        """The batches of a pass that has started.

        Args:
            settle: called before each batch is yielded; finishes an interrupted call.
            before_next: called when it may be known whether the next micro-batch is the last of an update.
        """
        ended = False
        batch = place.draw()
        mine = Pass(self._calls_per_batch)
        try:
            while batch is not None:
                following = place.draw()
                settle()
                self._counted = mine
                mine.begin(last=following is None)
                before_next()
                yield from self._hand_out(place, batch, following)
                batch = following
            ended = True
        finally:
            self._calls_per_batch = mine.usual()
            if self._counted is mine:
                self._counted = None
                before_next()
            self._close(place, ended)

    @property
    def at_last(self) -> bool:
        """Whether the last batch of a pass was yielded."""
        return self._counted is not None and self._counted.at_last

    def called(self) -> bool:
        """Count a micro-batch. Returns whether it is the last of a pass, as far as known."""
        return self._counted is not None and self._counted.called()

    def _hand_out(self, one: Place, current: Drawn, following: Drawn | None) -> Iterator[Any]:
        """Yield the next batch: once, or several times to a loop that skips batches by itself."""
        self._note(one, current, following)
        yield current.batch
        while one.repeats and untouched(one):
            one.repeats -= 1
            self._note(one, current, following)
            yield current.batch
        one.repeats = 0
        one.stepwise = one.stepwise and moved(one.mark)
        one.taken += 1

    def _close(self, one: Place, ended: bool) -> None:
        """Called when the loop ends: at the end of the pass, or before."""
        self.finished += 1
        if self._open is one:
            self._open = None
            self._left = None if ended or not one.held else one

    def _note(self, one: Place, current: Drawn, following: Drawn | None) -> None:
        if self._open is not one and self._open is not None:
            one.fault = self._open.fault = "two passes are open at the same time"
        self._open, self._saved, self._at_end = one, None, False
        one.held = [current] if following is None else [current, following]
        one.mark = marks()
        one.seen = captured(one.given) if one.repeats else None

    # As a part

    def state_dict(self) -> dict[str, Any]:
        """The state of the passes. Raises UsageError inside a pass that cannot be resumed."""
        if self._saved is not None and self._since == self._progress.mark():  # loaded, and not gone on with yet
            return {"finished": self.finished, "open": self._saved, "at_end": False}
        one, finished = self._open, self.finished
        if one is None and self._left is not None and sys.exc_info()[0] is not None:
            one, finished = self._left, finished - 1  # the loop was left by the exception that is being handled
        if one is None or not one.held:
            return {"finished": finished, "open": None, "at_end": self._at_end}
        found = one.state()
        return {"finished": finished + (found is None), "open": found, "at_end": found is None}

    def check_state(self, state: Any) -> None:
        _check_passes(state, self._generators.given)

    def load_state_dict(self, state: Any) -> None:
        """Load the result of `state_dict`; the next pass resumes."""
        saved = state or {"finished": 0, "open": None, "at_end": False}
        self.finished, self._saved, self._at_end = saved["finished"], saved["open"], saved["at_end"]
        self._open = self._left = None

    def loaded(self) -> None:
        """Called when all parts are loaded: the position is valid until a step is made outside the pass."""
        self._since = self._progress.mark()

    def kept(self) -> PutBack:
        names = ("finished", "_saved", "_at_end", "_open", "_left", "_since")
        values = {name: getattr(self, name) for name in names}
        return lambda: self.__dict__.update(values)


def _check_passes(saved: Any, given: Mapping[str, Any]) -> None:
    """Raise UsageError for a state from which `load_state_dict` cannot resume."""
    if saved is None:  # of an earlier version
        return
    record = saved.get("open") if isinstance(saved, Mapping) else None
    right = isinstance(saved, Mapping) and {"finished", "open", "at_end"} <= saved.keys() and _whole(saved["finished"])
    if right and record is not None:
        right = isinstance(record, Mapping) and record.keys() >= _RECORD and record["kind"] in KINDS
        right = right and _whole(record["taken"]) and (record["length"] is None or _whole(record["length"]))
        held = record["held"] if right else None
        right = right and isinstance(held, list) and 1 <= len(held) <= 2
        right = right and all(isinstance(one, Mapping) and {"before", "loader"} <= one.keys() for one in held or ())
    if not right:
        raise UsageError("Step: the 'passes' of the checkpoint are damaged; was it changed after it was saved?")
    if record is not None:
        for states in (record["began"], *(one["before"] for one in record["held"])):
            check_generator_states(given, states)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
