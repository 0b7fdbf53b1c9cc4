"""A script that was read: what it does, for the checks to look at."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

from stepwell.findings import Check, Evidence, Finding, Fix, Source
from stepwell.lint.analysis.events import Block, Event, Loop, events_of, loops_of
from stepwell.lint.analysis.interest import Interest
from stepwell.lint.analysis.interpreter import Interpreter
from stepwell.lint.analysis.known import LIGHTNING, TRAINER
from stepwell.lint.analysis.lookup import BINDING, assignments, full_name_of, imports, literal, resolved
from stepwell.lint.analysis.paths import paths, pruned
from stepwell.lint.analysis.syntax import Survey, written
from stepwell.lint.analysis.values import Class, Function, Tensor, Thing, Value

Proof = TypeVar("Proof")
Node = TypeVar("Node", bound=ast.AST)


class Unreadable(Exception):
    """A source that is no Python of this version: `line`, `column` and a message."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.message = line, column, message


@dataclass(eq=False)
class Root:
    """Where a walk began: the module, or a function that nothing in the file calls.

    Attributes:
        block: what happens.
        function: the function, or None for the module.
        framework: what calls it for every batch or epoch ("lightning", "trainer"), or "".
        uncalled: whether nothing in the file calls it; then its caller may do what is missing here.
    """

    block: Block
    function: ast.AST | None = None
    framework: str = ""
    uncalled: bool = False
    owner: Thing | None = None

    @cached_property
    def events(self) -> list[Event]:
        return list(events_of(self.block))


@dataclass(eq=False)
class Script:
    """A parsed source and what it does."""

    source: str
    file: str
    tree: ast.Module
    roots: list[Root] = field(default_factory=list)
    classes: list[Class] = field(default_factory=list)
    complete: bool = True  # whether all calls of functions of the file were followed
    hidden: dict[str, bool] = field(default_factory=dict)  # answers of order.is_hidden, uses_gradients
    first: dict[str, ast.AST | None] = field(default_factory=dict)  # answers of settings.attention

    @cached_property
    def lines(self) -> list[str]:
        return io.StringIO(self.source, newline="").readlines()  # where Python ends lines, and nowhere else

    @cached_property
    def lowered(self) -> str:
        """The source in small letters, for quick looks at words."""
        return self.source.lower()

    @cached_property
    def events(self) -> list[Event]:
        """All events, of all roots."""
        return [event for root in self.roots for event in root.events]

    def of_kind(self, *kinds: str) -> list[Event]:
        if len(kinds) == 1:
            return self._by_kind.get(kinds[0], [])
        return [event for event in self.events if event.kind in kinds]

    @cached_property
    def _by_kind(self) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = {}
        for event in self.events:
            found.setdefault(event.kind, []).append(event)
        return found

    def made(self, kind: str) -> Iterator[Thing]:
        """The things of a kind that the script makes, each once."""
        seen: set[int] = set()
        for event in self.of_kind("make"):
            if event.target is not None and event.target.kind == kind and id(event.target) not in seen:
                seen.add(id(event.target))
                yield event.target

    @cached_property
    def loops(self) -> list[tuple[Root, Loop]]:
        return [(root, loop) for root in self.roots for loop in loops_of(root.block)]

    def ways(self, inside: Loop | Root, keep: Callable[[Event], bool] | None = None) -> list[list[Event]] | None:
        """The ways through one round of a loop, or through all of a root with its loops gone through once; None where
        there are too many.

        With `keep`, a named function, the ways have these events only. Branches without any of them make no ways, so
        that long functions have fewer: None less often.
        """
        key = (id(inside), id(keep))
        if key not in self._ways:
            block = inside.body if isinstance(inside, Loop) else inside.block
            self._ways[key] = paths(block if keep is None else pruned(block, keep))
        return self._ways[key]

    def root_of(self, event: Event) -> Root:
        """The root in which an event happens."""
        if not self._root_of:
            self._root_of = {id(one): root for root in self.roots for one in root.events}
        return self._root_of[id(event)]

    _ways: dict[tuple[int, int], list[list[Event]] | None] = field(default_factory=dict)
    _root_of: dict[int, Root] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)  # id of a node of the tree -> its full name

    def places(self, *kinds: str) -> list[list[Event]]:
        """The events of these kinds by their place in the source: a function that is called twice has its events twice.
        A mistake that is one for every caller is one; what only some callers lack is none."""
        found: dict[int, list[Event]] = {}
        for event in self.of_kind(*kinds):
            found.setdefault(id(event.node), []).append(event)
        return list(found.values())

    def for_every_caller(self, kind: str, look: Callable[[Event], Proof | None]) -> Iterator[tuple[Event, Proof]]:
        """The places of events of a kind for which `look` finds a proof under every caller: the first event there, and
        its proof."""
        for places in self.places(kind):
            proofs = [look(event) for event in places]
            first = proofs[0]
            if first is not None and all(proof is not None for proof in proofs):
                yield places[0], first

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree, in the order of the text: walked through once for all checks."""
        return self._survey.nodes

    @cached_property
    def _survey(self) -> Survey:
        return Survey(self.tree)

    def each(self, *kinds: type[Node]) -> list[Node]:
        """The nodes of these types, in the order of the text."""
        if len(kinds) == 1:
            return cast("list[Node]", self._survey.of_type.get(kinds[0], []))
        together = [node for kind in kinds for node in self._survey.of_type.get(kind, ())]
        return cast("list[Node]", sorted(together, key=self._position))

    def _position(self, node: ast.AST) -> int:
        return self._survey.positions[id(node)]

    @cached_property
    def parents(self) -> dict[int, ast.AST]:
        """id of a node -> the node around it."""
        return self._survey.parents

    def statement(self, node: ast.AST) -> ast.stmt | None:
        """The statement that a node is, or is a part of."""
        one: ast.AST | None = node
        while one is not None and not isinstance(one, ast.stmt):
            one = self.parents.get(id(one))
        return one

    def block_of(self, statement: ast.stmt) -> list[ast.stmt] | None:
        """The statements among which a statement stands."""
        parent = self.parents.get(id(statement))
        for name in ("body", "orelse", "finalbody", "handlers"):
            block = getattr(parent, name, None)
            if isinstance(block, list) and any(one is statement for one in block):
                return block
        return None

    @cached_property
    def assignments(self) -> dict[str, list[ast.expr | None]]:
        """name, or ".attribute" -> all that the file assigns to it."""
        return assignments(self.each(*BINDING))

    @cached_property
    def imports(self) -> dict[str, str]:
        """name -> the full name of what is imported under it."""
        return imports(self.each(ast.Import, ast.ImportFrom))

    def full_name(self, node: ast.expr) -> str:
        """The full name of a dotted name that was imported, or ""."""
        key = id(node)
        if key not in self._names:
            self._names[key] = full_name_of(self.imports, node)
        return self._names[key]

    def name_of(self, node: ast.expr) -> str:
        """The full name of a dotted name, or its text as written where it was not imported."""
        return self.full_name(node) or (written(node) if isinstance(node, (ast.Name, ast.Attribute)) else "")

    def resolved(self, node: ast.expr | None) -> ast.expr | None:
        """What an expression is: for a name with one assignment in the file, what is assigned."""
        return resolved(self.assignments, node)

    def literal(self, node: ast.expr | None) -> Any:
        """The number, text or tuple of literals that an expression is known to be, or None."""
        return literal(self.assignments, node)

    @cached_property
    def calls(self) -> list[tuple[ast.Call, str]]:
        """All calls, in the order of the text, with the full name of what is called."""
        return [(node, self.name_of(node.func)) for node in self.each(ast.Call)]

    # Findings

    def finding(
        self,
        check: Check,
        node: ast.AST,
        seen: str,
        evidence: Iterable[tuple[ast.AST, str]] = (),
        instead: str = "",
        fix: Fix | None = None,
    ) -> Finding:
        proofs = tuple(Evidence(self.place(where), words) for where, words in evidence)
        return Finding(check=check, place=self.place(node), seen=seen, evidence=proofs, instead=instead, fix=fix)

    def place(self, node: ast.AST) -> Source:
        """The place of a node; of a compound statement, its first line."""
        line = getattr(node, "lineno", 1)
        column = self.column(line, getattr(node, "col_offset", 0))
        last = None if hasattr(node, "body") else getattr(node, "end_lineno", None)
        end = None if last is None else (last, self.column(last, getattr(node, "end_col_offset", None) or 0))
        return Source(self.file, line, column, end)

    def column(self, line: int, offset: int) -> int:
        """The column, from 1 and in characters, of an offset in bytes."""
        if not 1 <= line <= len(self.lines):
            return offset + 1
        text = self.lines[line - 1]
        return (
            offset + 1
            if text.isascii()
            else len(text.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "replace")) + 1
        )

    def text(self, node: ast.AST) -> str:
        """The source of a node, in one line and not too long."""
        words = " ".join(written(node).split())
        return words if len(words) <= 60 else words[:57] + "..."


def read(source: str, file: str = "<string>") -> Script:
    """The script in a source. Raises Unreadable where that is no Python."""
    try:
        tree = ast.parse(source, file)
    except SyntaxError as error:
        raise Unreadable(error.lineno or 1, error.offset or 1, f"syntax error: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise Unreadable(1, 1, "nested too deeply to be parsed") from None
    except ValueError as error:  # a null byte
        raise Unreadable(1, 1, str(error)) from None
    script = Script(source, file, tree)
    if not _trains(source):
        return script
    try:
        _walk(script)
    except RecursionError:
        raise Unreadable(1, 1, "nested too deeply to be followed") from None
    return script


def _trains(source: str) -> bool:
    """Whether there can be anything for a check: a quick look, since most files of a project train nothing."""
    return any(word in source for word in ("torch", "lightning", "accelerate", "backward", "optim", "stepwell"))


def _walk(script: Script) -> None:
    interest = Interest(script.source, script.tree, script.each(ast.Call))
    if not interest.any:
        return
    run = Interpreter(interest)
    run.run(script.tree.body)
    script.roots.append(Root(run.block))
    _uncalled(script, run)
    script.classes = run.classes
    script.complete = run.left > 0


def _uncalled(script: Script, run: Interpreter) -> None:
    """Functions that nothing has called: first those whose name nobody uses, then what is left."""
    used = {written(node.func).rsplit(".", 1)[-1] for node in script.each(ast.Call)}
    todo: list[tuple[Function, Class | None]] = [(function, None) for function in run.functions]
    for known in run.classes:
        todo += [(Function(method, known.scope), known) for method in known.methods.values()]
    todo.sort(key=lambda pair: getattr(pair[0].node, "name", "") in used)
    for function, cls in todo:
        node = function.node
        if isinstance(node, ast.Lambda) or id(node) in run.entered or node not in run.interest or run.left <= 0:
            continue
        owner = None
        framework = ""
        if cls is not None:
            owner = _self_of(run, cls)
            function.owner = owner
            framework = _framework(cls, node.name)
        run.block, run.loops, run.branches, run.frames = [], (), (), ()
        run.no_grad, run.autocast, run.function = False, None, None
        given: dict[str | int, Value] = {}
        if framework and not node.name.startswith(("configure", "__init__")):
            run.no_grad = node.name.startswith(("validation", "test_", "predict", "on_validation", "on_test"))
            given = {0: Tensor(False, "data")}
            loop = Loop(node, "batch", implicit=True, function=node)
            run.loops = (loop,)
            run.block = loop.body
            run.call(function, node, given, True)
            block: Block = [loop]
        else:
            run.call(function, node, given, True)
            block = run.block
        script.roots.append(Root(block, node, framework, True, owner))


def _self_of(run: Interpreter, cls: Class) -> Thing:
    """The object that the methods of a class work on: made once, by its __init__, with arguments known by their
    names."""
    from stepwell.lint.analysis.calls import kind_of_class

    if id(cls) not in run.selves:
        kind = kind_of_class(cls)
        thing = Thing("instance" if kind == "data" else kind, "self", cls.node.name, local=cls)
        run.selves[id(cls)] = thing
        start = cls.method("__init__")
        if start is not None:
            with run.hushed():
                run.loops, run.branches, run.frames = (), (), ()
                run.call(Function(start, cls.scope, thing), start, {}, True)
    return run.selves[id(cls)]


def _framework(cls: Class, method: str) -> str:
    bases = cls.external_bases()
    if any(LIGHTNING.match(base) or base.rsplit(".", 1)[-1] == "LightningModule" for base in bases):
        hooks = ("training_step", "validation_step", "test_step", "predict_step", "optimizer_step",
                 "on_train_batch_start", "on_train_batch_end")  # fmt: skip
        return "lightning" if method in hooks else ""
    if any(TRAINER.match(base) or base.rsplit(".", 1)[-1].endswith("Trainer") for base in bases):
        return "trainer" if method in ("training_step", "compute_loss", "prediction_step", "evaluate") else ""
    return ""
