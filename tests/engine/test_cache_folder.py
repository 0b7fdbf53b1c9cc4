"""A damaged, full, missing or foreign cache folder costs time, and nothing else."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell
from stepwell.engine.backends import cpu
from stepwell.engine.kernels import cache_folder, machine_code, printed

TEXT = '''"""A small kernel: it writes a number to an address."""

from stepwell.engine.kernels.cpu_intrinsics import job_word, store_number


def kernel(job):
    store_number(job_word(job, 0), 0, {number})
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("STEPWELL_CACHE", str(place))
    return place


def built(number: float = 2.5) -> Any:
    text = TEXT.format(number=number)
    digest = printed.digest_of(text, "test")
    return machine_code.compiled(printed.module_of(text, digest).kernel, printed.name_of(digest), digest)


def written(kernel: Any) -> float:
    """The number that a kernel writes."""
    result = torch.zeros(1, dtype=torch.float64)
    job = torch.tensor([result.data_ptr()])
    cpu.threads.run(kernel.address, job.data_ptr(), 1)
    return float(result)


def built_and_right(number: float = 2.5) -> bool:
    """Whether a kernel that writes the right number came from the cache."""
    kernel = built(number)
    assert written(kernel) == number
    return bool(kernel.cache_hits)


def test_the_second_time_it_comes_from_the_folder(folder: Path) -> None:
    assert not built_and_right()
    assert built_and_right()
    assert sorted(path.suffix for path in folder.iterdir()) == [".nbc", ".py"]


def replace(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(content(path.read_bytes()))

    return damage


def flip(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte % len(content)] ^= 1 << bit
    path.write_bytes(content)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "of a user").write_text("kept")


def to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_other_kernel(path: Path) -> None:
    before = set(path.parent.iterdir())
    built(7.0)
    (other,) = (new for new in set(path.parent.iterdir()) - before if new.suffix == path.suffix)
    shutil.copyfile(other, path)


def to_huge(path: Path) -> None:
    os.truncate(path, 1 << 40)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": replace(lambda content: b""),
    "half": replace(lambda content: content[: len(content) // 2]),
    "one byte short": replace(lambda content: content[:-1]),
    "one byte long": replace(lambda content: content + b"\0"),
    "header only": replace(lambda content: content[:40]),
    "zeros": replace(lambda content: bytes(len(content))),
    "a pickle": replace(lambda content: b"cos\nsystem\n(S'touch pwned'\ntR."),
    "a folder": to_folder,
    "a dangling link": to_link,
    "a pipe": to_pipe,
    "gone": Path.unlink,
    "of another kernel": to_other_kernel,
    "a terabyte": to_huge,
    "unreadable": lambda path: path.chmod(0),
    "writable by all": lambda path: path.chmod(0o666),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("suffix", [".py", ".nbc"])
@pytest.mark.timeout(60)
def test_a_damaged_file_is_made_anew(folder: Path, suffix: str, damage: Callable[[Path], None]) -> None:
    built()
    (path,) = folder.glob(f"*{suffix}")
    whole = path.read_bytes()
    damage(path)
    built_and_right()
    assert built_and_right()  # the next process starts warm
    assert path.is_file()
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o022 == 0
    if suffix == ".py":
        assert path.read_bytes() == whole
    assert all((kept / "of a user").read_text() == "kept" for kept in folder.glob("*.aside"))
    assert not list(folder.glob("*.tmp"))


TRAINED = """
import sys, torch, stepwell
for state in ("fp32", "int8", "int4"):
    p = torch.ones(70, 70, requires_grad=True)
    p.grad = torch.ones_like(p)
    stepwell.AdamW([p], state=state).step()
print(sorted({"scipy.linalg", "numba.np.linalg"} & set(sys.modules)), float(p.sum()))
"""


def test_with_kernels_in_the_folder_a_process_reads_nothing_that_compiles(folder: Path) -> None:
    """Numba's library of what it can compile, which imports SciPy, takes longer than the rest of a first step."""
    command = [sys.executable, "-c", TRAINED]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert "numba.np.linalg" in first
    assert second.startswith("[] ")
    assert second.split("] ")[1] == first.split("] ")[1]


def test_no_flipped_bit_and_no_cut_is_believed() -> None:
    content, depends = random.Random(0).randbytes(3000), b"text and processor"
    file = machine_code.sealed(content, depends)
    assert machine_code.sealed_content(file, depends) == content
    for cut in range(len(file)):
        assert machine_code.sealed_content(file[:cut], depends) is None
    for byte in range(len(file)):
        flipped = bytearray(file)
        flipped[byte] ^= 1 << byte % 8
        assert machine_code.sealed_content(bytes(flipped), depends) is None
    assert machine_code.sealed_content(file, b"text and another processor") is None
    assert machine_code.sealed_content(machine_code.sealed(content, b""), depends) is None


def test_whole_machine_code_that_does_not_load_is_made_anew(folder: Path) -> None:
    built()
    (path,) = folder.glob("*.nbc")
    digest = printed.digest_of(TEXT.format(number=2.5), "test")
    cache_of = machine_code._Kept(path.name, digest)
    path.write_bytes(machine_code.sealed(b"of a Numba whose insides have changed", cache_of.depends))
    assert not built_and_right()
    assert built_and_right()


def test_a_module_cut_at_a_line_trains_as_a_whole_one(folder: Path) -> None:
    def trained() -> torch.Tensor:
        cpu.kernel.cache_clear()
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(100, 100))
        optimizer = stepwell.Signum([p], lr=0.01, backend="cpu")
        for _ in range(3):
            p.grad = torch.randn(100, 100)
            optimizer.step()
        return p.detach()

    try:
        good = trained()
        # beside it may lie what asks tensors where they lie, if no test before has compiled that in this process
        (path,) = (one for one in folder.glob("kernel_*.py") if "signum" in one.read_text())
        lines = path.read_text().splitlines(keepends=True)
        for cut in range(len(lines)):
            path.write_text("".join(lines[:cut]))
            assert torch.equal(trained(), good), cut
            assert path.read_text() == "".join(lines)
    finally:
        cpu.kernel.cache_clear()


@pytest.mark.parametrize("what", ["mkstemp", "replace", "write"])
def test_a_full_disk(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    class Full:
        def __init__(self, handle: int, mode: str) -> None:
            os.close(handle)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *args: Any) -> None:
            pass

        write = full

    with monkeypatch.context() as patch:
        if what == "mkstemp":
            patch.setattr(cache_folder.tempfile, "mkstemp", full)
        elif what == "replace":
            patch.setattr(cache_folder.os, "replace", full)
        else:
            patch.setattr(cache_folder.os, "fdopen", Full)
        assert not built_and_right()
    assert list(folder.iterdir()) == []
    assert not built_and_right()
    assert built_and_right()


def test_a_quota_on_files(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the text fits, the machine code does not
    try:
        assert not built_and_right()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.suffix for path in folder.iterdir()] == [".py"]


def test_the_folder_is_removed_while_it_is_used(folder: Path) -> None:
    built()
    shutil.rmtree(folder)
    assert not built_and_right()
    assert built_and_right()


@pytest.mark.parametrize("above", [True, False])
def test_a_file_where_the_folder_should_be(folder: Path, above: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("mine")
    if above:
        monkeypatch.setenv("STEPWELL_CACHE", str(folder / "below"))
    assert not built_and_right()
    assert not built_and_right()
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("cache", [True, False])
def test_a_user_without_a_home(tmp_path: Path, cache: bool, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if not cache:
        monkeypatch.delenv("STEPWELL_CACHE")
    built()
    assert built_and_right() == cache


def test_a_folder_that_others_can_write_to_is_not_trusted(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    planted = printed.name_of(printed.digest_of(TEXT.format(number=2.5), "test")) + ".nbc"
    (folder / planted).write_bytes(b"from somebody else")
    assert not built_and_right()
    assert built_and_right()
    assert (folder / planted).read_bytes() == b"from somebody else"
    (own,) = (path for path in folder.iterdir() if path.is_dir())
    assert own.stat().st_mode & 0o077 == 0
    assert (own / planted).exists()


def test_a_private_folder_that_is_a_link_or_open_to_others_is_not_used(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    own = folder / f"user-{os.geteuid()}"
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own.symlink_to(tmp_path / "elsewhere")
    assert cache_folder.folder() is None
    own.unlink()
    own.mkdir()
    own.chmod(0o777)
    assert cache_folder.folder() is None
    assert not built_and_right()


def test_a_file_of_another_user_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_folder.write("kernel_x.nbc", b"mine")
    assert cache_folder.read("kernel_x.nbc") == b"mine"
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(folder / "kernel_x.nbc", 12345, 12345)
    assert cache_folder.read("kernel_x.nbc") is None
    cache_folder.write("kernel_x.nbc", b"mine")
    assert cache_folder.read("kernel_x.nbc") == b"mine"


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    old, new, users = folder / "kernel_a.nbc.1.tmp", folder / "kernel_b.nbc.2.tmp", folder / "notes.tmp"
    for path in (old, new, users):
        path.write_text("")
    os.utime(old, (0, 0))
    os.utime(users, (0, 0))
    cache_folder.write("kernel_x.nbc", b"")
    assert sorted(path.name for path in folder.iterdir()) == ["kernel_b.nbc.2.tmp", "kernel_x.nbc", "notes.tmp"]


def test_readers_and_writers_at_once_see_whole_files_or_none(folder: Path) -> None:
    contents = [bytes([n]) * 200_000 for n in range(3)]
    seen: set[bytes | None] = set()
    stop = threading.Event()

    def disturb(content: bytes) -> None:
        while not stop.is_set():
            cache_folder.write("kernel_x.nbc", content)

    def remove() -> None:
        while not stop.is_set():
            shutil.rmtree(folder, ignore_errors=True)

    threads = [threading.Thread(target=disturb, args=(content,)) for content in contents]
    threads.append(threading.Thread(target=remove))
    for thread in threads:
        thread.start()
    for _ in range(500):
        seen.add(cache_folder.read("kernel_x.nbc"))
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= {None, *contents}


ANOTHER_USER = """
import os, torch, stepwell
import stepwell.optimizers.lion, stepwell.engine.kernels.cpu_intrinsics, numba.core.ccallback, llvmlite.binding
os.setgid(12345)
os.setuid(12345)
p = torch.ones(1000, requires_grad=True)
p.grad = torch.full((1000,), 0.5)
stepwell.Lion([p], lr=0.25, backend="cpu").step()
assert torch.equal(p, torch.full((1000,), 0.75))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without an entry")
@pytest.mark.parametrize("setting", ["no home", "read-only", "a folder that nobody else may enter"])
def test_a_user_without_an_entry_trains(folder: Path, setting: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "STEPWELL_CACHE")}
    if setting != "no home":
        environment["STEPWELL_CACHE"] = str(folder)
        folder.mkdir(mode=0o755 if setting == "read-only" else 0o700)
    done = subprocess.run([sys.executable, "-c", ANOTHER_USER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _kernels_of_other_tests_stay() -> Iterator[None]:
    kept = dict(sys.modules)
    yield
    for name in set(sys.modules) - kept.keys():
        if name.startswith("stepwell_kernel_"):
            del sys.modules[name]
