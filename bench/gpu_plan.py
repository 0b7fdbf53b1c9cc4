"""What a visit to a GPU measures, in which order, and how long each part may take.

Nothing here imports torch: the process that plans and writes must outlive whatever happens to the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from goals import Goal, least_share, most
from table import Column, decimals, milliseconds, percent, ratio

FACTS_SECONDS = 60  # the first import of torch on a machine reads a gigabyte of libraries
TESTS, TESTS_SECONDS = "tests", 120
ROW_SECONDS = 45  # a row takes 5 to 10, with its compilation; one that hangs must leave time for the others

OF_COPY = least_share(0.85)  # of the speed of a copy in the same rounds
OF_FUSED = most(0.2)  # five times as fast as torch's fused step


@dataclass(frozen=True)
class How:
    """How all rows are measured. Sent to the process that measures."""

    device: str = "cuda"
    backend: str = "auto"
    scale: float = 1.0
    rounds: int = 15
    calls: int = 100  # at most so many in one turn


@dataclass(frozen=True)
class Row:
    """One optimizer in one format, timed in turn with torch's and with a copy.

    Args:
        workload: a function of `workloads`.
        size: the workload's scale at `--scale 1`.
        weights: how bf16 weights are rounded; None for fp32 weights.
        calls: steps in one turn. Several, so that the host runs ahead as it does in training.
    """

    label: str
    optimizer: str
    workload: str
    state: str = "fp32"
    weights: str | None = None
    size: float = 1.0
    calls: int = 10
    goals: Mapping[str, Goal] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """Rows of one table, and how many seconds they may take together."""

    name: str
    title: str
    seconds: float
    rows: tuple[Row, ...]

    @property
    def has_one_workload(self) -> bool:
        """Whether all rows are timed on the same tensors."""
        return len({(row.workload, row.size) for row in self.rows}) == 1


COLUMNS = (
    Column("label", "step", left=True),
    Column("seconds", "ms", milliseconds),
    Column("host seconds", "host ms", milliseconds),
    Column("of fused", "x torch fused", ratio),
    Column("of foreach", "x foreach", ratio),
    Column("of torch", "x torch", ratio),
    Column("of AdamW", "x fused AdamW", ratio),
    Column("GB/s", "GB/s", decimals(0)),
    Column("share", "of copy", percent),
    Column("copy GB/s", "copy GB/s", decimals(0)),
    Column("state bytes", "B/param", decimals(2)),
    Column("first step", "first s", decimals(2)),
    Column("kernels", "new kernels"),
)
LEGEND = (
    "ms: of one step of several without a pause. host ms: until the call returns, with nothing to wait for. x: over",
    "torch.optim on the same tensors (fused, foreach, or its only way), and over torch's fused AdamW. GB/s: by the",
    "bytes that the rule must move; of copy: as a share of the speed of a copy in the same rounds. B/param: state.",
    "first s: the first step, with its compilation. bf16 weights: torch has its state in bf16, too.",
)

LARGE = 7.0  # 266M elements: each array is 1 GB, many times the cache of a GPU


def _adamw(label: str, state: str = "fp32", weights: str | None = None, goal: Goal | None = None) -> Row:
    goals = {} if goal is None else {"share": goal}
    return Row(f"AdamW {label}", "AdamW", "large", state, weights, LARGE, goals=goals)


def _decoder(label: str, state: str = "fp32", weights: str | None = None) -> Row:
    return Row(f"AdamW {label}", "AdamW", "transformer", state, weights, calls=5)


def _small(label: str, state: str) -> Row:
    return Row(f"AdamW {label}", "AdamW", "small", state, calls=50, goals={"of fused": OF_FUSED})


SECTIONS = (
    Section(
        "adamw",
        "AdamW by format",
        120,
        (
            _adamw("fp32", goal=OF_COPY),
            _adamw("state bf16", "bf16", goal=OF_COPY),
            _adamw("state int8", "int8", goal=OF_COPY),
            _adamw("state int4", "int4"),
            _adamw("bf16 weights, split", weights="split"),
            _adamw("bf16 weights, stochastic", weights="stochastic"),
        ),
    ),
    Section("small", "small tensors", 40, (_small("fp32", "fp32"), _small("state bf16", "bf16"))),
    Section(
        "others",
        "Lion and LAMB",
        50,
        (
            Row("Lion fp32", "Lion", "large", size=LARGE),
            Row("LAMB fp32", "LAMB", "large", size=LARGE),
            Row("Lion state int8", "Lion", "large", "int8", size=LARGE),
        ),
    ),
    Section(
        "muon",
        "Muon",
        50,
        (
            Row("Muon fp32", "Muon", "equal_matrices", size=2, calls=3),
            Row("Muon fp32, small", "Muon", "small_matrices", calls=3),
        ),
    ),
    Section(
        "decoder",
        "AdamW on the shapes of a model with 1.1B parameters",
        80,
        (
            _decoder("fp32"),
            _decoder("state int8", "int8"),
            _decoder("bf16 weights, stochastic", weights="stochastic"),
            _decoder("bf16 weights, stochastic, state int8", "int8", "stochastic"),
        ),
    ),
)
NAMES = (TESTS, *(section.name for section in SECTIONS))


def chosen(only: str | None) -> list[str]:
    """The parts that `--only` names, in the order of a visit; all without it. Raises ValueError for another name."""
    if only is None:
        return list(NAMES)
    names = {name.strip() for name in only.split(",")} - {""}
    unknown = sorted(names - set(NAMES))
    if unknown:
        raise ValueError(f"--only: no part is called {unknown[0]!r}; there are {', '.join(NAMES)}")
    return [name for name in NAMES if name in names]


def sections(names: Iterable[str]) -> list[Section]:
    """Those of `names` that are tables."""
    return [section for section in SECTIONS if section.name in set(names)]
