"""Whatever a file holds, a check says what it finds or nothing: scripts with lines gone wrong, and real files."""

from __future__ import annotations

import importlib.util
import random
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stepwell.lint.analysis import Unreadable, read
from stepwell.lint.checks import load
from tests.lint.styles import SOURCES

MUTATED = 1000
SECONDS = 1.0  # of the processor, for one script
SECONDS_OF_A_LONG_FILE = 15.0  # 100 kB; torch/masked/_ops.py took 2.0 s while other programs ran, 2026-11-28


def look_at(source: str, file: str, seconds: float = SECONDS_OF_A_LONG_FILE) -> bool:
    """All checks on one source; whether the source could be read. Fails on anything that is raised."""
    start = time.process_time()
    try:
        script = read(source, file)
    except Unreadable:
        return False
    except BaseException as error:
        pytest.fail(f"{file}: read() raised {error!r}\n{source[:2000]}")
    for module in load():
        try:
            for finding in module.find(script):
                assert 1 <= finding.place.line <= len(script.lines)
                finding.place.column  # noqa: B018  # places are worked out late
        except BaseException as error:
            pytest.fail(f"{file}: {module.CHECK.code} raised {error!r}\n{source[:2000]}")
    taken = time.process_time() - start
    assert taken < seconds, f"{file}: {taken:.2f} s"
    return True


def mutated(source: str, chance: random.Random) -> str:
    """A script with one to three lines deleted, doubled, swapped or moved to another depth."""
    lines = source.strip("\n").split("\n")
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.choice(("delete", "delete", "double", "double", "swap", "swap", "move", "indent", "dedent")):
            case "delete" if len(lines) > 1:
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "swap":
                lines[at], lines[other] = lines[other], lines[at]
            case "move":
                lines.insert(other, lines.pop(at))
            case "indent":
                lines[at] = "    " + lines[at]
            case "dedent":
                lines[at] = lines[at].removeprefix("    ")
    return "\n".join(lines) + "\n"


def examples() -> list[tuple[str, str]]:
    found = list(SOURCES.items())
    for module in load():
        for kind in ("BAD", "GOOD"):
            found += [(f"{module.CHECK.code}-{kind}-{i}", source) for i, source in enumerate(getattr(module, kind))]
    return found


def test_mutated_scripts_never_raise() -> None:
    chance = random.Random(12)
    every = examples()
    readable = 0
    for number in range(MUTATED):
        name, source = every[number % len(every)] if number < len(every) else chance.choice(every)
        readable += look_at(mutated(source, chance), f"{name}-mutated-{number}", SECONDS)
    assert readable > MUTATED // 3  # else the checks were hardly asked


def test_a_check_that_raises_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(script: object) -> Iterator[None]:
        raise IndexError

    broken = SimpleNamespace(CHECK=load()[0].CHECK, find=find)
    monkeypatch.setattr(f"{__name__}.load", lambda: (broken,))
    with pytest.raises(pytest.fail.Exception, match="SW101 raised IndexError"):
        look_at("pass", "script.py")
    assert look_at("pass (", "script.py") is False


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if path.stat().st_size < 100_000)


def about_training(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        text = path.read_bytes()
        if b"backward" in text or b"optimizer" in text:
            yield path


def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def decoded(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def test_files_of_torch_never_raise() -> None:
    """The files of torch that train: its optimizers and its tools for testing, and a sample of the others."""
    folder = torch_folder()
    chance = random.Random(12)
    paths = chance.sample(list(about_training(python_files(folder / "distributed"))), 15)
    paths += chance.sample(list(about_training(python_files(folder / "testing"))), 10)
    paths += chance.sample(python_files(folder / "optim"), 10)
    assert all(look_at(decoded(path), path.name) for path in paths)


def test_files_of_the_standard_library_never_raise() -> None:
    library = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in python_files(library) if "site-packages" not in path.parts]
    for path in random.Random(12).sample(paths, 60):
        look_at(decoded(path), path.name)


@pytest.mark.slow
def test_a_larger_sample_of_real_files_never_raises() -> None:
    """Of the files of all installed packages that mention a backward pass or an optimizer, and the standard library."""
    packages = torch_folder().parent
    library = Path(sysconfig.get_path("stdlib"))
    training = list(about_training(python_files(packages)))
    others = [path for path in python_files(library) if "site-packages" not in path.parts]
    chance = random.Random(12)
    paths = chance.sample(training, min(200, len(training))) + chance.sample(others, min(200, len(others)))
    readable = sum(look_at(decoded(path), str(path)) for path in paths)
    assert readable > 0.9 * len(paths)
