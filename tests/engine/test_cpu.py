"""The kernel cache, processes and threads beside each other."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import stepwell

STEP = """
import torch, stepwell
p = torch.ones(1000, requires_grad=True)
p.grad = torch.full((1000,), 0.5)
optimizer = stepwell.Lion([p], lr=0.25, backend="cpu")
optimizer.step()
assert torch.equal(p, torch.full((1000,), 0.75))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "STEPWELL_CACHE": str(folder)}
    return subprocess.Popen([sys.executable, "-c", STEP], env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_two_processes_fill_one_cache_and_a_third_finds_it(tmp_path: Path) -> None:
    both = [start(tmp_path), start(tmp_path)]
    for process in both:
        finish(process)
    kernels = sorted(tmp_path.glob("kernel_*.py"))
    machine_code = sorted(tmp_path.rglob("*.nbc"))
    # that of the rule, the one that asks tensors where they lie, and the one that fetches their counts
    assert len(kernels) == len(machine_code) == 3
    before = [path.stat().st_mtime_ns for path in machine_code]
    finish(start(tmp_path))
    assert [path.stat().st_mtime_ns for path in machine_code] == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_or_read_is_done_without(tmp_path: Path) -> None:
    a_file = tmp_path / "file"
    a_file.write_text("")
    finish(start(a_file / "below"))
    broken = tmp_path / "broken"
    finish(start(broken))
    for machine_code in broken.rglob("*.nbc"):
        machine_code.write_bytes(b"from another version")
        machine_code.chmod(machine_code.stat().st_mode | stat.S_IWUSR)
    finish(start(broken))


def test_two_optimizers_in_two_threads() -> None:
    torch.manual_seed(0)
    start_values, gradient = torch.randn(50_000), torch.randn(50_000)

    def train(p: torch.Tensor) -> None:
        optimizer = stepwell.AdamW([p], lr=0.01, backend="cpu")
        for step in range(30):
            p.grad = gradient * (1 + step)
            optimizer.step()

    alone = start_values.clone().requires_grad_()
    train(alone)
    params = [start_values.clone().requires_grad_() for _ in range(3)]
    threads = [threading.Thread(target=train, args=(p,)) for p in params]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(alone, p) for p in params)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_loader_workers_live_beside_a_step() -> None:
    model = torch.nn.Linear(8, 1)
    optimizer = stepwell.AdamW(model.parameters(), backend="cpu")
    data = TensorDataset(torch.randn(64, 8))
    seen = 0
    for _ in range(2):  # workers are forked anew after the threads of the first epoch's steps exist
        for (batch,) in DataLoader(data, batch_size=16, num_workers=2, multiprocessing_context="fork"):
            model(batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            seen += 1
    assert seen == 8


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_change_a_bit(threads: int) -> None:
    torch.manual_seed(1)
    params = [torch.randn(n, requires_grad=True) for n in (1, 100, 70_001)]
    copies = [p.detach().clone().requires_grad_() for p in params]
    before = torch.get_num_threads()
    try:
        for group, count in ((params, before), (copies, threads)):
            torch.set_num_threads(count)
            optimizer = stepwell.RMSprop(group, momentum=0.5)
            for step in range(3):
                for p in group:
                    p.grad = torch.sin(p.detach() * 10 + step)
                optimizer.step()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(params, copies, strict=True))


LOW_BITS = """
import sys, torch, stepwell
def train(name, options, backend):
    p = torch.linspace(-1, 1, 9000).clone().requires_grad_()
    optimizer = getattr(stepwell, name)([p], lr=0.01, state="int8", backend=backend, **options)
    for step in range(3):
        p.grad = torch.sin(p.detach() * 7 + step)
        optimizer.step()
    return p.detach()
CASES = {
    "lion": ("Lion", {}), "adagrad": ("Adagrad", {}),
    "amsgrad": ("AdamW", {"amsgrad": True}), "sgd": ("SGD", {"momentum": 0.9}),
}
for case in sys.argv[1:]:
    assert torch.equal(train(*CASES[case], "cpu"), train(*CASES[case], "eager")), case
"""


@pytest.mark.slow
def test_kernels_of_different_processes_do_not_mix_their_functions(tmp_path: Path) -> None:
    environment = {**os.environ, "STEPWELL_CACHE": str(tmp_path)}
    # each process numbers its functions from the start, so signed and unsigned codes get the same numbers
    alone = [["lion"], ["adagrad"], ["amsgrad"], ["sgd"]]
    for cases in [*alone, ["adagrad", "lion", "amsgrad", "sgd"], ["lion", "adagrad"]]:
        run = subprocess.run([sys.executable, "-c", LOW_BITS, *cases], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
