"""A run of the linter: from paths to a report."""

from __future__ import annotations

import os
from dataclasses import dataclass

from stepwell.lint.active import active
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
    jobs, report = jobs_of(plan)
    for one in outcomes(jobs, plan.processes):
        count(report, one, plan)
    return report


def jobs_of(plan: Plan) -> tuple[list[Job], Report]:
    """The files of a run, and a report that names the paths that cannot be read."""
    report = Report()
    stdin = Target(plan.stdin_name, os.path.abspath(plan.stdin_name), is_stdin=True)
    jobs = [Job(stdin, data=plan.stdin) for given in plan.paths if given == STDIN]
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


def count(report: Report, outcome: Outcome, plan: Plan) -> None:
    """Add what was found in a file to a report."""
    path = outcome.target.path
    settings = plan.configuration.of(path)
    report.unsafe = report.unsafe or bool(settings.unsafe_fixes)
    report.hits += filter(active(settings, path), outcome.hits)
    report.troubles += outcome.troubles
