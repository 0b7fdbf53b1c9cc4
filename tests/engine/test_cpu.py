"""The kernel cache, processes and threads beside each other."""

import gc
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import stepwell
from stepwell.engine.kernels.compiled import compiled

STEP = """
import torch, stepwell
p = torch.ones(1000, requires_grad=True)
p.grad = torch.full((1000,), 0.5)
optimizer = stepwell.Lion([p], lr=0.25, backend="cpu")
optimizer.step()
assert torch.equal(p, torch.full((1000,), 0.75))
"""


# A process that has imported torch and Numba, and nothing that belongs to a kernel: each fork makes these for itself.
# Importing torch and Numba takes 2 to 4 seconds of a processor, and these tests need 12 processes.
SERVER = """
import json, os, sys, traceback
import torch, numba, stepwell
assert "stepwell.engine.kernels.cpu_intrinsics" not in sys.modules
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
        continue
    process = os.fork()
    if process:
        print(process, flush=True)
        continue
    errors = os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.environ["STEPWELL_CACHE"] = request["folder"]
    sys.argv = ["-c", *request["arguments"]]
    exec(request["code"], {"__name__": "__main__"})
    sys.exit()
"""


class Server:
    """Forks a process for each program that it is given."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.folder, self.errors = folder, dict[int, Path]()

    def asked(self, **request: object) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, code: str, cache: Path, *arguments: str) -> int:
        """Run a program with a cache folder; its process."""
        errors = self.folder / f"errors {len(self.errors)}"
        process = self.asked(code=code, folder=str(cache), arguments=arguments, errors=str(errors))
        self.errors[process] = errors
        return process

    def finish(self, process: int) -> None:
        """Wait for a process, which must end well."""
        assert self.asked(wait=process) == 0, self.errors[process].read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server"))
    yield one
    one.process.communicate()
    assert one.process.returncode == 0


@pytest.mark.slow
@pytest.mark.xdist_group("server")
def test_two_processes_fill_one_cache_and_a_third_finds_it(server: Server, tmp_path: Path) -> None:
    both = [server.start(STEP, tmp_path), server.start(STEP, tmp_path)]
    for process in both:
        server.finish(process)
    kernels = sorted(tmp_path.glob("kernel_*.py"))
    machine_code = sorted(tmp_path.rglob("*.nbc"))
    # that of the rule, the one that asks tensors where they lie, and the one that fetches their counts
    assert len(kernels) == len(machine_code) == 3
    before = [path.stat().st_mtime_ns for path in machine_code]
    server.finish(server.start(STEP, tmp_path))
    assert [path.stat().st_mtime_ns for path in machine_code] == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.xdist_group("server")
def test_a_cache_that_cannot_be_written_or_read_is_done_without(server: Server, tmp_path: Path) -> None:
    a_file = tmp_path / "file"
    a_file.write_text("")
    server.finish(server.start(STEP, a_file / "below"))
    broken = tmp_path / "broken"
    server.finish(server.start(STEP, broken))
    for machine_code in broken.rglob("*.nbc"):
        machine_code.write_bytes(b"from another version")
        machine_code.chmod(machine_code.stat().st_mode | stat.S_IWUSR)
    server.finish(server.start(STEP, broken))


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
@pytest.mark.xdist_group("server")
def test_kernels_of_different_processes_do_not_mix_their_functions(server: Server, tmp_path: Path) -> None:
    # each process numbers its functions from the start, so signed and unsigned codes get the same numbers
    alone = [["lion"], ["adagrad"], ["amsgrad"], ["sgd"]]
    for cases in [*alone, ["adagrad", "lion", "amsgrad", "sgd"], ["lion", "adagrad"]]:
        server.finish(server.start(LOW_BITS, tmp_path, *cases))


@pytest.mark.parametrize("was_on", [True, False])
def test_a_compilation_leaves_pythons_collector_as_it_was(was_on: bool) -> None:
    text = "from stepwell.engine.kernels.cpu_intrinsics import job_word\n\n\ndef kernel(job):\n    {}(job, {})\n"
    before = gc.isenabled()
    (gc.enable if was_on else gc.disable)()
    try:
        compiled(text.format("job_word", int(was_on)))
        assert gc.isenabled() == was_on
        with pytest.raises(Exception, match="nowhere"):
            compiled(text.format("nowhere", int(was_on)))
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()
