"""The result of `explain()`: a str that notebooks show as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

LEFT = ("group", "decay", "weights", "state", "backend")  # columns of words; the others are numbers


class Explanation(str):
    """A table with titles above and remarks below. It is a `str`, whose repr is the text itself."""

    titles: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()  # the first one is the header
    remarks: Sequence[str] = ()

    @classmethod
    def of(cls, titles: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> Explanation:
        """The text of a table with its titles and remarks."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        left = [name in LEFT for name in rows[0]]
        lines = ["  ".join(_padded(row, widths, left)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        result = cls("\n".join([*titles, *lines, *remarks]))
        result.titles, result.rows, result.remarks = tuple(titles), tuple(map(tuple, rows)), tuple(remarks)
        return result

    def under(self, title: str) -> Explanation:
        """A copy with one more title above."""
        if not self.rows:
            return Explanation(f"{title}\n{self}")
        return self.of([title, *self.titles], self.rows, self.remarks)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<pre>{escape(self)}</pre>"
        left = [name in LEFT for name in self.rows[0]]
        above = "".join(f"<div>{escape(title)}</div>" for title in self.titles)
        body = "".join(f"<tr>{_cells(row, left, 'td')}</tr>" for row in self.rows[1:])
        below = "".join(f"<div>{escape(remark)}</div>" for remark in self.remarks)
        header = f"<thead><tr>{_cells(self.rows[0], left, 'th')}</tr></thead>"
        return f"<div>{above}<table>{header}<tbody>{body}</tbody></table>{below}</div>"


def _padded(row: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> list[str]:
    return [c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(row, widths, left, strict=True)]


def _cells(row: Sequence[str], left: Sequence[bool], tag: str) -> str:
    sides = ("left" if is_left else "right" for is_left in left)
    return "".join(
        f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>' for cell, side in zip(row, sides, strict=True)
    )
