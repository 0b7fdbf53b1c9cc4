"""The outcome of one trial: the record that a worker returns, one line of `trials.jsonl`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from stepwell.arguments import MOST, is_finite_number, plain_number
from stepwell.compare.plan import Phase, Trial

Status = Literal["finished", "pruned", "diverged", "crashed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one training run.

    Attributes:
        optimizer, phase, index, lr, seed: the trial.
        status: `"finished"` at the last step; `"pruned"` as hopeless; `"diverged"` with a loss or metric that is not
            finite; `"crashed"` by an exception or the death of its process.
        error: the reason of a crash or divergence, one line; else empty.
        steps: [n] the steps after which the metric was taken, 0 first. metric: [n] its values.
        loss: [n] mean training loss since the previous evaluation; None at step 0.
        seconds: [n] training time until the evaluation, without evaluations.
        final: the metric after the last step; None unless finished.
        state_bytes: bytes of the optimizer state at the end. parameters: trainable elements of the model.
        path: [n] positions of a two-parameter model at every evaluation, else empty.
        threads: torch threads of the worker.
        gradients: [n] gradients computed until the evaluation: one per step, more for SAM and L-BFGS; empty where
            they are not known, as in a script.
        id: of the trial, the same for every trial that computes the same. settings: its tuned values besides lr.
        lost: whether the process died; such a trial runs again, a few times. by: the process that ran the trial.
    """

    optimizer: str
    phase: Phase
    index: int
    lr: float
    seed: int
    status: Status
    error: str = ""
    steps: list[int] = field(default_factory=list, repr=False)
    metric: list[float] = field(default_factory=list, repr=False)
    loss: list[float | None] = field(default_factory=list, repr=False)
    seconds: list[float] = field(default_factory=list, repr=False)
    final: float | None = None
    state_bytes: int = 0
    parameters: int = 0
    path: list[list[float]] = field(default_factory=list, repr=False)
    threads: int = 1
    gradients: list[int] = field(default_factory=list, repr=False)
    id: str = ""
    settings: dict[str, float] = field(default_factory=dict)
    lost: bool = False
    by: str = ""

    @property
    def key(self) -> str:
        """The key of its trial."""
        return f"{self.optimizer}/{self.phase}/{self.index}"

    def to_json(self) -> str:
        """One line of `trials.jsonl`, without the line end. Every number in it is finite."""
        return json.dumps(asdict(self), allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Outcome:
        """The outcome in a line. Raises ValueError if the line is incomplete or not an outcome."""
        value = json.loads(line)
        if not isinstance(value, dict) or not {"optimizer", "phase", "index", "status"} <= value.keys():
            raise ValueError("not an outcome")
        known = {f.name for f in fields(cls)}
        try:
            outcome = cls(**{key: item for key, item in value.items() if key in known})
        except TypeError as error:
            raise ValueError(f"not an outcome: {error}") from None
        wrong = _wrong(outcome)
        if wrong:
            raise ValueError(f"not an outcome: {wrong}")
        return outcome


def crashed(trial: Trial, error: str, **known: Any) -> Outcome:
    """The outcome of a trial that raised or whose process died."""
    return Outcome(
        trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, "crashed", error,
        id=trial.id, settings=dict(trial.settings), **known,
    )  # fmt: skip


def _wrong(outcome: Outcome) -> str:
    """The first field with an impossible value, or an empty str: users may edit the file."""
    for name in ("optimizer", "error", "id", "by"):
        if not isinstance(getattr(outcome, name), str):
            return name
    if outcome.phase not in get_args(Phase) or outcome.status not in get_args(Status):
        return "phase or status"
    for name in ("index", "seed", "state_bytes", "parameters", "threads"):
        if not _is_whole(getattr(outcome, name)):
            return name
    if not is_finite_number(outcome.lr) or not (outcome.final is None or is_finite_number(outcome.final)):
        return "lr or final"
    points = len(outcome.steps) if isinstance(outcome.steps, list) else -1
    for name in ("steps", "metric", "loss", "seconds"):
        values = getattr(outcome, name)
        gaps = name == "loss"  # there is none at the start
        if not isinstance(values, list) or len(values) != points:
            return name
        if not all(is_finite_number(value) or (gaps and value is None) for value in values):
            return name
    counts = outcome.gradients
    if not isinstance(counts, list) or (counts and len(counts) != points) or not all(map(_is_whole, counts)):
        return "gradients"
    if outcome.status == "finished" and (outcome.final is None or (points and outcome.steps[-1] < 1)):
        return "final of a finished trial"
    if not isinstance(outcome.lost, bool):
        return "lost"
    tuned = outcome.settings
    if not isinstance(tuned, dict) or not all(isinstance(key, str) and is_finite_number(tuned[key]) for key in tuned):
        return "settings"
    path = outcome.path
    if not isinstance(path, list) or (path and len(path) != points):
        return "path"
    if not all(isinstance(at, list) and len(at) == 2 and all(map(is_finite_number, at)) for at in path):
        return "path"
    return ""


def _is_whole(value: Any) -> bool:
    plain = plain_number(value)
    return type(plain) is int and 0 <= plain <= MOST
