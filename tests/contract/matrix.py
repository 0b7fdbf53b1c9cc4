"""Every optimizer on every backend in every format of weights and of state: `docs/contract.md` is made of these cells.

    python -m tests.contract.matrix           runs them and writes docs/contract.md (25 minutes with a cold cache)
    python -m tests.contract.matrix Lion ...  runs those of some optimizers and writes their lines, each in a minute
    python -m tests.contract.matrix --full    runs also those that the tests leave out, and writes nothing

A cell that does not hold raises an AssertionError, which names the slot and its worst element; one that does has one of
the marks of `MARKS`. The command runs all cells, prints those that do not hold, and then writes nothing and exits 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock
from zlib import crc32

import pytest
import torch
from torch import Tensor

from stepwell import UsageError
from stepwell.engine import blocks, formats, halves, memory_order
from stepwell.engine.backends.statements import traced
from stepwell.optimizers import find
from tests.contract.table import MATRIX, ROWS, RULES, SUMMED, TIES, expected
from tests.contract.test_contract import FLOAT64, give, leaves, run, run_with_bases

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
COMMAND = "python -m tests.contract.matrix"

STATES = formats.STATES
WEIGHTS: dict[str, tuple[torch.dtype, str]] = {
    "fp32": (torch.float32, "native"),
    "fp64": (torch.float64, "native"),
    "bf16": (torch.bfloat16, "native"),
    "bf16 stochastic": (torch.bfloat16, "stochastic"),
    "bf16 split": (torch.bfloat16, "split"),
    "fp16": (torch.float16, "native"),
    "fp16 stochastic": (torch.float16, "stochastic"),
    "fp16 split": (torch.float16, "split"),
}
BACKENDS = {
    "eager": "The definition, in torch's operations. Matrices go in stacks; that is what `auto` takes for them, too.",
    "cpu": "Numba's kernels.",
    "gpu": "Triton's kernels, in Triton's interpreter on CPU tensors. No GPU has run these cells.",
}
WHOLE = ("AdamW", "Lion")  # every cell is run
BROKEN = "!"  # in the terminal only: a page has no such cell
REFUSED = "its rule works on whole matrices, and this backend runs only elementwise rules"
MARKS = {
    "p": "equals the paper's transcription in float64 NumPy (`tests/papers`) to 1e-11",
    "r": "each step is the float64 one from the same weights and state, rounded to the format: weights to 1e-5 beside "
    "the last place of 16-bit weights, slots to half a code or the last place (float32 decompositions of SOAP and "
    "Shampoo: 1e-3; the share of elements that may "
    f"differ at a tie of a sign: {', '.join(f'{share:g} of {name}' for name, share in TIES.items())})",
    "=": "the same bits as `eager`, weights and state",
    "~": "as `eager` to 2e-5 (float64: 1e-11) and one code or last place; 1 % of the elements may be further off, as a "
    "value beside the edge between two codes moves what follows. These rules have sums, which are added up in another "
    "order, or powers, which are another function on `gpu`",
    "w": "state stays fp64 beside fp64 weights, whatever is asked for: the kernel is that of the first cell",
    "x": f"refused: {REFUSED}",
    ".": "not run by the tests",
}


def is_run(backend: str, name: str, weights: str, state: str) -> bool:
    """Whether the tests run a cell.

    How state is stored and how weights are rounded are lines of a kernel that do not see each other. Each pair of
    (optimizer, state), (optimizer, weights) and (state, weights) is run, and every cell of `WHOLE`. Which these are
    depends on the optimizer's name alone: another line of the table leaves its cells as they are.
    """
    if name in (*WHOLE, *(() if backend == "eager" else MATRIX)) or weights in ("fp32", "fp64"):
        return True
    if weights in ("bf16", "fp16"):
        return state == "fp32"
    return state == STATES[(crc32(name.encode()) + list(WEIGHTS).index(weights)) % len(STATES)]


def marks(backend: str, name: str, full: bool = False) -> tuple[list[str], list[str]]:
    """Of one optimizer: a word per format of weights, with a letter per format of state; and what does not hold."""
    words, failures = [], []
    for weights in WEIGHTS:
        word = ""
        for state in STATES:
            letter = "."
            if full or is_run(backend, name, weights, state):
                try:
                    letter = cell(backend, name, weights, state)
                except (Exception, pytest.fail.Exception) as error:  # the other cells say where else it fails
                    letter = BROKEN
                    said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                    failures.append(f"{name} on {backend}, weights {weights}, state {state}: {said}")
            word += letter
        words.append(word)
    return words, failures


def cells(backend: str) -> list[Any]:
    """A parameter set (name, weights, state) per cell that is run: `AdamW-bf16_split-int8-cpu`."""
    return [
        pytest.param(name, weights, state, id=f"{name}-{weights.replace(' ', '_')}-{state}-{backend}")
        for name in RULES
        for weights in WEIGHTS
        for state in STATES
        if is_run(backend, name, weights, state)
    ]


def printed(backend: str, name: str, weights: str, state: str) -> str | None:
    """The mark of a cell on the page."""
    words = _page_of_today()[backend].get(name)
    return None if words is None else words[list(WEIGHTS).index(weights)][STATES.index(state)]


@cache
def _page_of_today() -> dict[str, dict[str, list[str]]]:
    return committed_rows(PAGE.read_text())


def cell(backend: str, name: str, weights: str, state: str) -> str:
    """Run one cell; its mark."""
    dtype, rounding = WEIGHTS[weights]
    options = {**ROWS[name][0], "state": state, "weights": rounding, "seed": 5}
    if name == "Muon":
        options["ns_dtype"] = "fp32"  # products in bf16 are right to 0.8 %, which would hide everything else
    if backend != "eager" and name in MATRIX:
        return _refused(backend, name, options, dtype)
    if weights == "fp64" and state != "fp32":
        assert _kinds(backend, name, options) == _kinds(backend, name, {**options, "state": "fp32"})
        return "w"
    if backend != "eager":
        return _as_eager(backend, name, options, dtype)
    return _as_the_paper(name, options) if weights == "fp64" else _as_the_float64_step(name, options, dtype)


# What is run


def problem(backend: str, name: str, dtype: torch.dtype) -> tuple[list[Tensor], list[list[Any]]]:
    """Weights and gradients: tensors that end with a block and inside one, a channels-last one, a number, and a small
    vector whose first gradient comes late; the last two keep fp32 state."""
    shapes: list[tuple[int, ...]] = [(4096,), (33, 127), (16, 32, 3, 3), (), (7,)]
    if name in MATRIX:  # of SOAP's, square ones: the basis of a longer side is the LAPACK's choice where it is free
        shapes = [(64, 64), (8, 2, 2, 2), (7,)]
    if backend == "gpu":  # two programs, one of which ends inside a block: the interpreter takes its time
        shapes = [(5, 220), (7,)]
    generator = torch.Generator().manual_seed(3)

    def draw(shape: tuple[int, ...], scale: float) -> Tensor:
        x = torch.randn(shape, generator=generator) * scale
        return (x.to(memory_format=torch.channels_last) if len(shape) == 4 else x).to(dtype)

    params = [draw(shape, 0.5) for shape in shapes]
    grads: list[list[Any]] = [[draw(shape, scale) for shape in shapes] for scale in (1.0, 0.1, 0.3)]
    for row in grads:
        row[1 if len(shapes) > 3 else 0][..., :5] = 0  # nothing but the momentum moves these
    grads[0][-1] = None
    return params, grads[: 2 if backend == "gpu" else 3]


def _kinds(backend: str, name: str, options: dict[str, Any]) -> list[Any]:
    """What the kernels of an optimizer of float64 weights are made from."""
    params, _ = problem(backend, name, torch.float64)
    return [launch.kind for launch in find(name)(leaves(params), backend=backend, **options).make_plan().launches]


def _refused(backend: str, name: str, options: dict[str, Any], dtype: torch.dtype) -> str:
    params, grads = problem(backend, name, dtype)
    ours = leaves(params)
    optimizer = find(name)(ours, backend=backend, **options)
    give(optimizer, ours, grads[-1])
    with pytest.raises(UsageError) as refusal:
        optimizer.step()
    assert REFUSED in str(refusal.value)
    assert all(map(torch.equal, ours, params))
    return "x"


def _as_the_paper(name: str, options: dict[str, Any]) -> str:
    params, grads = problem("eager", name, torch.float64)
    ours = leaves(params)
    bases = run_with_bases(find(name)(ours, backend="eager", **options), ours, grads)
    arrays = [[None if g is None else g.numpy() for g in row] for row in grads]
    given = {k: v for k, v in options.items() if k not in ("state", "weights", "seed")}
    wanted = expected(name, given, [p.numpy() for p in params], arrays, bases, maximize=False)
    for i, (got, end) in enumerate(zip(ours, wanted, strict=True)):
        want = torch.from_numpy(end)
        bound = FLOAT64["atol"] + FLOAT64["rtol"] * want.abs()
        _assert_within(got.detach().reshape(want.shape), want, bound, f"weights of tensor {i}")
    return "p"


def _as_the_float64_step(name: str, options: dict[str, Any], dtype: torch.dtype) -> str:
    params, grads = problem("eager", name, dtype)
    ours = leaves(params)
    optimizer = find(name)(ours, backend="eager", **options)
    exact = 1e-3 if name in ("SOAP", "Shampoo") else 1e-5
    ties = TIES.get(name, 0.0)
    for step, row in enumerate(grads, 1):
        give(optimizer, ours, row)
        optimizer.gradient_norm()  # state begins as it is stored: the twin has it, too
        twin, theirs = _in_float64(name, optimizer, ours, options)
        optimizer.step()
        twin.step()
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            if p.grad is None:
                continue
            place = 0.0 if options["weights"] == "split" else LAST_PLACE[dtype]
            where = f"of tensor {i} in step {step}"
            stored = q.detach().abs() * place
            _assert_off_by(values_of(optimizer, p), q.detach(), exact, stored, f"weights {where}", ties)
            for slot in _slots(optimizer, p):
                found = formats.found_format(optimizer.state[p], slot.name, p.numel())
                want = twin.state[q][slot.name]
                if slot.per in ("left", "right") and slot.wide:  # a basis has signs of its own
                    continue
                bound = place_of(found, slot.signed, want)
                _assert_off_by(slot_values(optimizer, p, slot), want, exact, bound, f"{slot.name} {where}", ties)
    return "r"


def _in_float64(name: str, optimizer: Any, ours: list[Tensor], options: dict[str, Any]) -> tuple[Any, list[Tensor]]:
    """An optimizer of float64 weights that has the weights, gradients and state of `optimizer` as they are stored."""
    theirs = [values_of(optimizer, p).clone().requires_grad_() for p in ours]
    twin = find(name)(theirs, backend="eager", **options)
    state = {}
    for index, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        q.grad = None if p.grad is None else p.grad.double()
        if optimizer.state.get(p):
            slots = {slot.name: slot_values(optimizer, p, slot) for slot in _slots(optimizer, p)}
            state[index] = {"step": optimizer.state[p]["step"], **slots}
    twin.load_state_dict({"state": state, "param_groups": twin.state_dict()["param_groups"]})
    return twin, theirs


def _as_eager(backend: str, name: str, options: dict[str, Any], dtype: torch.dtype) -> str:
    params, grads = problem(backend, name, dtype)
    both = []
    for one in ("eager", backend):
        ours = leaves(params)
        optimizer = find(name)(ours, backend=one, **options)
        with mock.patch.object(formats, "SMALL", 1000 if backend == "gpu" else formats.SMALL):
            run(optimizer, ours, grads)
            kinds = [launch.kind for launch in optimizer.make_plan().launches]
        both.append((optimizer, ours))
    (eager, ours), (other, theirs) = both
    powers = backend == "gpu" and any(s.op in ("pow", "log") for kind in kinds for s in traced(kind).needed())
    exact = 1e-11 if dtype == torch.float64 else 2e-5
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        assert set(eager.state[p]) == set(other.state[q]), f"keys of the state of tensor {i}"
        if name not in SUMMED and not powers:
            _assert_same(q, p, f"weights of tensor {i}")
            for key, value in eager.state[p].items():
                _assert_same(other.state[q][key], value, f"{key} of tensor {i}")
            continue
        want = values_of(eager, p)
        place = 0.0 if options["weights"] == "split" else 2 * LAST_PLACE[dtype]
        _assert_off_by(values_of(other, q), want, exact, want.abs() * place, f"weights of tensor {i}", 0.01)
        for slot in _slots(eager, p):
            want = slot_values(eager, p, slot)
            found = formats.found_format(eager.state[p], slot.name, p.numel())
            bound = 2 * place_of(found, slot.signed, want)
            _assert_off_by(slot_values(other, q, slot), want, exact, bound, f"{slot.name} of tensor {i}", 0.01)
    return "~" if name in SUMMED or powers else "="


# What is stored, as numbers

# of a rounded number, the largest error relative to it: either neighbour where it is rounded stochastically
LAST_PLACE = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def _slots(optimizer: Any, p: Tensor) -> list[Any]:
    group = next(group for group in optimizer.param_groups if any(one is p for one in group["params"]))
    return [slot for slot in optimizer.signature_for(group, p).slots if slot.exists(group)]


def values_of(optimizer: Any, p: Tensor) -> Tensor:
    """A parameter in float64, with the low bits of split weights."""
    if formats.LOW_BITS not in optimizer.state.get(p, {}):
        return p.detach().double()
    return halves.join(p.detach(), optimizer.state[p][formats.LOW_BITS]).double()


def slot_values(optimizer: Any, p: Tensor, slot: Any) -> Tensor:
    """A slot in float64, in the layout of its parameter."""
    state = optimizer.state[p]
    if slot.per != "element":
        return state[slot.name].double()
    name = formats.found_format(state, slot.name, p.numel())
    stored = tuple(state[key] for key in formats.state_names(slot.name, name))
    result = torch.empty_like(p, dtype=torch.float64, requires_grad=False)
    memory_order.flat(result).copy_(formats.read(name, slot.signed, stored, p.numel(), torch.float64))
    return result


def place_of(name: str, signed: bool, values: Tensor) -> Tensor:
    """By how much a number may differ from `values` because it is stored in the format `name`."""
    if name not in ("int8", "int4"):
        return values.abs() * (LAST_PLACE[torch.bfloat16] if name == "bf16" else 0.0)
    code = blocks.CODES[name, signed]
    lines = blocks.lines_of(values.shape)
    rows = code._rows(memory_order.flat(values).abs().float(), lines)
    scale = code.scales(rows)[:, None]
    y = torch.where(scale > 0, rows / scale, 0.0).clamp(max=1)
    root = ((y.view(torch.int32) >> code.shift) + code.offset).view(torch.float32)
    if code.dithered:  # half a code either way
        steps = code._back(root + 0.5 / 7) - code._back((root - 0.5 / 7).clamp(min=0))
    else:  # from one code to the next: of the larger of two intervals where a number lies beside a code
        low = (root * code.count).floor()
        steps = code._back((low + 2) / code.count) - code._back((low + 1) / code.count)
    bound = torch.where(
        rows > scale * (1 + 2e-7), torch.inf, steps * scale
    )  # a number that is too far above the others
    result = torch.empty_like(values)
    in_lines = bound.view(lines.count, -1)[:, : lines.length]
    memory_order.flat(result).copy_(in_lines.flatten())
    return result


def _assert_off_by(got: Tensor, want: Tensor, exact: float, stored: Tensor, what: str, but: float = 0.0) -> None:
    """`got` differs by rounding of the arithmetic (`exact`) and by how it is stored; for all `but` a share."""
    scale = float(want.abs().max()) if want.numel() else 0.0
    _assert_within(got, want, exact * (want.abs() + scale) + stored * 1.001, what, but)


def _assert_same(got: Tensor, want: Tensor, what: str) -> None:
    assert got.dtype == want.dtype, f"{what} is {got.dtype} instead of {want.dtype}"
    _assert_within(got.detach().double(), want.detach().double(), torch.zeros(()), what)


def _assert_within(got: Tensor, want: Tensor, bound: Tensor, what: str, but: float = 0.0) -> None:
    """No element differs by more than its bound, for all `but` a share; NaN differs from everything."""
    assert got.shape == want.shape, f"{what} has the shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    excess = torch.where(got == want, 0.0, ((got - want).abs() - bound).nan_to_num(nan=torch.inf))
    count = int((excess > 0).sum())
    if count <= but * got.numel():
        return
    worst = int(excess.argmax())
    index = [int(n) for n in torch.unravel_index(torch.tensor(worst), excess.shape)]
    raise AssertionError(
        f"{what} differs at {count} of {got.numel()} elements, most at {index}: "
        f"{float(got.flatten()[worst]):.9g} instead of {float(want.flatten()[worst]):.9g}"
    )


# The page


def table(backend: str, rows: dict[str, list[str]]) -> str:
    lines = ["| optimizer | " + " | ".join(WEIGHTS) + " |", "|---" * (len(WEIGHTS) + 1) + "|"]
    return "\n".join([*lines, *(line(name, row) for name, row in rows.items())])


def line(name: str, row: list[str]) -> str:
    return f"| {name} | " + " | ".join(f"`{word}`" for word in row) + " |"


def page(rows: dict[str, dict[str, list[str]]]) -> str:
    """The text of docs/contract.md; `rows`: backend -> optimizer -> `marks`."""
    legend = "\n".join(f"- `{letter}` {meaning}" for letter, meaning in MARKS.items())
    tables = "\n\n".join(f"### {b}\n\n{what}\n\n{table(b, rows[b])}" for b, what in BACKENDS.items())
    return f"""# The contract

Written by `{COMMAND}` from the cells it runs. `tests/contract/test_matrix.py` (for `gpu`:
`tests/interpreter`) runs them again and compares.

What every optimizer holds, beside the cells below (`tests/contract/test_contract.py`, over every row of
`tests/contract/table.py`, which sets every hyperparameter off its default): it equals its paper in float64 over 20
steps, minimising and maximising; a resumed run continues bit for bit; state is what is declared; gradients are never
written; a skipped step changes no bit; unscaling inside the step equals unscaled gradients; memory layout does not
matter; frozen, empty, late and later-added parameters; torch's checkpoints both ways where torch has the optimizer.
`test_formats.py` runs every further row of options in every format of state on `cpu`.

## Optimizer x backend x format

A column is a format of weights: the dtype, and `weights=` where it is not "native". The four letters of a cell are the
formats of state, `state=`: {", ".join(STATES)}.

{legend}

Of how state is stored and how weights are rounded, {" and ".join(WHOLE)} run every combination. All others run every
format of state with fp32 weights, every format of weights with one format of state, and these formats take turns.

{tables}
"""


def committed_rows(text: str) -> dict[str, dict[str, list[str]]]:
    """The rows of a page."""
    rows: dict[str, dict[str, list[str]]] = {}
    for part in text.split("\n### ")[1:]:
        cells = [one.split(" | ") for one in part.splitlines() if one.startswith("| ") and "`" in one]
        rows[part.split("\n", 1)[0]] = {
            name.strip("| "): [word.strip("`| ") for word in words] for name, *words in cells
        }
    return rows


def main(arguments: list[str]) -> None:
    full, gpu = "--full" in arguments, "--gpu" in arguments
    chosen = [find(one).__name__ for one in arguments if not one.startswith("--")]
    rows: dict[str, dict[str, list[str]]] = {}
    failures: list[str] = []
    for backend in ("gpu",) if gpu else ("eager", "cpu"):
        rows[backend] = {}
        for name in chosen or RULES:
            rows[backend][name], found = marks(backend, name, full)
            print(f"{backend:6}{name:20}{' '.join(rows[backend][name])}", *found, sep="\n  ", file=sys.stderr)
            failures += found
    if gpu:
        print(json.dumps([rows, failures]))
        return
    again = [sys.executable, "-m", "tests.contract.matrix", "--gpu", *arguments]
    interpreted = subprocess.run(again, env={**os.environ, "TRITON_INTERPRET": "1"}, stdout=subprocess.PIPE, check=True)
    of_gpu, failures_of_gpu = json.loads(interpreted.stdout)
    rows |= of_gpu
    failures += failures_of_gpu
    if failures:
        raise SystemExit("\n".join([*failures, f"{len(failures)} cells do not hold; no page was written"]))
    if not full:
        PAGE.write_text(page(with_the_others(rows) if chosen else rows))


def with_the_others(rows: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    """`rows`, and those of the page of all other optimizers, in the order of the table."""
    before = committed_rows(PAGE.read_text())
    both = {backend: before[backend] | rows[backend] for backend in BACKENDS}
    missing = [name for name in RULES if name not in both["eager"]]
    if missing:
        raise SystemExit(
            f"docs/contract.md has no line of {', '.join(missing)}: run `{COMMAND} {' '.join(missing)}`, too"
        )
    return {backend: {name: both[backend][name] for name in RULES} for backend in BACKENDS}


if __name__ == "__main__":
    main(sys.argv[1:])
