"""The planters of bench/lint: each mistake has a place in a script of some style, and nothing else is touched."""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.lint.styles import SOURCES

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from lint import recall
from lint.drafts import Draft, Planted
from lint.planters import VARIANTS
from lint.scripts import NoPlace, Script
from lint.variants import Variant

BENCH = Path(__file__).parents[2] / "bench"
SCRIPTS = recall.readable(SOURCES)
ALL = [variant for variants in VARIANTS.values() for variant in variants]
# the checks that are certain, by the catalogue
CODES = [
    "SW101", "SW102", "SW103", "SW104", "SW105", "SW106", "SW107", "SW108", "SW109", "SW110", "SW111", "SW112", "SW114",
    "SW116", "SW117", "SW118", "SW119",
    "SW201", "SW202", "SW203", "SW204", "SW205", "SW206", "SW207", "SW208",
    "SW301", "SW302", "SW303", "SW305", "SW306", "SW307", "SW308",
    "SW401", "SW402", "SW404", "SW405", "SW406", "SW408", "SW409",
    "SW501", "SW503", "SW504",
    "SW601", "SW602", "SW603", "SW604", "SW606", "SW607", "SW608", "SW610",
]  # fmt: skip


@cache
def planted(variant: Variant) -> dict[str, tuple[str, Planted]]:
    made = {name: variant.plant(source) for name, source in SCRIPTS.items()}
    return {name: one for name, one in made.items() if one is not None}


def test_every_check_has_a_planter() -> None:
    assert sorted(VARIANTS) == sorted(CODES)


@pytest.mark.parametrize("variant", ALL, ids=[f"{one.code}-{one.name}" for one in ALL])
def test_a_planted_mistake_is_python_and_says_where_it_is(variant: Variant) -> None:
    made = planted(variant)
    assert made, "no style has a place for it"
    for name, (right, wrong) in made.items():
        for add in (right, wrong.source):
            compile(add, name, "exec")
        assert ast.dump(ast.parse(wrong.source)) != ast.dump(ast.parse(right)), name
        lines = wrong.source.splitlines()
        assert wrong.lines, name
        assert all(1 <= line <= len(lines) for line in wrong.lines), name
        assert any(lines[line - 1].strip() for line in wrong.lines), name


@pytest.mark.parametrize("variant", ALL, ids=[f"{one.code}-{one.name}" for one in ALL])
def test_what_is_not_edited_stays_as_it_is_written(variant: Variant) -> None:
    for name, (right, wrong) in planted(variant).items():
        changed = [line for line in difflib.ndiff(right.splitlines(), wrong.source.splitlines()) if line[0] in "+-"]
        assert len(changed) <= 16, name
        for comment in ("# the forward pass", "# as one large batch"):
            was_there = comment in SCRIPTS[name] and variant.code != "SW111"
            assert not was_there or comment in wrong.source, name


def plant(code: str, name: str, script: str) -> Planted:
    variant = next(one for one in VARIANTS[code] if one.name == name)
    return planted(variant)[script][1]


def named(one: Planted) -> list[str]:
    return [one.source.splitlines()[line - 1].strip() for line in sorted(one.lines)]


def test_a_missing_reset_may_be_named_at_the_loops_the_backward_pass_and_the_step() -> None:
    one = plant("SW101", "without-zero-grad", "functions")
    assert "zero_grad" not in one.source
    assert named(one) == [
        "for batch_idx, (data, target) in enumerate(loader):",
        "loss.backward()",
        "optimizer.step()",
    ]


def test_the_lines_are_those_of_the_changed_script() -> None:
    one = plant("SW103", "zero-grad-moved-behind-backward", "gan")
    assert named(one).count("netD.zero_grad()") == 1
    assert "optimizerD.step()" in named(one)
    assert "optimizerG.step()" not in named(one)


def test_a_scaler_is_added_correctly_before_its_unscale_is_forgotten() -> None:
    variant = next(one for one in VARIANTS["SW302"] if one.name == "clip-of-scaled-gradients")
    right, wrong = planted(variant)["trainer"]
    body = right[right.index("self.scaler.scale(loss).backward()") :]
    order = ["self.scaler.unscale_(self.optimizer)", "clip_grad_norm_", "self.scaler.step(", "self.scaler.update()"]
    assert sorted(order, key=body.index) == order
    assert "unscale_" not in wrong.source


def test_accumulation_is_added_correctly_before_its_division_is_forgotten() -> None:
    right, wrong = planted(VARIANTS["SW111"][0])["plain"]
    assert "loss = loss / 4" in right
    assert "loss / 4" not in wrong.source
    assert "if (i + 1) % 4 == 0 or i + 1 == len(train_loader):" in right


def test_a_script_without_a_scheduler_step_has_no_place_for_moving_it() -> None:
    assert all(variant.plant(SOURCES["lightning"]) is None for variant in VARIANTS["SW201"])


def test_two_edits_of_one_place_are_refused() -> None:
    script = Script("optimizer.step()\n")
    draft = Draft(script)
    draft.replace(script.statements[0], "a()")
    draft.replace(script.statements[0], "b()")
    with pytest.raises(NoPlace):
        draft.finish()


def test_an_emptied_block_gets_a_pass_and_columns_count_bytes() -> None:
    script = Script("if ready:\n    optimizer.step()  # Schritt\nprint('ä', old)\n")
    draft = Draft(script)
    draft.delete(script.statements[1])
    draft.replace(script.statements[2].value.args[1], "new", marked=True)  # type: ignore[attr-defined]
    made = draft.finish()
    assert made.source == "if ready:\n    pass\nprint('ä', new)\n"
    assert made.lines == {3}


def test_the_checks_name_what_is_planted_and_say_nothing_about_what_is_right() -> None:
    scripts = {name: SCRIPTS[name] for name in ("plain", "functions", "trainer")}
    assert recall.already_loud(scripts) == []
    cases = recall.cases(scripts, ["SW101", "SW102"])
    assert len(cases) >= 6
    assert [case for case in cases if not case.found or case.others] == []
    (row,) = [row for row in recall.rows(cases) if row.code == "SW101"]
    assert row.scripts == 3
    assert row.recall == 1.0
    assert not row.is_too_low
    assert "| SW101 missing-zero-grad | 3 |" in recall.table([row])


def test_a_mistake_named_in_another_line_is_missed_and_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places are compared, not only the codes."""
    monkeypatch.setattr(
        recall, "findings", lambda source, file, modules: [("SW101", 1)] if "zero" not in source else []
    )
    scripts = {"functions": SCRIPTS["functions"]}
    case = recall.cases(scripts, ["SW101"])[0]
    assert not case.found
    assert case.others == ("SW101 line 1",)


def test_too_few_places_are_no_measure() -> None:
    assert recall.Row("SW999", "x", 4, 4, 0, 0).is_too_low is False
    assert recall.Row("SW999", "x", 5, 5, 4, 0).is_too_low is True


def test_the_program_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = runpy.run_path(str(BENCH / "lint" / "__main__.py"))["main"]
    (tmp_path / "functions.py").write_text(SOURCES["functions"], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lint", str(tmp_path), "--code", "SW101", "--missed", "--variants"])
        assert program() == 0
    assert "| SW101 missing-zero-grad | 1 | 2 | 2 | 100% | 0 |" in capsys.readouterr().out
