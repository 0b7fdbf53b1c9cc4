"""What works together with stepwell: run it, print it, write `docs/compatibility.md`. `make compatibility` does so.

    python bench/compatibility [--torch-tests FOLDER] [--write]

FOLDER is the folder `test` of torch's sources, with `test_optim.py` and `optim/`; its tests are run, and nothing of
them is copied. They need the package expecttest. About ten minutes on one core, of which torch's tests take seven.

Exits with 1 where a case of torch's fails that is not on the list in `verdicts.py`, where nothing fails any more that
is on it, or where a tool differs from the plain run or fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1]
PAGE = BENCH.parent / "docs" / "compatibility.md"


def main() -> int:
    from compatibility import checks, page, torch_tests
    from compatibility.verdicts import FAILED, unused

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-tests", type=Path, help="the folder `test` of torch's sources")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(BENCH.parent)}")
    given = parser.parse_args()
    wrong = []
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    section = page.old_torch_section(before)
    if given.torch_tests is not None:
        verdicts = torch_tests.verdicts(given.torch_tests, progress)
        section = page.torch_section(verdicts, torch_tests.version_of(given.torch_tests))
        wrong += [f"{verdict.name}: {verdict.why}" for verdict in verdicts if verdict.kind == FAILED]
        wrong += [f"allowed, and nothing fails: {pattern}" for pattern in unused(verdicts)]
    outcomes = checks.everything(progress)
    wrong += [
        f"{check}, {subject}: {found}" for (check, subject), found in outcomes.items() if not page.is_right(found)
    ]
    text = page.write(outcomes, section)
    print(text)
    if given.write:
        PAGE.write_text(text, encoding="utf-8")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


def progress(words: str) -> None:
    print(f"{words} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.path[0] = str(BENCH)  # run as a folder, Python puts the folder itself there
    sys.exit(main())
