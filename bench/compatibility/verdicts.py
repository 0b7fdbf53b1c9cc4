"""What each of torch's cases says of our classes: passed, failed, or that it asks for something they do not have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

from compatibility.cases import Case

PASSED, FAILED, ALLOWED_KIND, TORCHS_OWN = "passed", "failed", "allowed", "fails with torch's class, too"
GPU, COMPLEX, IMPLEMENTATION = "a GPU", "complex numbers", "`foreach`, `fused`, `capturable`"
DIFFERENTIABLE, SKIPPED = "`differentiable`", "skipped by torch"
ASKS = (GPU, COMPLEX, IMPLEMENTATION, DIFFERENTIABLE)
KINDS = (PASSED, FAILED, ALLOWED_KIND, TORCHS_OWN, *ASKS, SKIPPED)

# Cases that fail and may: a pattern of their names -> why.
ALLOWED = {
    "TestOptimRenewedCPU.test_param_groups_weight_decay_Rprop_*": (
        "Rprop has no weight decay, and a group with a hyperparameter that would mean nothing is refused."
    ),
    "TestOptimRenewedCPU.test_param_groups_weight_decay_SparseAdam_*": (
        "SparseAdam has no weight decay, and a group with a hyperparameter that would mean nothing is refused."
    ),
    "TestOptimRenewedCPU.test_forloop_goes_right_direction_contiguous_False_*_SparseAdam_*": (
        "A row-sparse gradient of a parameter that is not contiguous is refused."
    ),
    "TestOptimRenewedCPU.test_second_order_optims_return_consistent_types_LBFGS_*": (
        "L-BFGS refuses a tolerance that is infinite or below 0."
    ),
    "TestOptimRenewedCPU.test_param_group_with_lrscheduler_goes_right_direction_ScheduleFreeSGD_*": (
        "The case takes the default learning rate, 1.0 as in the paper, which is too high for its problem."
    ),
}

# How the name of a case that our entries do not make says what it asks for; and the reason of one that is skipped.
_BY_NAME = (
    (COMPLEX, ("test_complex",)),
    (
        IMPLEMENTATION,
        (
            *("test_fused", "test_foreach", "test_mixed_device_dtype_impl", "test_peak_memory_foreach"),
            *("test_set_default_dtype_works_with_foreach", "test_defaults_changed_to_foreach"),
            "test_cpu_load_state_dict_impl",
        ),
    ),
)
_BY_REASON = ((GPU, ("Only runs on cuda", "only one GPU", "non-cpu devices", "doesn't support multidevice")),)


@dataclass(frozen=True)
class Verdict:
    """What one case says, and of which optimizer; of the classic tests, of which class of tests."""

    name: str
    of: str
    kind: str
    why: str = ""


def judge(
    cases: Iterable[Case],
    reference: Mapping[str, Case],
    allowed: Mapping[str, str] = ALLOWED,
    only: Iterable[str] | None = None,
) -> list[Verdict]:
    """A verdict on every case: those that ran, and those of the reference that our entries do not make.

    Args:
        cases: how the cases ended with our classes.
        reference: how they ended with torch's, by name; empty for optimizers that torch does not have.
        allowed: patterns of names -> why such a case may fail.
        only: the optimizers of the reference that we have; None: all.
    """
    ours = {case.name: case for case in cases}
    known = None if only is None else set(only)
    missing = [name for name in reference if name not in ours and _is_known(_of(name), known)]
    return [_judge(name, ours.get(name), reference.get(name), allowed) for name in [*ours, *missing]]


def _is_known(of: str, known: set[str] | None) -> bool:
    return known is None or of in known or of.startswith("Test")


def _judge(name: str, case: Case | None, reference: Case | None, allowed: Mapping[str, str]) -> Verdict:
    of = _of(name)
    if case is None:
        test = name.partition(".")[2]
        kind = next((kind for kind, starts in _BY_NAME if test.startswith(starts)), FAILED)
        return Verdict(name, of, kind, "" if kind != FAILED else "the case is missing with our classes")
    if case.outcome == "passed":
        return Verdict(name, of, PASSED)
    if case.outcome == "skipped":
        kind = next((kind for kind, words in _BY_REASON if any(word in case.why for word in words)), SKIPPED)
        return Verdict(name, of, kind, case.why)
    if "unknown option differentiable=" in case.why:
        return Verdict(name, of, DIFFERENTIABLE, case.why)
    if reference is not None and reference.outcome == "failed":
        return Verdict(name, of, TORCHS_OWN, case.why)
    if any(fnmatch(name, pattern) for pattern in allowed):
        return Verdict(name, of, ALLOWED_KIND, case.why)
    return Verdict(name, of, FAILED, case.why)


def _of(name: str) -> str:
    found = re.search(r"_([A-Za-z0-9]+)_cpu_[a-z0-9]+$", name)
    return found[1] if found else name.partition(".")[0]


def unused(verdicts: Iterable[Verdict], allowed: Mapping[str, str] = ALLOWED) -> list[str]:
    """The patterns of the list under which no case fails any more."""
    names = [verdict.name for verdict in verdicts if verdict.kind == ALLOWED_KIND]
    return [pattern for pattern in allowed if not any(fnmatch(name, pattern) for name in names)]


def counts(verdicts: Iterable[Verdict]) -> dict[str, dict[str, int]]:
    """By optimizer, how many cases are of each kind."""
    found: dict[str, dict[str, int]] = {}
    for verdict in verdicts:
        row = found.setdefault(verdict.of, dict.fromkeys(KINDS, 0))
        row[verdict.kind] += 1
    return found
