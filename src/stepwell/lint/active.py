"""Which findings of a file count: those of checks that are on there, and that no comment mutes."""

from __future__ import annotations

from collections.abc import Callable

from stepwell.lint.codes import expanded, selection
from stepwell.lint.examined import Hit
from stepwell.lint.patterns import fits
from stepwell.lint.settings import Settings


def active(settings: Settings, path: str) -> Callable[[Hit], bool]:
    """Whether a finding in the file at an absolute path counts under these settings.

    Per-file ignores win over everything that is selected.
    """
    is_on = selection(
        settings.select,
        settings.extend_select,
        (*(settings.ignore or ()), *settings.extend_ignore),
        bool(settings.preview),
    )
    off = [
        word
        for pattern, words in settings.per_file_ignores.items()
        if fits(path, [pattern], settings.base)
        for word in words
    ]
    if not off:
        return lambda hit: not hit.is_muted and is_on(hit.finding.check)
    ignored = {code for word in off for code in expanded(word)}
    return lambda hit: not hit.is_muted and hit.finding.code not in ignored and is_on(hit.finding.check)
