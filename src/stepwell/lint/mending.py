"""A run that fixes what it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stepwell.errors import UsageError
from stepwell.lint.active import active
from stepwell.lint.change import Change, change, write
from stepwell.lint.many import outcomes
from stepwell.lint.report import Report
from stepwell.lint.run import Plan, count, jobs_of


def mended(plan: Plan) -> tuple[Report, list[Change]]:
    """Look at all files, and work out what their fixes change; nothing is written."""
    jobs, report = jobs_of(plan)
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
        count(report, one.outcome, plan)
    return report, changes


def written(changes: Sequence[Change], report: Report) -> None:
    """Write the changed files. One that cannot be written is named in the report."""
    for one in changes:
        if one.new is None or one.outcome.target.is_stdin:
            continue
        try:
            write(one.outcome.target, one.data, one.new.data())
        except UsageError as error:
            report.troubles.append(str(error))
            report.made -= Counter(one.made)
