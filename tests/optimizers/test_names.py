"""What is known of an optimizer stands in its own file: nothing else asks for one by the name of its class."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import stepwell
from stepwell.optimizers import TABLE, module_of

HOUSE = Path(stepwell.__file__).parent
NAMES = {name.lower(): name for name in TABLE}
HOME = {name.lower(): HOUSE.parent / (module_of(name).replace(".", "/") + ".py") for name in TABLE}
BUILT = ("optimizers", "wrappers")  # rooms whose files may be built on one another: by an import of the class

# file -> (names, reason)
ALLOWED = {
    "optimizers/table.py": ("*", "the table"),
    "optimizers/__init__.py": ("SAM ASAM Lookahead LBFGS", "what `create` returns, for type checkers"),
    "groups/memory.py": ("*", "sizes of optimizers of torch and other libraries, which declare nothing"),
    "engine/decay.py": ("AdamW Adafactor Muon", "torch's classes, whose groups do not say how they decay"),
    "groups/build.py": ("Muon AdamW", "the public function `groups.muon`, and the labels of its two kinds of groups"),
    "groups/__init__.py": ("Muon", "the public function `groups.muon`"),
    "groups/command.py": ("Muon AdamW", "the public function `groups.muon`; what is taken unless an option says"),
    "compare/run.py": ("SGD AdamW Lion", "what is compared unless an argument says"),
    "finder/command.py": ("AdamW", "what is taken unless an option says"),
    "optimizers/shampoo.py": ("SGD Adagrad Adam", "values of `grafting`: methods of its paper, not classes"),
    "optimizers/muon.py": ("AdamW", "the rule of the tensors that are no matrices"),
    "optimizers/muon_groups.py": ("Muon AdamW", "a part of muon.py: which of its two rules updates a tensor"),
    "optimizers/mars.py": ("AdamW Adam", "the rule of the tensors that are not its own; the module it is built on"),
    "wrappers/wrapper.py": ("SGD", "what is inside unless an argument says"),
    "wrappers/sam.py": ("SGD", "what is inside unless an argument says"),
    "wrappers/asam.py": ("SGD", "what is inside unless an argument says"),
    "wrappers/lookahead.py": ("AdamW", "what is inside unless an argument says"),
    "doctor/trends.py": ("SGD Adam RMSprop Adagrad NAdam RAdam Adamax", "torch's classes: decay in the gradient"),
    "doctor/checks/batch_too_small.py": ("LBFGS", "its steps turn on one batch, by design"),
    "doctor/checks/momentum_near_one.py": ("AdEMAMix Adan", "several averages by design, also of other libraries"),
    "doctor/checks/betas_swapped.py": ("Adam", "a part of the names of all classes with two betas of this meaning"),
    **{
        f"doctor/symptoms/{name}.py": ("*", "descriptions of training problems in words, which name optimizers")
        for name in ("gradients", "optimizer", "learning_rate", "questions", "reading", "wiring", "words")
    },
    **{
        path.relative_to(HOUSE).as_posix(): ("*", "what was published with which optimizer")
        for path in (HOUSE / "advisor").rglob("*.py")
    },
    "doctor/traces.py": ("SGD AdamW", "the optimizer of a synthetic run unless an argument says"),
    "doctor/checks/weight_decay_too_strong.py": ("Adam", "what the user is told: torch's Adam has no decoupled decay"),
    "step/files.py": ("ADOPT", "a verb: to adopt the files of an earlier run"),
    "step/checkpoint.py": ("ADOPT", "a verb: to adopt the files of an earlier run"),
}  # fmt: skip


def named_in(path: Path) -> set[str]:
    """The classes of the table that the code of a file names: names, attributes, arguments and texts. Docstrings,
    imports for type checkers, torch's own classes, and classes that are imported from their file do not count."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                skipped.add(id(first.value))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("BAD", "GOOD"):
            skipped |= {id(one) for one in ast.walk(node)}  # examples of a check
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(one) for one in ast.walk(node)}
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.optim."):
            skipped.add(id(node))
        if isinstance(node, ast.ImportFrom) and path.relative_to(HOUSE).parts[0] in BUILT:
            for alias in node.names:
                if alias.name in TABLE and node.module == module_of(alias.name):
                    skipped.add(id(alias))
                    imported.add(alias.name)
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        texts = [getattr(node, field, None) for field in ("id", "attr", "arg", "name", "value")]
        for text in texts:
            if not isinstance(text, str) or text.lower().split(".")[-1] not in NAMES:
                continue
            name = NAMES[text.lower().split(".")[-1]]
            if not (isinstance(node, ast.Name) and name in imported) and path != HOME[name.lower()]:
                found.add(name)
    return found


# The linter reads the names of torch's classes in the scripts of others, and may import nothing that needs torch.
FILES = sorted(path for path in HOUSE.rglob("*.py") if path.relative_to(HOUSE).parts[0] != "lint")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_no_other_file_names_an_optimizer(path: Path) -> None:
    names, _ = ALLOWED.get(path.relative_to(HOUSE).as_posix(), ("", ""))
    if names != "*":
        strange = named_in(path) - set(names.split())
        assert not strange, (
            f"{path.relative_to(HOUSE)} names {', '.join(sorted(strange))}: let the class declare what is asked here, "
            "or say in ALLOWED why not"
        )


def test_every_exception_is_needed_and_has_a_reason() -> None:
    for place, (names, reason) in ALLOWED.items():
        assert len(reason) > 5
        found = named_in(HOUSE / place)
        assert found >= set(names.split()) - {"*"}, f"{place} no longer names {set(names.split()) - found}"
        assert found or place.startswith("advisor/")


def test_the_reader_sees_names_and_texts(tmp_path: Path) -> None:
    assert named_in(HOUSE / "groups" / "build.py") == {"Muon", "AdamW"}
    assert "SGD" in named_in(HOUSE / "compare" / "run.py")
