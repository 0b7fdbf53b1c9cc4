"""Every optimizer in every format of its state: what is timed, what it moves, and what it must reach.

The rows are made from `stepwell.optimizers.TABLE`: an optimizer that is added there has its rows here. Elementwise and
layer-wise rules are timed on 38M elements in 20 tensors; those that see whole matrices on two sets of matrices; those
that need a closure on 1M elements.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import peers
import workloads
from first_step import first_step_seconds
from fresh import empty_cache, in_fresh_process
from goals import Goal, least_share, most
from measure import Times, alternate, scaling
from memory import MIB, peak_extra_bytes, state_bytes
from stepwell.engine import Optimizer
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, find
from stepwell.optimizers.facts import state_bytes as state_bytes_declared
from table import Column, Table, decimals, milliseconds, percent, ratio
from traffic import moved_bytes, passes
from workloads import Workload, step_of

LR = 1e-6  # the weights hardly move: the numbers stay ordinary however long it runs
STATES = ("fp32", "bf16", "int8", "int4")
FUSED, LIMIT = "torch fused AdamW", "limit"

# Options, beside the usual ones of each optimizer, that cost something of their own or are what a peer has.
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "SGD": ({"momentum": 0.0},),
    "AdamW": ({"amsgrad": True}, {"cautious": True}),
    "RMSprop": ({"momentum": 0.9, "centered": True},),
    "Lion": ({"cautious": True},),
    "Shampoo": ({"momentum": 0.0},),
}
# What the usual settings would make too long to be timed.
SHORTER: dict[str, dict[str, Any]] = {"LBFGS": {"max_iter": 5, "history_size": 10}}

# Of those that do something more in every tenth or fifth step (eigenvectors, slow weights), so many are one turn.
IN_A_TURN = 10

ONE_PASS, TWO_PASSES = least_share(0.85), least_share(0.70)
AGAINST_PEER = most(1.0)


@dataclass(frozen=True)
class Row:
    """One optimizer with one set of options; the formats of its state are measured side by side."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    states: tuple[str | None, ...] = STATES  # None: the format that its name says
    is_usual: bool = True  # the options are those that `compare` takes

    @property
    def label(self) -> str:
        """The name; with other than the usual options as in a call, `RMSprop(momentum=0.9)`."""
        given = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return self.name if self.is_usual else f"{self.name}({given})"


def rows(names: Iterable[str], states: Iterable[str] = STATES) -> list[Row]:
    """The rows of these optimizers, in the order of the table."""
    result = []
    for name in names:
        cls = find(name)
        usual = {**cls.facts.compare_options, **SHORTER.get(name, {})}
        result.append(Row(name, usual, formats_of(cls, usual, tuple(states))))
        result += [Row(name, given, ("fp32",), is_usual=False) for given in VARIANTS.get(name, ()) if "fp32" in states]
    return result


def formats_of(cls: type[Any], options: Mapping[str, Any], states: tuple[str, ...] = STATES) -> tuple[str | None, ...]:
    """The formats of state that make a difference to a class; (None,) where its name says the format, or has none."""
    if not issubclass(cls, Optimizer) or "state" in inspect.signature(cls.__init__).parameters:
        return (None,)
    full = state_bytes_declared(cls, **{**options, "state": "fp32"})
    return tuple(s for s in states if s == "fp32" or state_bytes_declared(cls, **{**options, "state": s}) < full)


def is_elementwise(cls: type[Any]) -> bool:
    """Whether its step is a rule of elements (perhaps with sums), so that it is bound by memory."""
    signature = getattr(cls, "signature", None)
    return signature is not None and signature.view == "element" and not cls.facts.needs_closure


def workloads_of(name: str, scale: float) -> list[Workload]:
    """What an optimizer is timed on."""
    cls = find(name)
    if cls.facts.needs_closure:
        return [workloads.evaluated(scale)]
    if name == "SparseAdam":
        return [workloads.embedding(scale)]
    if is_elementwise(cls) or _wraps(cls):
        return [workloads.large(scale)]
    return [workloads.equal_matrices(scale), workloads.small_matrices(scale)]


def build(name: str, params: Any, options: Mapping[str, Any], state: str | None, backend: str) -> Any:
    """An optimizer of ours; one that wraps another is given AdamW."""
    cls = find(name)
    more: dict[str, Any] = {}
    if issubclass(cls, Optimizer):
        more = {"backend": backend, **({} if state is None else {"state": state})}
    if _wraps(cls):
        return cls(find("AdamW")(params, lr=LR, backend=backend), **options)
    return cls(params, lr=LR, **options, **more)


def _wraps(cls: type[Any]) -> bool:
    """Whether its first argument is another optimizer."""
    return next(name for name in inspect.signature(cls.__init__).parameters if name != "self") != "params"


@dataclass(frozen=True)
class Settings:
    """How the catalogue is measured."""

    device: str = "cpu"
    rounds: int = 9
    scale: float = 1.0
    backend: str = "auto"
    fresh: bool = True  # whether first steps and memory are measured, each in a new process


@dataclass
class Contestant:
    """Something that is timed: its optimizer is kept for its state."""

    optimizer: Any
    step: Callable[[], Any]


COLUMNS = (
    Column("optimizer", "optimizer", left=True),
    Column("state", "state", left=True),
    Column("seconds", "ms", milliseconds),
    Column("of fused", "x fused", ratio),
    Column("GB/s", "GB/s", decimals(1)),
    Column("share", "of limit", percent),
    Column("peer", "best peer", left=True),
    Column("peer seconds", "its ms", milliseconds),
    Column("of peer", "x peer", ratio),
    Column("state bytes", "B/param", decimals(2)),
    Column("peak extra", "extra MiB", decimals(1)),
    Column("first step", "first s", decimals(2)),
    Column("warm first step", "warm s", decimals(2)),
)
LEGEND = (
    "x fused: over torch's fused AdamW in fp32 on the same tensors. GB/s: by the bytes that the rule must move;",
    "of limit: as a share of the speed at which a tensor is scaled in place. x peer: over the fastest installed peer.",
    "B/param: state. extra: the peak of memory beyond parameters, gradients and state. first: the first step of a",
    "fresh process; warm: with its kernels on disk. Without options in its name an optimizer has its usual ones.",
)


def tables(names: Iterable[str], settings: Settings, progress: Callable[[str], None]) -> list[Table]:
    """One table per workload, with the rows of these optimizers."""
    found: dict[str, Table] = {}
    for row in rows(names):
        for workload in workloads_of(row.name, settings.scale):
            new = Table(f"the catalogue on {workload.name}", COLUMNS, notes=list(LEGEND))
            table = found.setdefault(workload.name, new)
            progress(f"{row.label} on {workload.name}")
            measure(row, workload, settings, table)
    return list(found.values())


def measure(row: Row, workload: Workload, settings: Settings, table: Table) -> None:
    """Time one optimizer in its formats, its peers and torch's fused AdamW in turn; add its rows to `table`."""
    contestants: dict[str, Contestant] = {}
    rivals: dict[str | None, list[str]] = {}
    params = workload.make(settings.device)
    states = _states_here(row, params, settings, table)
    for state in states:
        optimizer = build(row.name, params, row.options, state, settings.backend)
        contestants[_key(state)] = Contestant(optimizer, step_of(optimizer, params, workload))
        rivals[state] = _add_peers(row, state, workload, settings, contestants, table)
    fused = peers.torch_fused_adamw(dense(workload).make(settings.device), LR)
    contestants[FUSED] = Contestant(fused, fused.step)
    contestants[LIMIT] = Contestant(None, scaling(workload.elements, settings.device))
    actions = {name: one.step for name, one in contestants.items()}
    uneven = not is_elementwise(find(row.name)) and not workload.evaluated
    times = alternate(actions, settings.device, settings.rounds, inner=IN_A_TURN if uneven else 1)
    for state in states:
        figures, goals = _figures(row, state, rivals[state], workload, contestants, times, settings)
        table.add(figures, goals)
    contestants.clear()
    gc.collect()


def dense(workload: Workload) -> Workload:
    """The same tensors with all rows touched: torch's fused AdamW takes no others."""
    return Workload(workload.name, workload.shapes)


def _key(state: str | None) -> str:
    return f"stepwell {state or ''}".strip()


def _states_here(row: Row, params: Any, settings: Settings, table: Table) -> list[str | None]:
    """The formats that the optimizer takes; the others are noted with its reason."""
    taken = []
    for state in row.states:
        try:
            build(row.name, params, row.options, state, settings.backend)
            taken.append(state)
        except UsageError as error:
            table.notes.append(f"{row.label}, state {state}: {error}")
    return taken


def _add_peers(
    row: Row,
    state: str | None,
    workload: Workload,
    settings: Settings,
    contestants: dict[str, Contestant],
    table: Table,
) -> list[str]:
    """Make the peers of one format, each with tensors of its own (some write gradients), and try them once."""
    found = []
    for label, make in peers.peers(row.name, row.options, state, LR).items():
        params = workload.make(settings.device)
        try:
            with peers.quiet():
                optimizer = make(params)
                step = step_of(optimizer, params, workload)
                step()
        except Exception as error:  # whatever other people's code raises on this machine
            lines = str(error).strip().splitlines() or [""]
            table.notes.append(f"{row.label}, peer {label}: does not run here ({type(error).__name__}: {lines[0]})")
            continue
        name = label if state in (None, "fp32") else f"{label} {state}"
        contestants[name] = Contestant(optimizer, step)
        found.append(name)
    return found


def _figures(
    row: Row,
    state: str | None,
    rivals: list[str],
    workload: Workload,
    contestants: dict[str, Contestant],
    times: Times,
    settings: Settings,
) -> tuple[dict[str, Any], dict[str, Goal | None]]:
    name, optimizer = _key(state), contestants[_key(state)].optimizer
    best = min(rivals, key=times.seconds, default=None)
    moved, count = moved_bytes(optimizer), passes(optimizer)
    figures: dict[str, Any] = {
        "optimizer": row.label,
        "options": dict(row.options),
        "state": state or _format_of_name(optimizer),
        "seconds": times.seconds(name),
        "of fused": times.ratio(name, FUSED),
        "peer": best,
        "peer seconds": None if best is None else times.seconds(best),
        "of peer": None if best is None else times.ratio(name, best),
        "state bytes": state_bytes(optimizer) / workload.elements,
        "peers": {rival: times.seconds(rival) for rival in rivals},
        "peers' first step": {rival: times.first[rival] for rival in rivals},
        "fused seconds": times.seconds(FUSED),
        "limit GB/s": 8 * workload.elements / times.seconds(LIMIT) / 1e9,
        "passes": count,
    }
    goals: dict[str, Goal | None] = {"of peer": AGAINST_PEER}
    if moved is not None:
        moved *= workload.rows_touched
        figures["GB/s"] = moved / figures["seconds"] / 1e9
        figures["bytes per element"] = moved / workload.elements
        # the limit moves 8 bytes per element: the share of its speed, round by round
        figures["share"] = moved / (8 * workload.elements) / times.ratio(name, LIMIT)
        if figures["state"] == "fp32" and workload.rows_touched == 1:
            goals["share"] = ONE_PASS if count == 1 else TWO_PASSES
    if settings.fresh:
        figures |= fresh_figures(row, state, workload, settings)
        allowed = max(16.0, 0.01 * (8 * workload.elements + figures["state bytes"] * workload.elements) / MIB)
        if count == 1:
            goals["peak extra"] = most(round(allowed, 1), digits=1)
    if row.name == "AdamW" and not row.options and state == "fp32":
        goals["of fused"] = most(1.0)
    return figures, goals


def _format_of_name(optimizer: Any) -> str | None:
    return optimizer.param_groups[0].get("state") if isinstance(optimizer, Optimizer) else None


def fresh_figures(row: Row, state: str | None, workload: Workload, settings: Settings) -> dict[str, float]:
    """First steps and the peak of memory, in new processes."""
    arguments = (row.name, dict(row.options), state, workload, settings.device, settings.backend)
    with empty_cache() as cache:
        cold = in_fresh_process(_first_step, *arguments, cache=cache)
        warm, extra = in_fresh_process(_first_step_and_memory, *arguments, cache=cache)
    return {"first step": cold, "warm first step": warm, "peak extra": extra / MIB}


def _first_step(
    name: str, options: dict[str, Any], state: str | None, workload: Workload, device: str, backend: str
) -> float:
    """On one tensor of the workload at its smallest that has the same kernels."""
    little = Workload(workload.name, (_little(workload.shapes[0]),), workload.rows_touched, workload.evaluated)
    params = little.make(device)
    return first_step_seconds(
        lambda: build(name, params, options, state, backend), lambda o: step_of(o, params, little)(), device
    )


def _first_step_and_memory(
    name: str, options: dict[str, Any], state: str | None, workload: Workload, device: str, backend: str
) -> tuple[float, float]:
    seconds = _first_step(name, options, state, workload, device, backend)
    if device == "cpu":
        torch.ones(2**20).mul_(1.0).sum()  # the threads are there
    params = workload.make(device)
    extra, _ = peak_extra_bytes(
        lambda: build(name, params, options, state, backend), lambda o: step_of(o, params, workload)(), device
    )
    return seconds, extra


def _little(shape: tuple[int, ...]) -> tuple[int, ...]:
    """At least 4,096 elements: smaller tensors keep their state in fp32, which is another kernel."""
    return (min(shape[0], 200), *shape[1:])


def all_names() -> list[str]:
    """The optimizers there are."""
    return list(TABLE)
