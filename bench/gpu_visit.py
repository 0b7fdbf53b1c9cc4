"""One visit to a machine with a GPU: facts, tests, figures, within a budget. `bench/gpu.sh` runs this.

    bench/gpu.sh [--budget 520] [--only tests,adamw,small,others,muon,decoder] [--rounds 15]
    bench/gpu.sh --device cpu --scale 0.01 --rounds 2 --calls 1      # rehearsed without a GPU

The parts run in this order, the most important first. A part is skipped when its seconds would exceed the budget; a
row that fails or hangs is noted and costs one row. Files are written to $OUT, or bench/results, after each row. The
exit code is 0, 1 if a test or a row failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gpu_plan
import gpu_tests
from gpu_plan import COLUMNS, TESTS, How, Section
from gpu_report import Report, facts_text, part_text
from gpu_worker import Failed, Worker
from table import Table

RESULTS = Path(__file__).resolve().parent / "results"


class Budget:
    """Seconds from the start of the process that runs the visit."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.began = seconds, time.monotonic()

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    def has(self, seconds: float) -> bool:
        """Whether so many seconds more are within the budget."""
        return self.spent + seconds <= self.seconds


class Visit:
    """The parts of a visit, each noted in the report."""

    def __init__(self, worker: Worker, report: Report, how: How, budget: Budget) -> None:
        self.worker, self.report, self.how, self.budget = worker, report, how, budget
        self.failed = False

    def part(self, name: str, seconds: float, run: Any) -> None:
        """Run one part if its seconds are within the budget; say so if not."""
        began = self.budget.spent
        note = {"name": name, "state": "running", "seconds": 0.0, "budget": seconds}
        self.report.parts.append(note)
        if self.budget.has(seconds):
            say(f"\n{name}: at most {seconds:.0f} s, {self.budget.seconds - began:.0f} s are left")
            note["state"] = run()
        else:
            note["state"] = f"skipped, only {max(0.0, self.budget.seconds - began):.0f} s of the budget are left"
        note["seconds"] = self.budget.spent - began
        self._write()
        say(part_text(note))

    def tests(self) -> str:
        """The tests marked gpu; how that went."""
        if importlib.util.find_spec("pytest") is None:
            return "skipped, pytest is not installed"
        for outcomes in gpu_tests.run(self.report.path("-tests.txt"), gpu_plan.TESTS_SECONDS):
            self.report.tests = outcomes
            self._write()
        self.failed |= self.report.tests.failed
        say(self.report.tests.text())
        return "done"

    def section(self, section: Section) -> str:
        """All rows of a section; how that went."""
        ends = self.budget.spent + section.seconds
        table = Table(section.title, COLUMNS)
        self.report.tables.append(table)
        for index, row in enumerate(section.rows):
            left = ends - self.budget.spent
            if left <= 0:
                table.notes.append(
                    f"not measured, the time is over: {', '.join(r.label for r in section.rows[index:])}"
                )
                break
            try:
                figures = self.worker.ask("gpu_measure.measure", row, self.how, limit=min(left, gpu_plan.ROW_SECONDS))
            except Failed as error:
                self._note_failure(table, section.name, row.label, error)
            else:
                _say_workload(table, section, figures)
                table.notes += figures.pop("notes")
                table.add(figures, row.goals)
                table.columns = tuple(c for c in COLUMNS if any(r.get(c.key) is not None for r in table.rows))
                say(f"  {row.label}: first step {figures['first step']:.2f} s, {figures['kernels']} new kernels")
            self._write()
        say(table.text())
        return f"{len(table.rows)} of {len(section.rows)} rows"

    def _note_failure(self, table: Table, part: str, label: str, error: Failed) -> None:
        self.failed = True
        out_of_memory = "OutOfMemoryError" in str(error)
        said = f"{label}: out of memory" if out_of_memory else f"{label}: {error}"
        table.notes.append(said)
        self.report.failures.append({"part": part, "row": label, "error": str(error), "traceback": error.more})
        say(f"  {said}\n{error.more}".rstrip())

    def _write(self) -> None:
        self.report.seconds = self.budget.spent
        self.report.write()


def _say_workload(table: Table, section: Section, figures: dict[str, Any]) -> None:
    """Say in the title what is timed; in notes where the rows have different tensors."""
    if not section.has_one_workload:
        table.notes.append(f"{figures['label']}: {figures['workload']}")
    elif not table.rows:
        table.title += f", {figures['workload']}"


def say(words: str) -> None:
    """Print now: whoever stops the visit has read it."""
    print(words, flush=True)


def prepare_environment(how: How) -> None:
    """Triton's interpreter is for rehearsals: on a GPU its flag would time the interpreter."""
    if how.device == "cuda" and os.environ.pop("TRITON_INTERPRET", None) is not None:
        say("TRITON_INTERPRET is set in the environment; it is ignored on a GPU")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=520, help="seconds for everything")
    parser.add_argument("--only", help=f"parts, with commas: {', '.join(gpu_plan.NAMES)}")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--backend", default="auto", choices=["auto", "eager", "cpu", "gpu"], help="of our optimizers")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes; goals hold at 1")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=100, help="at most so many steps in one turn")
    options = parser.parse_args(arguments)
    try:
        options.names = gpu_plan.chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    return options


def visit(options: argparse.Namespace, worker: Worker) -> int:
    """All parts; the exit code."""
    budget = Budget(options.budget)
    how = How(options.device, options.backend, options.scale, options.rounds, options.calls)
    prepare_environment(how)
    try:
        facts = worker.ask("gpu_facts.facts", how, limit=gpu_plan.FACTS_SECONDS)
    except Failed as error:
        say(f"gpu.sh: nothing can be measured: {error}")
        return 2
    if facts["problem"]:
        say(f"gpu.sh: nothing can be measured: {facts['problem']}")
        return 2
    facts["seconds to import and start"] = round(budget.spent, 1)
    device = facts["device"] if how.device == "cuda" else "cpu-rehearsal"
    settings = {key: value for key, value in vars(options).items() if key != "names"}
    report = Report(Path(os.environ.get("OUT") or RESULTS), device, facts, settings)
    say(facts_text(facts))
    going = Visit(worker, report, how, budget)
    if TESTS in options.names:
        going.part(TESTS, gpu_plan.TESTS_SECONDS, going.tests)
    for section in gpu_plan.sections(options.names):
        going.part(section.name, section.seconds, lambda section=section: going.section(section))
    say(f"\n{'=' * 40}\n{report.text()}\nwritten: {report.path('.json').name}, {report.path('.txt').name}")
    return int(going.failed)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that nothing is left running
    with Worker() as worker:
        code = visit(options, worker)
    sys.exit(code)


if __name__ == "__main__":
    main()
