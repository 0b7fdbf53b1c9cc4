"""`stepwell advise` and `stepwell recipes`: flags, questions, and what they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell.advisor.questions import QUESTIONS, ask, open_questions
from stepwell.advisor.recipe import Recipe
from stepwell.cli import main

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str, code: int = 0) -> str:
        assert main(list(words)) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return run


def test_advise_says_what_it_assumed_and_never_asks_without_a_terminal(run: Run) -> None:
    out = run("advise", "ViT-B/16", "--batch-size", "1024")
    assert "learning rate" in out
    assert "0.001" in out
    assert "note: regime is assumed: from_scratch" in out


def test_json_toml_code_and_explanation(run: Run) -> None:
    given = ("advise", "DCGAN", "--batch-size", "64", "--steps", "100")
    found = json.loads(run(*given, "--json"))
    assert found["choices"]["lr"]["value"] == 2e-4
    assert found["choices"]["lr"]["sources"]
    assert Recipe.from_toml(run(*given, "--toml")).lr == 2e-4
    assert "torch.optim.Adam(" in run(*given, "--code", "torch")
    assert "Where published evidence disagrees" in run(*given, "--explain")


def test_a_constraint_is_answered(run: Run) -> None:
    out = run(
        "advise", "BERT", "--task", "masked_lm", "--optimizer", "adam", "--weight-decay", "0.01", "--saying", "urgent"
    )
    assert "costly: Adam with weight_decay=0.01" in out
    assert "answer: the remark 'urgent'" in out


def test_the_tree(run: Run) -> None:
    out = run("advise", "--tree")
    assert "Is a pretrained model fine-tuned?" in out
    assert "a GAN → Adam lr 0.0002" in out
    assert "The selection guide" in out
    assert "but: " in out


def test_the_page(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "advice.html"
    assert f"wrote {file}" in run("advise", "ViT-B/16", "--batch-size", "1024", "--page", str(file))
    text = file.read_text()
    assert text.startswith("<!doctype html>")
    assert "<svg" in text
    assert "<script" not in text
    assert "a vision transformer" in text


def test_a_model_of_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), "
        "nn.Linear(8, 2))\n"
    )
    assert "SGD" in run("advise", f"{file}:make", "--batch-size", "128")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("advise",), "nothing is known about the model"),
        (("advise", "--family", "gann"), "unknown family 'gann'"),
        (("advise", "ViT", "--json", "--toml"), "exclude one another"),
        (("advise", "ViT", "--code", "keras"), "one of stepwell, torch"),
        (("advise", "ViT", "--page", "a.pdf"), "ends in .html"),
        (("advise", "ViT", "--lr", "-1"), "lr=-1"),
        (("recipes", "no", "such", "thing"), "no configuration matches"),
        (("recipes", "--show"), "need a recipe"),
    ],
)
def test_errors_are_one_line(run: Run, words: tuple[str, ...], said: str) -> None:
    err = run(*words, code=2)
    assert said in err
    assert err.count("\n") == 1


def test_recipes(run: Run) -> None:
    assert len(run("recipes").splitlines()) == 383
    out = run("recipes", "vit", "imagenet")
    assert "vit-b-16-imagenet-1k" in out
    assert "resnet-50-imagenet-1k" not in out
    (found,) = json.loads(run("recipes", "vit-b16-imagenet", "--json"))
    assert found["lr"] == 3e-3
    assert "vit-b16-imagenet" in found["names"]
    assert "stated by the source" in run("recipes", "vit-b16-imagenet", "--show")
    assert "torch.optim" in run("recipes", "dcgan", "--code", "torch")


def test_the_page_of_recipes_is_printed_from_the_data(run: Run) -> None:
    root = Path(__file__).parents[2]
    assert run("recipes", "--markdown") == (root / "docs" / "recipes.md").read_text()


def test_questions_are_asked_for_what_is_open() -> None:
    names = {question.name for question in QUESTIONS}
    assert names == {
        "family",
        "regime",
        "batch_size",
        "steps",
        "devices",
        "priority",
        "weight_decay",
        "tuning",
        "memory",
    }
    left = {question.name for question in open_questions({"model": "ViT", "epochs": 3, "priority": "fast"})}
    assert left == names - {"family", "steps", "priority"}
    assert "regime" not in {question.name for question in open_questions({"family": "rl"})}


def asked(*answers: str, **given: Any) -> tuple[dict[str, Any], list[str]]:
    lines = iter(answers)
    written: list[str] = []
    return ask(dict(given), lambda _: next(lines), written.append), written


def test_answers() -> None:
    found, written = asked("8", "1", "64", "", "2", "fast", "no start", "a fast", "2", "little", "")
    assert found == {
        "family": "gan", "regime": "from_scratch", "batch_size": 64.0, "devices": 2, "priority": "fast",
        "weight_decay": 0.0, "tuning": "little",
    }  # fmt: skip
    assert any("not one of the choices" in line for line in written)
