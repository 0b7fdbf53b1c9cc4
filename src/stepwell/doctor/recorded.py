"""A finding of a journal, as a `Finding` again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.findings import Check, Edit, Evidence, Finding, Fix, Place, Run, Source, Tensor, Trial

_PLACES: dict[str, type] = {"source": Source, "tensor": Tensor, "trial": Trial, "run": Run}


def finding_of(plain: Mapping[str, Any]) -> Finding | None:
    """The finding that `stepwell.findings.as_dict` made `plain` from, or None if `plain` is damaged.

    The texts are those of the journal, which another version may have written. The check's examples are not in a
    journal, so they repeat what was seen.

    >>> from stepwell.findings import as_dict, find
    >>> found = Finding(check=find("C04"), place=Trial("adamw"), seen="its best lr is the highest tried")
    >>> as_dict(finding_of(as_dict(found))) == as_dict(found)
    True
    """
    try:
        check = Check(
            code=plain["code"],
            name=plain["name"],
            severity=plain["severity"],
            certainty=plain["certainty"],
            looks_for=plain["seen"],
            why=plain["why"],
            instead=plain["instead"],
            example_bad=plain["seen"],
            example_good="nothing of the kind",
            reference=plain.get("reference") or "",
        )
        return Finding(
            check=check,
            place=_place(plain["place"]),
            seen=plain["seen"],
            evidence=tuple(Evidence(_place(one["place"]), one["seen"] + "") for one in plain.get("evidence") or ()),
            instead=plain["instead"],
            fix=_fix(plain.get("fix")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):  # edited by hand, or of a newer version
        return None


def _place(plain: Mapping[str, Any]) -> Place:
    given = dict(plain)
    kind = _PLACES[given.pop("kind")]
    if given.get("end") is not None:
        given["end"] = tuple(given["end"])
    place = kind(**given)
    str(place)
    return place


def _fix(plain: Mapping[str, Any] | None) -> Fix | None:
    if plain is None:
        return None
    edits = tuple(Edit(tuple(one["start"]), tuple(one["end"]), one["new"]) for one in plain["edits"])
    return Fix(plain["says"], edits, bool(plain.get("safe")))
