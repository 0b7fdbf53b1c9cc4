"""What a doctor costs: the time of a step of the task `bytes` with and without it, alternating in one process.

    python -m bench.doctor.cost [STEPS]

Two equal models train on the same batches, one of them under a doctor with its default settings and a journal. Medians
and means of the times of a step, their ratios, the memory that the doctor holds, and whether the weights are the same
bit for bit.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import torch

from stepwell import Doctor
from stepwell.tasks import find


def main(steps: int) -> None:
    torch.set_num_threads(1)
    task = find("bytes")
    models = [task.build(0), task.build(0)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in models]
    streams = [task.stream(0), task.stream(0)]
    folder = tempfile.TemporaryDirectory()
    tracemalloc.start()
    doctor = Doctor(models[1], optimizers[1], live=False, journal=Path(folder.name) / "run.jsonl")
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    times: tuple[list[float], list[float]] = ([], [])
    for step in range(steps):
        for which in ((0, 1), (1, 0))[step % 2]:
            batch = next(streams[which])
            begun = time.perf_counter()
            optimizers[which].zero_grad()
            loss = task.loss(models[which], batch)
            if which == 1:
                doctor.loss(loss)
            loss.backward()
            optimizers[which].step()
            times[which].append(time.perf_counter() - begun)
    doctor.close()
    same = all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    medians = [statistics.median(one[steps // 10 :]) for one in times]
    means = [statistics.fmean(one[steps // 10 :]) for one in times]
    print(f"{steps} steps of `bytes`, one thread, torch {torch.__version__}")
    for name, (alone, watched) in (("median", medians), ("mean", means)):
        print(f"{name} step {1e3 * alone:.2f} ms without, {1e3 * watched:.2f} ms with: {watched / alone:.3f}")
    print(f"held by Python objects at the start: {held / 2**20:.2f} MiB; weights equal bit for bit: {same}")
    print(f"findings: {[one.code for one in doctor.findings]}; probes: {len(doctor.record.probes)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
