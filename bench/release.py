"""What gradient release saves: the peak of memory of a training step, its time, and the loss at the end.

    python bench/release.py [--layers 12] [--width 512] [--seeds 3]

Memory is that of a fresh process for each way (the most that was resident, Linux), over three updates of a transformer.
The loss is that of the task `bytes`, with a schedule and clipping, over several seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import islice

import torch
from torch import nn

import stepwell as sw
from memory import MIB, forget_peak, peak_resident, resident
from stepwell.step import ClipNorm, ClipRecentNorm
from stepwell.tasks import find

TOKENS = 64
WAYS = ("all gradients", "released")
_HELD = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # memory that is freed goes back, so that only what is held counts


def network(layers: int, width: int) -> nn.Module:
    """Encoder layers without dropout."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def memory_of(way: str, layers: int, width: int) -> dict[str, float]:
    """Bytes of one way in this process, which must be fresh."""
    small = network(1, 64)  # kernels and threads are made here
    step = sw.Step(sw.AdamW(small.parameters()), release=way == "released", clip=_clip(way))
    for _ in range(2):
        step(small(torch.randn(1, 4, 64)).square().mean())
    del small, step
    model = network(layers, width)
    weights = sum(p.numel() * 4 for p in model.parameters())
    largest = max(p.numel() * 4 for p in model.parameters())
    batch = torch.randn(1, TOKENS, width)
    step = sw.Step(sw.AdamW(model.parameters()), release=way == "released", clip=_clip(way))
    forget_peak()
    before = resident()
    activations, seconds = 0, []
    for _ in range(4):
        here = resident()
        loss = model(batch).square().mean()
        activations = max(activations, resident() - here)
        start = time.perf_counter()
        step(loss)
        seconds.append(time.perf_counter() - start)
        del loss
    extra = peak_resident() - before
    return {
        "weights": weights,
        "state": step.optimizer.state_bytes(),
        "largest gradient": largest,
        "activations": activations,
        "above the weights": extra,
        "seconds": statistics.median(seconds[1:]),
    }


def _clip(way: str) -> ClipNorm | ClipRecentNorm:
    return ClipRecentNorm(1.0) if way == "released" else ClipNorm(1.0)


def loss_of(way: str, seed: int) -> float:
    """The held-out loss of the task `bytes` after its steps."""
    task = find("bytes")
    model = task.build(seed)
    optimizer = sw.AdamW(model.named_parameters(), lr=3e-3, weight_decay=0.1)
    warm = task.steps // 10
    schedule = sw.schedules.warmup(warm).then(sw.schedules.cosine(task.steps - warm, to=0.1))
    step = sw.Step(optimizer, schedule, clip=_clip(way), release=way == "released", model=model)
    for batch in islice(task.batches(seed), task.steps):
        step(task.loss(model, batch))
    model.eval()
    with torch.no_grad():
        return task.metric.evaluate(model)


def show_memory(layers: int, width: int) -> None:
    """Print the memory and the time of both ways, each from a fresh process."""
    print(f"{layers} encoder layers of width {width}, AdamW fp32, {TOKENS} tokens")
    for way in WAYS:
        size = ["--layers", str(layers), "--width", str(width)]
        command = [sys.executable, __file__, "--way", way, *size]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **_HELD})
        one = json.loads(run.stdout)
        sizes = ", ".join(f"{key} {value / MIB:.0f} MiB" for key, value in one.items() if key != "seconds")
        beyond = one["above the weights"] - one["state"] - one["activations"]
        print(f"  {way}: {sizes}; beyond weights, state and activations {beyond / MIB:.0f} MiB; {one['seconds']:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="measure the memory of one way in this process, as JSON")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(memory_of(options.way, options.layers, options.width)))
        return
    show_memory(options.layers, options.width)
    print("task bytes, AdamW, clipped to 1.0 by the norm, or by recent norms")
    for way in WAYS:
        losses = [loss_of(way, seed) for seed in range(options.seeds)]
        print(f"  {way}: loss {', '.join(f'{one:.4f}' for one in losses)}, mean {statistics.mean(losses):.4f}")


if __name__ == "__main__":
    main()
