"""How many planted mistakes `stepwell lint` finds in correct scripts, and how fast it is.

    python bench/lint FOLDER [--code SW101 ...] [--missed] [--variants] [--show VARIANT] [--plant-only]
    python bench/lint FOLDER --speed

FOLDER holds correct training scripts of different styles; a mistake of every certain check is planted into each of
them that has a place for it, in several variants, and the certain checks read the result. The planters are in
`planters/`; what is not in a script and easily added correctly (a scheduler, a clip, a scaler, accumulation ...) is
added first, by `additions.py`. `--missed` prints every place where the mistake is not named or something else becomes
loud; `--show` prints the scripts of one variant; `--plant-only` counts places of all planters and runs no check.

Exits with 1 where a certain check with at least 5 places names fewer than 85 % of them, or where another certain check
becomes loud, or any about what was added correctly. What certain checks say about the scripts as they are is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1]


def main() -> int:
    from lint import recall, speed
    from lint.planters import VARIANTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with correct training scripts")
    parser.add_argument("--code", nargs="*", help="only these checks")
    parser.add_argument("--missed", action="store_true", help="name every place that is missed or loud")
    parser.add_argument("--variants", action="store_true", help="a row for every way to make a mistake, too")
    parser.add_argument("--show", metavar="VARIANT", help="print the scripts of one variant, with the allowed lines")
    parser.add_argument("--plant-only", action="store_true", help="count the places of all planters")
    parser.add_argument("--speed", action="store_true", help="files per second, start to finish, and the cache")
    given = parser.parse_args()
    if given.speed:
        print(speed.report(given.folder))
        return 0
    files = sorted(given.folder.rglob("*.py"))
    if not files:
        parser.error(f"{given.folder} holds no Python file")
    scripts = recall.readable({path.name: path.read_text(encoding="utf-8") for path in files})
    if given.plant_only or given.show:
        for code in sorted(given.code or VARIANTS):
            for variant in VARIANTS[code]:
                planted = {name: variant.plant(source) for name, source in scripts.items()}
                places = [name for name, one in planted.items() if one is not None]
                if not given.show:
                    print(f"{code} {variant.name}: {len(places)}: {', '.join(places)}")
                elif given.show == variant.name:
                    for name in places:
                        print(_shown(name, *planted[name]))
        return 0
    loud = recall.already_loud(scripts)
    for line in loud:
        print(f"loud before anything is planted: {line}")
    added = recall.loud_additions(scripts, given.code)
    for line in added:
        print(f"loud about a correct addition: {line}")
    found = recall.cases(scripts, given.code)
    rows = [row for row in recall.rows(found) if not given.code or row.code in given.code]
    if given.missed:
        for case in found:
            if not case.found or case.others:
                said = "named" if case.found else "MISSED"
                print(f"{case.code} {case.variant} in {case.script}: {said}; besides: {', '.join(case.others) or '-'}")
    if given.variants:
        print(recall.table(recall.rows(found, by_variant=True)))
    print(recall.table(rows))
    too_low = [row.code for row in rows if row.is_too_low]
    besides = [row.code for row in rows if row.others]
    if too_low:
        print(f"recall under {recall.LEAST_RECALL:.0%}: {', '.join(too_low)}", file=sys.stderr)
    if besides:
        print(f"other checks become loud for mistakes of: {', '.join(besides)}", file=sys.stderr)
    return int(bool(too_low or besides or added))


def _shown(name: str, right: str, planted: object) -> str:
    """What was planted, as a diff, and the lines that may be named."""
    import difflib

    wrong = planted.source
    lines = difflib.unified_diff(right.splitlines(), wrong.splitlines(), name, name, lineterm="", n=2)
    return "\n".join([*lines, f"may be named: {sorted(planted.lines)}", ""])


if __name__ == "__main__":
    sys.path[0] = str(BENCH)  # run as a folder, Python puts the folder itself there
    sys.exit(main())
