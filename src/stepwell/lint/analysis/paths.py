"""The ways through a block: lists of events, each as one round of a loop or one call may see them.

Conditions of the same text are decided alike on one path. A loop inside is gone through once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepwell.lint.analysis.events import Block, Branch, Call, Event, Item, Jump, Loop

MOST = 128  # paths; above it, nothing is claimed of a block


class TooMany(Exception):
    """There are more ways than anybody would look at."""


@dataclass
class _Way:
    events: list[Event]
    decided: dict[str, bool]
    jump: str = ""


def paths(block: Block, skip_raising: bool = True) -> list[list[Event]] | None:
    """The ways through a block, or None where there are too many. Those that end in `raise` are left out."""
    try:
        ways = _through(block, [_Way([], {})])
    except (TooMany, RecursionError):
        return None
    return [way.events for way in ways if not (skip_raising and way.jump == "raise")]


def pruned(block: Block, keep: Callable[[Event], bool]) -> Block:
    """A block with some of its events only: branches in which nothing of them happens make no ways of their own."""
    result: Block = []
    for item in block:
        if isinstance(item, Event):
            if keep(item):
                result.append(item)
        elif isinstance(item, Branch):
            bodies = [pruned(body, keep) for body in item.bodies]
            if any(bodies):
                result.append(Branch(item.node, item.test, bodies, item.negated))
        elif isinstance(item, Loop):
            body = pruned(item.body, keep)
            if _matters(body, "return"):
                result.append(Loop(item.node, item.role, body))
        elif isinstance(item, Call):
            body = pruned(item.body, keep)
            if _matters(body, "raise"):
                result.append(Call(item.node, item.function, body))
        else:
            result.append(item)
    return result


def _matters(block: Block, jump: str) -> bool:
    """Whether there is an event in a block, or a jump that leads further than out of this block."""
    return any(isinstance(item, Event) or (isinstance(item, Jump) and item.kind in (jump, "raise"))
               or (isinstance(item, Branch) and any(_matters(body, jump) for body in item.bodies))
               or (isinstance(item, (Loop, Call)) and bool(item.body)) for item in block)  # fmt: skip


def _through(block: Block, ways: list[_Way]) -> list[_Way]:
    for item in block:
        going = [way for way in ways if not way.jump]
        done = [way for way in ways if way.jump]
        if not going:
            return done
        ways = done + _over(item, going)
        if len(ways) > MOST:
            ways = _distinct(ways)
        if len(ways) > MOST:
            raise TooMany
    return ways


def _over(item: Item, ways: list[_Way]) -> list[_Way]:
    if isinstance(item, Event):
        for way in ways:
            way.events.append(item)
        return ways
    if isinstance(item, Jump):
        for way in ways:
            way.jump = item.kind
        return ways
    if isinstance(item, Branch):
        return _branch(item, ways)
    inner = _through(item.body, ways)
    leaving = ("break", "continue") if isinstance(item, Loop) else ("return",)
    for way in inner:
        if way.jump in leaving or (isinstance(item, Call) and way.jump in ("break", "continue")):
            way.jump = ""
    return inner


def _branch(item: Branch, ways: list[_Way]) -> list[_Way]:
    result: list[_Way] = []
    plain = len(item.bodies) == 2 and item.test is not None
    if not any(item.bodies):
        return ways
    for way in ways:
        for index, body in enumerate(item.bodies):
            decided = way.decided
            if plain and item.test is not None:
                holds = (index == 0) != item.negated
                if decided.get(item.test, holds) != holds:
                    continue
                decided = {**decided, item.test: holds}
            result += _through(body, [_Way(list(way.events), decided)])
    return _distinct(result) if len(result) > MOST // 2 else result


def _distinct(ways: list[_Way]) -> list[_Way]:
    """One of those with the same events."""
    found: dict[tuple[object, ...], _Way] = {}
    for way in ways:
        found.setdefault((way.jump, *map(id, way.events), *sorted(way.decided.items())), way)
    if len(found) > MOST:
        found = {}
        for way in ways:
            found.setdefault((way.jump, *map(id, way.events)), _Way(way.events, {}, way.jump))
    return list(found.values())
