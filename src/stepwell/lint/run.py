"""A run of the linter: from paths to a report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.lint.active import active
from stepwell.lint.change import Change, change, write
from stepwell.lint.configuration import Configuration
from stepwell.lint.many import outcomes
from stepwell.lint.one_file import Job, Outcome
from stepwell.lint.report import Report
from stepwell.lint.walk import Target, Trouble, targets

STDIN = "-"


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        paths: files and folders; "-" is `stdin`.
        configuration: where settings come from.
        cache: the folder of the cache; None: beside the pyproject.toml; "": none.
        processes: how many; None: as many as pay.
        force_exclude: whether patterns also hold for files that are named themselves.
        stdin: the content of the standard input, if it is read.
        stdin_name: the file that it stands for.
    """

    paths: tuple[str, ...]
    configuration: Configuration
    cache: str | None = None
    processes: int | None = None
    force_exclude: bool = False
    stdin: bytes = b""
    stdin_name: str = "<stdin>"


def looked(plan: Plan) -> Report:
    """Look at all files."""
    jobs, report = _jobs(plan)
    for one in outcomes(jobs, plan.processes):
        _count(report, one, plan)
    return report


def mended(plan: Plan) -> tuple[Report, list[Change]]:
    """Look at all files, and work out what their fixes change; nothing is written."""
    jobs, report = _jobs(plan)
    changes = []
    for job, known in zip(jobs, outcomes(jobs, plan.processes), strict=True):
        settings = plan.configuration.of(job.target.path)
        counts = active(settings, job.target.path)
        unsafe = bool(settings.unsafe_fixes)
        fixable = [hit for hit in known.hits if counts(hit) and hit.finding.fix and (hit.finding.fix.safe or unsafe)]
        one = change(job, counts, unsafe) if fixable else Change(known)
        if one.made:
            changes.append(one)
            report.made += Counter(one.made)
        _count(report, one.outcome, plan)
    return report, changes


def written(changes: Sequence[Change], report: Report) -> None:
    """Write the changed files. One that cannot be written is named in the report."""
    from stepwell.errors import UsageError

    for one in changes:
        if one.new is None or one.outcome.target.is_stdin:
            continue
        try:
            write(one.outcome.target.path, one.data, one.new.data())
        except UsageError as error:
            report.troubles.append(str(error))
            report.made -= Counter(one.made)


def _jobs(plan: Plan) -> tuple[list[Job], Report]:
    report = Report()
    jobs = []
    for given in plan.paths:
        if given == STDIN:
            jobs.append(Job(Target(plan.stdin_name, os.path.abspath(plan.stdin_name), is_stdin=True), "", plan.stdin))
    on_disk = [given for given in plan.paths if given != STDIN]
    for one in targets(on_disk, plan.configuration, plan.force_exclude):
        if isinstance(one, Trouble):
            report.troubles.append(one.said)
        else:
            jobs.append(Job(one, _cache(plan, one.path)))
    report.files = len(jobs)
    return jobs, report


def _cache(plan: Plan, path: str) -> str:
    if plan.cache is not None:
        return plan.cache
    from stepwell.lint.cache import FOLDER

    return os.path.join(plan.configuration.project(os.path.dirname(path)), FOLDER)


def _count(report: Report, outcome: Outcome, plan: Plan) -> None:
    path = outcome.target.path
    settings = plan.configuration.of(path)
    report.unsafe = report.unsafe or bool(settings.unsafe_fixes)
    report.hits += filter(active(settings, path), outcome.hits)
    report.troubles += outcome.troubles
