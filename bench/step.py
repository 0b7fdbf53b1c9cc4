"""The cost of an optimizer's step, against torch, in one process. `make bench` runs this.

    python bench/step.py [--device cpu] [--rounds 9] [--json FILE]

Three settings: 38M elements in 20 tensors (memory), 400 small tensors (overhead), a training loop whose gradients are
new at every step. Then each optimizer by the bytes it must move, as a share of the limit: scaling a tensor in place,
measured in the same run. Last the first step of a fresh process, with and without kernels on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

import stepwell
from measure import alternate, machine, scaling, synchronize

BIG = [38_000_000 // 20] * 20
SMALL = torch.randint(64, 4097, (400,), generator=torch.Generator().manual_seed(0)).tolist()


def parameters(sizes: list[int], device: str) -> list[torch.Tensor]:
    result = [torch.randn(size, device=device, requires_grad=True) for size in sizes]
    for p in result:
        p.grad = torch.randn_like(p)
    return result


def against_torch(sizes: list[int], device: str, rounds: int, inner: int) -> dict[str, float]:
    params = parameters(sizes, device)
    return alternate(
        {
            "stepwell": stepwell.AdamW(params).step,
            "torch fused": torch.optim.AdamW(params, fused=True).step,
            "torch foreach": torch.optim.AdamW(params, foreach=True).step,
        },
        device,
        rounds,
        inner,
    )


def in_a_loop(device: str, rounds: int) -> dict[str, float]:
    """The step alone inside a training loop: 6 encoder layers of width 256, gradients set to None each time.

    Two models are trained in turn, so that each optimizer's state and gradients are as cold as they would be.
    """
    steps: dict[str, list[float]] = {}
    loops = []
    for name, make in {
        "stepwell": stepwell.AdamW,
        "torch fused": lambda p: torch.optim.AdamW(p, fused=True),
        "torch foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    }.items():
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
        model = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).to(device)
        loops.append((steps.setdefault(name, []), model, make(list(model.parameters()))))
    batch = torch.randn(2, 64, 256, device=device)
    for turn in range(rounds + 2):
        for times, model, optimizer in loops:
            model(batch).square().mean().backward()
            synchronize(device)
            start = time.perf_counter()
            optimizer.step()
            synchronize(device)
            if turn >= 2:
                times.append(time.perf_counter() - start)
            optimizer.zero_grad(set_to_none=True)
    return {name: sorted(times)[len(times) // 2] for name, times in steps.items()}


# what is measured against the limit: label -> (make, float32 values read or written per element)
RULES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "SGD": (lambda p: stepwell.SGD(p), 3),
    "SGD momentum": (lambda p: stepwell.SGD(p, momentum=0.9), 5),
    "Adam": (stepwell.Adam, 7),
    "AdamW": (stepwell.AdamW, 7),
    "AdamW amsgrad": (lambda p: stepwell.AdamW(p, amsgrad=True), 9),
    "RMSprop": (stepwell.RMSprop, 5),
    "RMSprop centered, momentum": (lambda p: stepwell.RMSprop(p, momentum=0.9, centered=True), 9),
    "Adagrad": (stepwell.Adagrad, 5),
    "Lion": (stepwell.Lion, 5),
    "Adadelta": (stepwell.Adadelta, 7),
    "Adamax": (stepwell.Adamax, 7),
    "NAdam": (stepwell.NAdam, 7),
    "RAdam": (stepwell.RAdam, 7),
    "Rprop": (stepwell.Rprop, 7),
    "Signum": (stepwell.Signum, 5),
    "AdaBelief": (stepwell.AdaBelief, 7),
    "Adan": (stepwell.Adan, 11),
    "ADOPT": (stepwell.ADOPT, 7),
    "AdEMAMix": (stepwell.AdEMAMix, 9),
    "LaProp": (stepwell.LaProp, 7),
    "AdamAtan2": (stepwell.AdamAtan2, 7),
    # two passes: the first reads what its sums are made of
    "LAMB": (lambda p: stepwell.LAMB(p, exclude_vectors=False), 7 + 4),
    "LARS": (lambda p: stepwell.LARS(p, exclude_vectors=False), 5 + 2),
    "NovoGrad": (stepwell.NovoGrad, 5 + 1),
    "StableAdamW": (stepwell.StableAdamW, 7 + 2),
    "Lion cautious": (lambda p: stepwell.Lion(p, cautious=True), 5 + 2),
}


def formats_against_torch(device: str, rounds: int) -> dict[str, float]:
    """AdamW in every format of state and weights, against torch's fused float32 step."""
    params = parameters(BIG, device)
    half = [p.detach().to(torch.bfloat16).requires_grad_() for p in params]
    for p, q in zip(params, half, strict=True):
        q.grad = p.grad.to(torch.bfloat16)
    actions: dict[str, Callable[[], Any]] = {"torch fused": torch.optim.AdamW(params, fused=True).step}
    for state in ("fp32", "bf16", "int8", "int4"):
        actions[f"state {state}"] = stepwell.AdamW(params, state=state).step
    for weights in ("native", "stochastic", "split"):
        actions[f"bf16 {weights}"] = stepwell.AdamW(half, weights=weights).step
    return alternate(actions, device, rounds)


def share_of_limit(device: str, rounds: int) -> list[dict[str, Any]]:
    params = parameters(BIG, device)
    elements = sum(BIG)
    result = []
    for label, (make, values) in RULES.items():
        optimizer = make(params)
        times = alternate({"step": optimizer.step, "limit": scaling(elements, device)}, device, rounds)
        speed = values * 4 * elements / times["step"] / 1e9
        limit = 8 * elements / times["limit"] / 1e9
        result.append({"rule": label, "ms": times["step"] * 1e3, "GB/s": speed, "limit": limit, "share": speed / limit})
    return result


FIRST_STEP = """
import time, torch, stepwell
p = torch.zeros(1000, requires_grad=True)
p.grad = torch.ones(1000)
optimizer = stepwell.AdamW([p])
start = time.perf_counter()
optimizer.step()
print(time.perf_counter() - start)
"""


def first_step() -> dict[str, float]:
    """Seconds of the first step in a fresh process, without and with kernels on disk."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "STEPWELL_CACHE": folder}
        run = [sys.executable, "-c", FIRST_STEP]
        times = [float(subprocess.run(run, env=environment, capture_output=True, check=True).stdout) for _ in range(4)]
    return {"nothing on disk": times[0], "kernel on disk": sorted(times[1:])[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    device, rounds = options.device, options.rounds
    figures: dict[str, Any] = {"machine": machine(device)}
    print(", ".join(f"{key} {value}" for key, value in figures["machine"].items()))

    settings = {
        "AdamW fp32, 38M elements in 20 tensors": lambda: against_torch(BIG, device, rounds, 1),
        "AdamW fp32, 400 tensors of 64 to 4,096 elements": lambda: against_torch(SMALL, device, rounds, 10),
        "AdamW fp32, inside a training loop": lambda: in_a_loop(device, max(rounds, 25)),
        "AdamW by format, 38M elements in 20 tensors": lambda: formats_against_torch(device, rounds),
    }
    for title, measure in settings.items():
        times = figures[title] = measure()
        print(f"\n{title}")
        for name, seconds in times.items():
            print(f"  {name:<16}{seconds * 1e3:9.3f} ms   {seconds / times['torch fused']:5.2f} x torch fused")

    print("\nshare of the memory limit, 38M elements in 20 tensors, by the bytes each rule must move")
    figures["share of limit"] = share_of_limit(device, rounds)
    for row in figures["share of limit"]:
        print(
            f"  {row['rule']:<28}{row['ms']:9.2f} ms{row['GB/s']:8.1f} GB/s of {row['limit']:5.1f}{row['share']:7.0%}"
        )

    figures["first step"] = first_step()
    print("\nfirst step of a fresh process")
    for name, seconds in figures["first step"].items():
        print(f"  {name:<16}{seconds:9.2f} s")
    print(f"\nload at the end: {os.getloadavg()}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
