"""A training script as the task of a comparison: a command line with places for what changes from trial to trial.

    python train.py --lr {lr} --wd {weight_decay} --optimizer {optimizer} --seed {seed}

The metric is read from a JSON file that the script writes, or is the last number in the last line that it prints.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from stepwell.compare.axes import WARMUP, applied, defaults_of
from stepwell.compare.outcome import Outcome, crashed
from stepwell.compare.plan import Contender, Trial
from stepwell.errors import UsageError, printable, shown
from stepwell.tasks.task import Metric

SOURCES = (".py", ".sh", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini")  # what says how a script trains
LOOK = 0.05  # seconds between two looks at a running script
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)\b", re.IGNORECASE)
_OF_EACH = ("lr", "seed", "optimizer", "trial", "steps", "warmup")


@dataclass(frozen=True)
class Script:
    """A command, and where its metric is.

    Attributes:
        command: with places in braces: lr, seed, optimizer, and any argument of the optimizers, as weight_decay, beta1
            and beta2; steps and warmup; trial is a name that no other trial has.
        direction: `"max"` if a higher metric is better, `"min"` if a lower one is.
        json_file: the file with the metric; it may have places, too. None: the last line of the output.
        key: of the metric in the JSON file, with dots inside nested ones. A list there is a curve; its last is final.
        output: the folder for what each trial prints.
    """

    command: str
    direction: Literal["min", "max"]
    json_file: str | None = None
    key: str = ""
    target: float | None = None
    steps: int = 1
    output: str = ""
    family: str = "script"
    batch_size: int | None = None
    surface: None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        words = [Path(word).stem for word in shlex.split(self.command) if word.endswith((".py", ".sh"))]
        return re.sub(r"[^\w.-]+", "-", words[0] if words else shlex.split(self.command)[0])

    @property
    def summary(self) -> str:
        return f"the command {self.command}"

    @property
    def metric(self) -> Metric:
        return Metric(self.key or "metric", self.direction, lambda model: math.nan)

    @property
    def digest(self) -> str:
        """Of the sources that the command names, and of where the metric is: with others the outcomes are others."""
        told = hashlib.sha256(json.dumps([self.json_file, self.key]).encode())
        for word in shlex.split(self.command):
            if word.endswith(SOURCES) and Path(word).is_file():
                with open(word, "rb") as file:
                    told.update(hashlib.file_digest(file, "sha256").digest())
        return told.hexdigest()[:16]

    def run(
        self, contender: Contender, trial: Trial, steps: int, threads: int, ended: Callable[[], bool] = lambda: False
    ) -> Outcome:
        """Run the command for one trial. `ended`: whether nobody waits for it any more."""
        values = places(contender, trial, steps)
        words = [word.format_map(values) for word in shlex.split(self.command)]
        file = None if self.json_file is None else Path(self.json_file.format_map(values))
        log = Path(self.output) / f"{trial.id}.log" if self.output else None
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "STEPWELL_TRIAL": trial.id}
        begun = time.perf_counter()
        try:
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.unlink(missing_ok=True)
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
            code, said = _run(words, environment, log, ended)
        except OSError as error:
            return crashed(trial, f"cannot run {words[0]}: {error.strerror or error}", by=_by())
        seconds = time.perf_counter() - begun
        if code:
            last = next((line.strip() for line in reversed(said) if line.strip()), "")
            killed = code < 0
            how = f"killed by {signal.Signals(-code).name}" if killed else f"exit code {code}"
            return crashed(trial, printable(f"{how}: {last}" if last else how)[:400], lost=killed, by=_by())
        try:
            curve = _of_json(file, self.key) if file is not None else [_of_line(said)]
        except UsageError as error:
            return crashed(trial, str(error), by=_by())
        finite = all(math.isfinite(value) for value in curve)
        kept = [value for value in curve if math.isfinite(value)] if not finite else curve
        return Outcome(
            trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, "finished" if finite else "diverged",
            "" if finite else f"the metric is {curve[-1]}", steps=list(range(1, len(kept) + 1)), metric=kept,
            loss=[None] * len(kept), seconds=[round(seconds * (i + 1) / len(kept), 6) for i in range(len(kept))],
            final=curve[-1] if finite else None, threads=threads, id=trial.id, settings=dict(trial.settings), by=_by(),
        )  # fmt: skip


def places(contender: Contender, trial: Trial, steps: int) -> dict[str, Any]:
    """What a command may name in braces, for one trial."""
    found = {**defaults_of(contender), **applied(contender, trial.settings)}
    betas = found.pop("betas", None)
    if isinstance(betas, (tuple, list)):
        found.update({f"beta{number}": value for number, value in enumerate(betas, start=1)})
    own = {"lr": trial.lr, "seed": trial.seed, "optimizer": contender.optimizer.lower(), "trial": trial.id,
           "steps": steps, "warmup": trial.settings.get("warmup", WARMUP)}  # fmt: skip
    return {**found, **own}


def checked(script: Script, contenders: Sequence[Contender], seeds: int, jobs: int, tune: Sequence[str]) -> None:
    """Raise UsageError for a command that cannot be compared, before any trial."""
    named = _named(script.command) | (_named(script.json_file) if script.json_file else set())
    probe = Trial("", "tune", 0, 0.1, 0, id="0")
    for contender in contenders:
        known = places(contender, probe, 1)
        for name in sorted(named - known.keys()):
            may = ", ".join(f"{{{one}}}" for one in (*_OF_EACH, *sorted(known.keys() - set(_OF_EACH))))
            raise UsageError(f"the command has {{{name}}}, which {contender.name} does not have; it may have {may}")
    own = _named(script.command)
    if "lr" not in own:
        raise UsageError("the command has no {lr}, which every trial changes; write it as --lr {lr}")
    if "optimizer" not in own and len({one.optimizer for one in contenders}) > 1:
        raise UsageError("the command has no {optimizer}, and several optimizers are compared; write it as --optimizer "
                         "{optimizer}, or compare one")  # fmt: skip
    if "seed" not in own and seeds > 1:
        raise UsageError(f"the command has no {{seed}}, so that its {seeds} final runs would be the same; write it as "
                         "--seed {seed}, or give --seeds 1")  # fmt: skip
    needed = {
        "betas": ("beta1", "momentum"),
        "momentum": ("momentum",),
        "decay": ("weight_decay",),
        "warmup": ("warmup",),
    }
    for name in tune:
        if name in needed and not own & set(needed[name]):
            raise UsageError(f"--tune {name}: the command has no {{{needed[name][0]}}}")
    if script.json_file and jobs > 1 and not _named(script.json_file) & {"trial"}:
        raise UsageError(f"{jobs} trials at a time write {shown(script.json_file)}; name the file by the trial, in the "
                         "command and here: {trial}.json, or give --jobs 1")  # fmt: skip


def _named(text: str) -> set[str]:
    try:
        found = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise UsageError(f"the command {shown(text)} cannot be read: {error}; a brace is written twice") from None
    wrong = sorted(name for name in found if not name.isidentifier())
    if wrong:
        raise UsageError(f"the command has {{{wrong[0]}}}; a place has a name, as {{lr}}, and a brace is written twice")
    return found


def is_command(task: str) -> bool:
    """Whether a task is a command line: it has a space and a place."""
    return " " in task.strip() and "{" in task


def _run(
    words: list[str], environment: dict[str, str], log: Path | None, ended: Callable[[], bool]
) -> tuple[int, list[str]]:
    """Run a command to its end. Returns its exit code and its last lines."""
    import tempfile

    with log.open("wb+") if log is not None else tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                if ended():
                    raise SystemExit(1)
                time.sleep(LOOK)
        finally:
            if process.poll() is None:
                _kill(process)
        output.seek(max(0, output.seek(0, os.SEEK_END) - 20_000))
        text = output.read().decode("utf-8", "replace")
    return process.returncode, text.splitlines()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _of_json(file: Path, key: str) -> list[float]:
    try:
        value = json.loads(file.read_text())
    except FileNotFoundError:
        raise UsageError(f"the script wrote no {file}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not JSON: {error}") from None
    for part in key.split(".") if key else ():
        if not isinstance(value, dict) or part not in value:
            has = f"; it has {', '.join(map(str, list(value)[:8]))}" if isinstance(value, dict) else ""
            raise UsageError(f"{file} has no {key}{has}")
        value = value[part]
    if isinstance(value, dict):
        numbers = {name: one for name, one in value.items() if _is_number(one)}
        if len(numbers) != 1:
            raise UsageError(f"{file} has {len(numbers)} numbers: say which one by --metric, of {', '.join(value)}")
        value = next(iter(numbers.values()))
    curve = value if isinstance(value, list) else [value]
    if not curve or not all(_is_number(one) for one in curve):
        raise UsageError(f"{file}: {key or 'the metric'} is {shown(value)}; it must be a number, or a list of them")
    return [float(one) for one in curve]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_line(said: Sequence[str]) -> float:
    last = next((line for line in reversed(said) if line.strip()), "")
    found = _NUMBER.findall(last)
    if not found:
        raise UsageError(f"the last line of the output has no number: {shown(last)}")
    return float(found[-1])


def _by() -> str:
    return f"process {os.getpid()}"
