"""torch-audit beside the doctor, on the same runs: how often it names the right cause, and how often it warns.

    pip install torch-audit==0.3.0
    python -m bench.doctor.peer [--folder tasks|unseen] [--every N] [--json FILE]

Its rules are watched in every step (`autopatch(..., every_n_steps=1)`). A rule counts as right for every cause that it
could mean, `ACCEPTED`; for the other causes it has no rule. Both its first finding and any of its findings are counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from typing import Any

NAN, EXPLODES, DEAD, NO_GRADIENT = ("TA100", "TA305"), ("TA102",), ("TA103", "TA105"), ("TA104", "TA103", "TA500")
# cause of bench/doctor/causes.py -> the rules of torch-audit that could mean it
ACCEPTED = {
    "bad-values-in-data": NAN, "nan-from-loss": NAN, "fp16-overflow": (*NAN, "TA203"), "lr-too-high": (*EXPLODES, *NAN),
    "exploding-gradients": EXPLODES, "bad-initialisation": (*EXPLODES, *DEAD), "momentum-too-high": EXPLODES,
    "accumulation-not-divided": EXPLODES, "no-warmup": EXPLODES, "stale-gradients": EXPLODES, "dead-units": DEAD,
    "vanishing-gradients": ("TA103",), "gradients-cleared": NO_GRADIENT, "graph-cut": NO_GRADIENT,
    "detached-loss": NO_GRADIENT, "frozen": NO_GRADIENT, "parameter-never-updated": NO_GRADIENT,
    "not-in-optimizer": NO_GRADIENT, "unscaled-inputs": ("TA301",), "batch-too-small": ("TA304",),
    "weight-decay-too-strong": ("TA402", "TA403"),
}  # fmt: skip


def run(one: Any) -> dict[str, Any]:
    """One run under torch-audit: its task, fault, and what was said, in order."""
    import torch
    from bench.doctor.runs import attempt
    from torch_audit import autopatch

    torch.set_num_threads(1)
    auditors: list[Any] = []

    class Watch:
        def loss(self, loss: Any) -> None: ...
        def val(self, metric: Any) -> None: ...
        def batch(self, x: Any, y: Any = None) -> None: ...
        def close(self) -> None: ...

    def watch(model: Any, optimizer: Any) -> Any:
        models = model if isinstance(model, (list, tuple)) else [model]
        optimizers = optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
        for index, each in enumerate(models):
            its = optimizers[min(index, len(optimizers) - 1)]
            auditors.append(
                autopatch(each, optimizer=getattr(its, "optimizer", its), every_n_steps=1, reporters=[],
                          suppress_internal_errors=True)
            )  # fmt: skip
        return Watch()

    begun = time.perf_counter()
    error = attempt(one, watch)
    found = [
        (finding.rule_id, str(finding.severity).rsplit(".", 1)[-1])
        for auditor in auditors for finding in auditor.finish().findings if not finding.suppressed
    ]  # fmt: skip
    return {"task": one.task, "fault": one.fault, "cause": one.cause, "found": found, "error": error,
            "seconds": round(time.perf_counter() - begun, 2)}  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> str:
    faulty, healthy = [row for row in rows if row["fault"]], [row for row in rows if not row["fault"]]

    def is_right(row: dict[str, Any], rule: str) -> bool:
        return rule in ACCEPTED.get(row["cause"], ())

    first = sum(bool(row["found"]) and is_right(row, row["found"][0][0]) for row in faulty)
    any_ = sum(any(is_right(row, rule) for rule, _ in row["found"]) for row in faulty)
    loud = [row for row in healthy if any(severity != "INFO" for _, severity in row["found"])]
    said = Counter(rule for row in healthy for rule in {rule for rule, severity in row["found"] if severity != "INFO"})
    return "\n".join(
        [
            f"first finding right: {first} of {len(faulty)} faulty runs ({100 * first / max(1, len(faulty)):.0f} %)",
            f"some finding right: {any_} of {len(faulty)} ({100 * any_ / max(1, len(faulty)):.0f} %)",
            f"healthy runs with a finding above INFO: {len(loud)} of {len(healthy)}",
            "rules that spoke in healthy runs: " + ", ".join(f"{rule} {count}" for rule, count in said.most_common()),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="unseen", choices=("tasks", "unseen"))
    parser.add_argument("--every", type=int, default=1, help="take every n-th run only")
    parser.add_argument("--json", help="also write one line for each run to this file")
    given = parser.parse_args()
    try:
        import torch_audit  # noqa: F401
    except ImportError:
        sys.exit("torch-audit is not installed: pip install torch-audit==0.3.0")
    from bench.doctor.runs import all_runs

    rows = []
    chosen = list(all_runs(given.folder))[:: given.every]
    for one in chosen:
        rows.append(run(one))
        if given.json:
            with open(given.json, "a") as file:
                print(json.dumps(rows[-1]), file=file)
        print(f"\r{len(rows)} of {len(chosen)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(summary(rows))


if __name__ == "__main__":
    main()
