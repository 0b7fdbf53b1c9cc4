"""A finding as a part of an HTML page; the style is part of the page (`report/page.css`)."""

from __future__ import annotations

from stepwell.findings.finding import Finding


def html(finding: Finding) -> str:
    """The finding as one `<div class="card finding ...">`."""
    from html import escape

    check = finding.check
    lines = [
        f'<p class="seen"><span class="severity">{check.severity}</span> <span class="code">{check.code}</span> '
        f"<strong>{escape(str(finding.place))}</strong>: {escape(finding.seen)}</p>",
        *(f'<p class="note">{escape(str(one.place))}: {escape(one.seen)}</p>' for one in finding.evidence),
        f'<p>{_sentence(check.why)} <span class="instead">{_sentence(finding.instead)}</span></p>',
        *([f'<p class="note">{escape(check.reference)}</p>'] if check.reference else []),
    ]
    return "\n".join([f'<div class="card finding {check.severity}">', *lines, "</div>"])


def _sentence(clause: str) -> str:
    from html import escape

    return escape(clause[:1].upper() + clause[1:]) + "."
