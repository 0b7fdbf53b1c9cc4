"""Groups as a readable table."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from stepwell.anatomy import ROLES
from stepwell.arguments import whole
from stepwell.engine.formats import NAMES
from stepwell.groups.memory import bytes_text, check_groups, check_optimizer, check_state, group_state_bytes

_HEADINGS = ("group", "role", "tensors", "elements", "lr", "decay", "optimizer", "format", "bytes", "state")
_NARROWEST = 20  # characters to which a text is shortened at most
_LEFT = ("group", "role", "optimizer", "format")


@dataclass(frozen=True)
class Row:
    """One group in numbers, for the table and for reports.

    Args:
        lr, decay: None if the optimizer's default applies.
        format: dtypes of the weights, in short.
        bytes: bytes of the weights.
        state: bytes of the optimizer's state, or None if the optimizer is not known.
    """

    group: str
    role: str
    tensors: int
    elements: int
    lr: float | None
    decay: float | None
    optimizer: str
    format: str
    bytes: int
    state: int | None


def rows(groups: Any, *, optimizer: Any = None, state: str = "fp32") -> list[Row]:
    """One `Row` for each group.

    Args:
        groups: the result of `by_role` and the like.
        optimizer: a name or a class, for groups without their own optimizer.
        state: the format of its state.
    """
    check_groups("rows", groups)
    check_state("rows", state)
    if optimizer is not None:
        check_optimizer("rows", optimizer)
    role_of = {id(member.tensor): member.role for member in groups.members}
    result = []
    for group, own in zip(groups, groups.optimizers, strict=True):
        tensors = group["params"]
        chosen = own or optimizer
        present = {role_of.get(id(tensor), "?") for tensor in tensors}
        roles = [role for role in (*ROLES, "?") if role in present]
        formats = {NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")): None for tensor in tensors}
        result.append(
            Row(
                group=group["name"],
                role=", ".join(roles),
                tensors=len(tensors),
                elements=sum(tensor.numel() for tensor in tensors),
                lr=group.get("lr"),
                decay=group.get("weight_decay"),
                optimizer=chosen if isinstance(chosen, str) else getattr(chosen, "__name__", "") if chosen else "",
                format=", ".join(formats),
                bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
                state=None if chosen is None else round(group_state_bytes(group, chosen, state)),
            )
        )
    return result


def table(groups: Any, *, optimizer: Any = None, state: str = "fp32", width: int | None = None) -> str:
    """The rows as aligned text with a line of totals, then the notes; see `Groups.table`."""
    width = None if width is None else whole("table", "width", width, least=1)
    lines, shown = _lines(groups, optimizer, state)
    _shorten(lines, shown, width)
    wide = {name: max(len(line[name]) for line in lines) for name in shown}
    text = ["  ".join(_aligned(line[name], name, wide[name]) for name in shown).rstrip() for line in lines]
    rule = "-" * max(len(line) for line in text)
    notes = [f"- {note}" for note in groups.notes]
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1], *notes])


def html(groups: Any) -> str:
    """The table for a notebook, with the notes as a list."""
    lines, shown = _lines(groups, None, "fp32")
    head, *body = [
        "".join(
            f"<{tag} style='text-align:{'left' if name in _LEFT else 'right'}'>{escape(line[name])}</{tag}>"
            for name in shown
        )
        for line, tag in zip(lines, ["th"] + ["td"] * (len(lines) - 2) + ["th"], strict=True)
    ]
    inside = "".join(f"<tr>{row}</tr>" for row in body)
    notes = "".join(f"<li>{escape(note)}</li>" for note in groups.notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{inside}</tbody></table>{f'<ul>{notes}</ul>' if notes else ''}"


def _lines(groups: Any, optimizer: Any, state: str) -> tuple[list[dict[str, str]], list[str]]:
    """Headings, one line for each group, and the totals; and the visible columns."""
    found = rows(groups, optimizer=optimizer, state=state)
    cells = [_cells(row) for row in found]
    sums = dict.fromkeys(_HEADINGS, "")
    sums |= {
        "group": "together",
        "tensors": f"{sum(row.tensors for row in found):,}",
        "elements": f"{sum(row.elements for row in found):,}",
        "bytes": bytes_text(sum(row.bytes for row in found)),
    }
    if any(row.state is not None for row in found):
        sums["state"] = bytes_text(sum(row.state or 0 for row in found))
    shown = [name for name in _HEADINGS if any(line[name] for line in cells)]
    if all(row.group.endswith(row.role.replace(", ", "+")) for row in found):
        shown.remove("role")  # the names say it
    return [dict(zip(_HEADINGS, _HEADINGS, strict=True)), *cells, sums], shown


def _cells(row: Row) -> dict[str, str]:
    return {
        "group": row.group,
        "role": row.role,
        "tensors": f"{row.tensors:,}",
        "elements": f"{row.elements:,}",
        "lr": "default" if row.lr is None else f"{float(row.lr):.4g}",
        "decay": "default" if row.decay is None else f"{float(row.decay):.4g}",
        "optimizer": row.optimizer,
        "format": row.format,
        "bytes": bytes_text(row.bytes),
        "state": "" if row.state is None else bytes_text(row.state),
    }


def _shorten(lines: list[dict[str, str]], shown: list[str], width: int | None) -> None:
    """Shorten the longest cells until a line fits."""
    if width is None:
        return
    while True:
        wide = {name: max(len(line[name]) for line in lines) for name in shown}
        over = sum(wide.values()) + 2 * (len(shown) - 1) - width
        longest = max((name for name in ("group", "role") if name in shown), key=lambda name: wide[name])
        if over <= 0 or wide[longest] <= _NARROWEST:
            return
        limit = max(_NARROWEST, wide[longest] - over)
        for line in lines:
            if len(line[longest]) > limit:
                line[longest] = line[longest][: limit - 3] + "..."


def _aligned(text: str, name: str, wide: int) -> str:
    return f"{text:<{wide}}" if name in _LEFT else f"{text:>{wide}}"
