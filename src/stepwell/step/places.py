"""Passes over a loader: one batch is looked ahead, and a pass that was saved in its middle goes on exactly there.

A checkpoint holds the states of all generators at the beginning of the pass, how many batches have been stepped on,
and the states before each batch that was drawn and not stepped on yet (the look-ahead has drawn one). To go on, the
pass is begun anew with the first states, what was stepped on is passed over, and the others are drawn again with
theirs; then training draws on as it did when the checkpoint was saved.
"""

from __future__ import annotations

import sys
import warnings
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from stepwell.arguments import refusal
from stepwell.errors import UsageError
from stepwell.step.generators import captured, changed, check_generator_states, packed, set_generator_states
from stepwell.step.order import Order, begins_workers, has_order, prepare, watched, without

if TYPE_CHECKING:
    from stepwell.step.step import Step

_STEPS: weakref.WeakSet[Any] = weakref.WeakSet()  # a GAN's two take turns on one batch
_NOTHING = object()
_RECORD = {"kind", "length", "taken", "began", "held", "order", "digest", "outside", "stepwise", "starts"}


class Drawn:
    """A batch that was drawn and not stepped on, and what the generators were before."""

    def __init__(self, batch: Any, before: Any, loader: Any) -> None:
        self.batch, self.before, self.loader = batch, before, loader


class Place:
    """One pass, as far as it has come."""

    def __init__(self, loader: Any, given: Mapping[str, Any]) -> None:
        self.loader, self.given = loader, given
        self.kind = _kind(loader)
        self.length = length_of(loader)
        self.began: Any = None
        self.starts = True  # whether the loader's workers were started with this pass
        self.iterator: Any = None
        self.order: Order | None = None
        self.taken = 0
        self.held: list[Drawn] = []  # what is in the loop, and what is looked ahead
        self.queue: list[Drawn] = []  # drawn again for a pass that goes on
        self.mark: Any = None  # the counts of all steps when the newest batch was handed out
        self.stepwise = True  # whether a step has followed on every batch
        self.repeats = 0  # how often the first batch may be handed out again, to a loop that skips by itself
        self.seen: Any = None  # the generators when it was
        self.outside: set[str] = set()  # generators from which others than the loader have drawn since the beginning
        self.mixed: str | None = None  # one of them, from which the loader has drawn later
        self.always = True  # whether each batch was drawn from a generator that is saved
        self.fault: str | None = None
        self._after: Any = None

    def begin(self) -> None:
        self.starts = begins_workers(self.loader)
        self.began = captured(self.given)
        self.iterator = iter(self.loader)
        self.order = watched(self.iterator) if self.kind == "order" else None
        self._after = captured(self.given)

    def draw(self) -> Drawn | None:
        """The next batch, or None at the end."""
        if self.queue:
            return self.queue.pop(0)
        before = captured(self.given)
        state = self.loader.state_dict() if self.kind == "stateful" else None
        batch = next(self.iterator, _NOTHING)
        if self.kind in ("drawn", "iterator"):
            self._look(before, captured(self.given), batch is _NOTHING)
        return None if batch is _NOTHING else Drawn(batch, before, state)

    def _look(self, before: Any, after: Any, end: bool) -> None:
        self.outside |= changed(self._after, before)
        drew = changed(before, after)
        self.mixed = self.mixed or next(iter(sorted(drew & self.outside)), None)
        self.always = self.always and (end or bool(drew))
        self._after = after

    def state(self) -> dict[str, Any] | None:
        """What is needed to go on here, or UsageError where that cannot be done; None after the last batch."""
        done = _moved(self.mark)
        left = self.held[1:] if done else self.held
        if not left:
            return None
        self._check_again()
        checked = self.kind in ("drawn", "iterator") and len(self.held) == 2 and not _workers_stay(self.loader)
        return {
            "kind": self.kind,
            "length": self.length,
            "taken": self.taken + done,
            "began": packed(self.began),
            "held": [{"before": packed(one.before), "loader": one.loader} for one in left],
            "order": None if self.order is None else self.order.last,
            "digest": _digest(self.held[1].batch) if checked else None,
            "outside": sorted(self.outside),
            "stepwise": self.stepwise,
            "starts": self.starts,
        }

    def _check_again(self) -> None:
        fault = self.fault
        if self.mixed is not None:
            fault = (
                f"its batches are drawn from {self.mixed}, from which others draw between them, so they cannot be "
                "drawn again; give the loader a generator of its own (and to the Step, as generators={...})"
            )
        elif self.kind == "iterator" and not self.always:
            fault = "it is over an iterator, which cannot be begun again; pass the loader that the iterator is made of"
        if fault is not None:
            raise UsageError(
                f"Step: a checkpoint inside this pass could not go on: {fault}, or save between two passes"
            )

    # Going on

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Begin the pass as the saved one, and go to the batch after the last that was stepped on."""
        skip = self.taken = saved["taken"]
        self._check_same(saved)
        cut = saved["length"] is not None and self.length is not None and self.length != saved["length"]
        if cut:  # the user has left out what was seen (skip_first_batches)
            skip, self.length = 0, saved["length"]
        now, self.starts = captured(self.given), saved["starts"]
        self.began = _unpacked(saved["began"], self.given)
        try:
            if self.kind == "order":
                prepare(self.loader, self.starts)
            self._put_back(saved["began"])
            self._go_to(saved, skip, None if cut else saved["order"])
            if cut:  # with its first batch it passes over the others: that needs the first states
                self.queue.append(self._again(saved["held"][0]))
            for one in saved["held"]:
                self._draw_again(one)
            if saved["digest"] is not None and _digest(self.queue[-1].batch) != saved["digest"]:
                raise UsageError(
                    "Step: the batch after the checkpoint is another one than when it was saved; pass the loader as "
                    "at the beginning of its pass (and its epoch with set_epoch), and all generators that it draws "
                    "from as generators={...}, or begin a new pass: step.batches(loader, resume=False)"
                )
        finally:
            self._put_back(packed(now))
        self.outside |= set(saved["outside"])
        self.repeats = self.taken if saved["stepwise"] and not cut else 0
        self.order = None if cut else self.order

    def _check_same(self, saved: Mapping[str, Any]) -> None:
        if self.kind != saved["kind"]:
            raise UsageError(
                f"Step: the checkpoint is from inside a pass over {_KINDS[saved['kind']]}, and this is "
                f"{_KINDS[self.kind]}; pass the same loader, or begin a new pass: step.batches(loader, resume=False)"
            )
        lengths = {saved["length"], saved["length"] and saved["length"] - saved["taken"], None}
        if self.length not in lengths:
            raise UsageError(
                f"Step: the checkpoint is from inside a pass of {saved['length']} batches, and this loader has "
                f"{self.length}; pass the same loader, or begin a new pass: step.batches(loader, resume=False)"
            )

    def _go_to(self, saved: Mapping[str, Any], skip: int, expected: list[int] | None) -> None:
        first = saved["held"][0]
        if self.kind == "stateful":
            if self.taken:  # before its first batch it may still tell of the pass before
                self.loader.load_state_dict(first["loader"])
            self.iterator = iter(self.loader)
        elif self.kind == "order":
            self.iterator, self.order = without(self.loader, skip, expected)
            if (
                not self.order.pass_over() and skip
            ):  # it begins with its first batch only: draw that with the first states
                self.queue.append(self._again(first))
        else:
            self.iterator = iter(self.loader)
            for number in range(skip):
                if next(self.iterator, _NOTHING) is _NOTHING:
                    raise UsageError(
                        f"Step: the checkpoint is from after {skip} batches of a pass, and this loader has {number}; "
                        "pass the same loader, or begin a new pass: step.batches(loader, resume=False)"
                    )
            self._check_states(first["before"], set(saved["outside"]))

    def _check_states(self, wanted: Mapping[str, Any], outside: set[str]) -> None:
        """The generators that only the loader draws from must have come to where they were."""
        here = captured(self.given)
        drew = changed(self.began, here)
        wrong = drew & changed(_unpacked(wanted, self.given), here) - outside
        if wrong:
            raise UsageError(
                f"Step: the loader draws otherwise from {min(wrong)} than in the pass that was saved; pass the loader "
                "as at the beginning of its pass, or begin a new pass: step.batches(loader, resume=False)"
            )

    def _draw_again(self, saved: Mapping[str, Any]) -> None:
        if self.queue and self.queue[0].before is saved:
            self.queue[0].before = _unpacked(saved["before"], self.given)
            return
        self._put_back(saved["before"])
        one = self._again(saved)
        one.before = _unpacked(saved["before"], self.given)
        self.queue.append(one)
        self._after = captured(self.given)

    def _again(self, saved: Mapping[str, Any]) -> Drawn:
        state = self.loader.state_dict() if self.kind == "stateful" else None
        try:
            batch = next(self.iterator)
        except StopIteration:
            raise UsageError(
                "Step: the loader has fewer batches than in the pass that was saved; pass the same loader, or begin "
                "a new pass: step.batches(loader, resume=False)"
            ) from None
        return Drawn(batch, saved, state)

    def _put_back(self, states: Mapping[str, Any]) -> None:
        set_generator_states(self.given, states)


class Places:
    """The passes of a Step: how many have ended, which is open, and which is to be gone on with."""

    def __init__(self, step: Step) -> None:
        _STEPS.add(step)
        self.finished = 0
        self._open: Place | None = None
        self._left: Place | None = None  # a pass that the loop left before its end
        self._saved: Mapping[str, Any] | None = None
        self._at_end = False
        self._since: Any = None  # how far the step was when the checkpoint was loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None, "_left": None}  # a pass cannot be copied

    def begin(self, step: Step, loader: Iterable[Any], resume: bool) -> Place:
        """A pass over the loader, or the rest of the one that was saved."""
        one = Place(loader, step.generators)
        if self._saved is not None and self._since != _count(step):
            self._saved = None  # steps have been made outside of it: the place is over
        if self._at_end and resume:
            warnings.warn(
                f"Step: the checkpoint was saved with the last batch of a pass, so this is a new pass; count passes "
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

    def hand_out(self, one: Place, current: Drawn, following: Drawn | None) -> Iterator[Any]:
        """The batch that is next in the loop: once, or (to a loop that skips what it has seen) some times more."""
        self._note(one, current, following)
        yield current.batch
        while one.repeats and _untouched(one):
            one.repeats -= 1
            self._note(one, current, following)
            yield current.batch
        one.repeats = 0
        one.stepwise = one.stepwise and _moved(one.mark)
        one.taken += 1

    def close(self, one: Place, ended: bool) -> None:
        """The loop is over: at the end of the pass, or before."""
        self.finished += 1
        if self._open is one:
            self._open = None
            self._left = None if ended or not one.held else one

    def _note(self, one: Place, current: Drawn, following: Drawn | None) -> None:
        if self._open is not one and self._open is not None:
            one.fault = self._open.fault = "two passes are open at once"
        self._open, self._saved, self._at_end = one, None, False
        one.held = [current] if following is None else [current, following]
        one.mark = _counts()
        one.seen = captured(one.given) if one.repeats else None

    # Checkpoints

    def state(self, step: Step) -> dict[str, Any]:
        """Where the passes are; UsageError inside one that cannot be gone on with."""
        if self._saved is not None and self._since == _count(step):  # loaded, and not gone on with yet
            return {"finished": self.finished, "open": self._saved, "at_end": False}
        one, finished = self._open, self.finished
        if one is None and self._left is not None and sys.exc_info()[0] is not None:
            one, finished = self._left, finished - 1  # the loop was left by the exception that is being handled
        if one is None or not one.held:
            return {"finished": finished, "open": None, "at_end": self._at_end}
        found = one.state()
        return {"finished": finished + (found is None), "open": found, "at_end": found is None}

    def load(self, step: Step, saved: Mapping[str, Any] | None) -> None:
        """Take over what `state` gave; the next pass goes on."""
        saved = saved or {"finished": 0, "open": None, "at_end": False}
        self.finished, self._saved, self._at_end = saved["finished"], saved["open"], saved["at_end"]
        self._open = self._left = None
        self._since = _count(step)


def check_passes(saved: Any, given: Mapping[str, Any]) -> None:
    """Raise UsageError for what `Places.load` could not go on with."""
    if saved is None:  # of an earlier version
        return
    record = saved.get("open") if isinstance(saved, Mapping) else None
    right = isinstance(saved, Mapping) and {"finished", "open", "at_end"} <= saved.keys() and _whole(saved["finished"])
    if right and record is not None:
        right = isinstance(record, Mapping) and record.keys() >= _RECORD and record["kind"] in _KINDS
        right = right and _whole(record["taken"]) and (record["length"] is None or _whole(record["length"]))
        held = record["held"] if right else None
        right = right and isinstance(held, list) and 1 <= len(held) <= 2
        right = right and all(isinstance(one, Mapping) and {"before", "loader"} <= one.keys() for one in held or ())
    if not right:
        raise UsageError("Step: the 'passes' of the checkpoint are damaged; was it changed after it was saved?")
    if record is not None:
        for states in (record["began"], *(one["before"] for one in record["held"])):
            check_generator_states(given, states)


_KINDS = {
    "order": "a DataLoader",
    "stateful": "a loader with a state of its own",
    "iterator": "an iterator",
    "drawn": "an iterable that draws no indices",
}


def _kind(loader: Any) -> str:
    inside = getattr(loader, "base_dataloader", loader)  # Accelerate's loader passes on the state of the one inside
    own = [getattr(type(one), name, None) for one in (loader, inside) for name in ("state_dict", "load_state_dict")]
    if all(callable(one) for one in own) and not isinstance(loader, nn.Module):
        return "stateful"
    if has_order(loader):
        return "order"
    return "iterator" if hasattr(type(loader), "__next__") else "drawn"


def checked_length(loader: Any) -> int | None:
    """The length of a loader, or None where it has none; UsageError for what gives no batches."""
    must = "an iterable of batches, such as a DataLoader"
    try:
        iterable = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
        if isinstance(loader, (str, bytes, bytearray, memoryview, Mapping, type)) or getattr(loader, "ndim", 1) == 0:
            iterable = False
        length = length_of(loader) if iterable else None
    except Exception:  # a method of the user's own may raise anything
        raise refusal("Step", "loader", loader, must) from None
    if not iterable or (length is not None and length < 0):
        raise refusal("Step", "loader", loader, must)
    return length


def length_of(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _count(step: Step) -> tuple[int, int]:
    return step._shares.number, step._number + step._skipped + (step._pending is not None)


def _counts() -> dict[int, tuple[int, int]]:
    """How far each step is, so that one can see whether any has taken in a loss since."""
    return {id(step): _count(step) for step in list(_STEPS)}


def _moved(since: Mapping[int, tuple[int, int]]) -> bool:
    now = _counts()
    return any(now.get(one, count) != count for one, count in since.items())


def _untouched(one: Place) -> bool:
    """Whether nothing was computed with the batch that was handed out."""
    return not _moved(one.mark) and not changed(one.seen, captured(one.given))


def _workers_stay(loader: Any) -> bool:
    """Whether worker processes keep their generators from one pass to the next."""
    return bool(getattr(loader, "persistent_workers", False))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _unpacked(states: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Packed states as `captured` would give them: set, read, and put back."""
    now = captured(given)
    set_generator_states(given, states)
    found = captured(given)
    set_generator_states(given, packed(now))
    return found


def _digest(batch: Any) -> int:
    """A check sum of the numbers and words in a batch."""
    total = 0
    for part in _parts(batch):
        total = zlib.crc32(part, total)
    return total


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        if value.layout == torch.strided and not value.is_quantized:
            flat = value.detach().reshape(-1)
            flat = flat[:: max(1, flat.numel() // 65_536)]
            yield flat.contiguous().cpu().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        if value.dtype.kind != "O":
            yield np.ascontiguousarray(value.reshape(-1)[:: max(1, value.size // 65_536)]).tobytes()
    elif isinstance(value, Mapping):
        for key in value:
            yield repr(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    elif isinstance(value, (str, bytes, int, float, bool)) or value is None:
        yield repr(value).encode()
    elif hasattr(value, "__dict__"):
        yield type(value).__name__.encode()
        yield from _parts(vars(value))
    else:
        yield type(value).__name__.encode()
