"""One pass over a loader: its position, the state that a checkpoint needs, and the resume from that state.

A checkpoint holds the states of all generators at the beginning of the pass, the number of batches used, and the states
before each batch that was drawn but not used yet (the look-ahead draws one). A resume restarts the pass with the first
states, skips the batches that were used, and draws the other batches again with their states. Afterwards training
continues with the generator states of the save.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stepwell.arguments import refusal
from stepwell.errors import UsageError
from stepwell.step.batch_digest import digest
from stepwell.step.generators import captured, changed, packed, set_generator_states
from stepwell.step.order import Order, begins_workers, has_order, prepare, watched, without
from stepwell.step.progress import moved

_NOTHING = object()


class Drawn:
    """A batch that was drawn and not used, and the generator states before it."""

    def __init__(self, batch: Any, before: Any, loader: Any) -> None:
        self.batch, self.before, self.loader = batch, before, loader


class Place:
    """One pass and its position."""

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
        """The state to resume from here, or UsageError if a resume is impossible; None after the last batch."""
        done = moved(self.mark)
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
            "digest": digest(self.held[1].batch) if checked else None,
            "outside": sorted(self.outside),
            "stepwise": self.stepwise,
            "starts": self.starts,
        }

    def _check_again(self) -> None:
        fault = self.fault
        if self.mixed is not None:
            fault = (
                f"its batches are drawn from {self.mixed}, which other code uses in between, so the batches cannot be "
                "drawn again; give the loader its own generator (and give it to the Step, as generators={...})"
            )
        elif self.kind == "iterator" and not self.always:
            fault = "it is over an iterator, which cannot be restarted; pass the loader that the iterator comes from"
        if fault is not None:
            raise UsageError(
                f"Step: this pass could not be resumed from a checkpoint: {fault}, or save between two passes"
            )

    # Going on

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Start the pass like the saved pass, and move to the first batch that was not used."""
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
            if saved["digest"] is not None and digest(self.queue[-1].batch) != saved["digest"]:
                raise UsageError(
                    "Step: the first batch after the checkpoint differs from that of the saved run; pass the loader as "
                    "at the beginning of its pass (and its epoch with set_epoch), and all generators that it uses "
                    "as generators={...}, or start a new pass: step.batches(loader, resume=False)"
                )
        finally:
            self._put_back(packed(now))
        self.outside |= set(saved["outside"])
        self.repeats = self.taken if saved["stepwise"] and not cut else 0
        self.order = None if cut else self.order

    def _check_same(self, saved: Mapping[str, Any]) -> None:
        if self.kind != saved["kind"]:
            raise UsageError(
                f"Step: the checkpoint was saved inside a pass over {KINDS[saved['kind']]}, and this is "
                f"{KINDS[self.kind]}; pass the same loader, or start a new pass: step.batches(loader, resume=False)"
            )
        lengths = {saved["length"], saved["length"] and saved["length"] - saved["taken"], None}
        if self.length not in lengths:
            raise UsageError(
                f"Step: the checkpoint was saved inside a pass of {saved['length']} batches, and this loader has "
                f"{self.length}; pass the same loader, or start a new pass: step.batches(loader, resume=False)"
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
                        f"Step: the checkpoint was saved after {skip} batches of a pass, and this loader has {number}; "
                        "pass the same loader, or start a new pass: step.batches(loader, resume=False)"
                    )
            self._check_states(first["before"], set(saved["outside"]))

    def _check_states(self, wanted: Mapping[str, Any], outside: set[str]) -> None:
        """Check that the generators of the loader have reached their saved states."""
        here = captured(self.given)
        drew = changed(self.began, here)
        wrong = drew & changed(_unpacked(wanted, self.given), here) - outside
        if wrong:
            raise UsageError(
                f"Step: the loader uses {min(wrong)} differently than in the saved pass; pass the loader "
                "as at the beginning of its pass, or start a new pass: step.batches(loader, resume=False)"
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
                "Step: the loader has fewer batches than in the saved pass; pass the same loader, or begin "
                "a new pass: step.batches(loader, resume=False)"
            ) from None
        return Drawn(batch, saved, state)

    def _put_back(self, states: Mapping[str, Any]) -> None:
        set_generator_states(self.given, states)


KINDS = {
    "order": "a DataLoader",
    "stateful": "a loader with a state_dict",
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
    """The length of a loader, or None if it has none. Raises UsageError for an object that gives no batches."""
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


def untouched(one: Place) -> bool:
    """Whether nothing was computed with the batch that was yielded."""
    return not moved(one.mark) and not changed(one.seen, captured(one.given))


def _workers_stay(loader: Any) -> bool:
    """Whether worker processes persist from one pass to the next, with their generators."""
    return bool(getattr(loader, "persistent_workers", False))


def _unpacked(states: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Packed states in the form of `captured`: set, captured, and restored."""
    now = captured(given)
    set_generator_states(given, states)
    found = captured(given)
    set_generator_states(given, packed(now))
    return found
