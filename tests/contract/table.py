"""The contract table: every optimizer, with every hyperparameter off its default. The rows
stand beside the referees, tests/papers/<name>.py, and are found by themselves."""

import inspect
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from stepwell.optimizers import TABLE, find

# Those that make a step of a given gradient. L-BFGS evaluates the loss, wrappers have their step from another one: they
# have tests of their own.
RULES = tuple(name for name in TABLE if find(name).facts.kind not in ("closure", "wrapper"))


def _rows_of(name: str) -> list[dict[str, Any]]:
    """The option sets beside the referee of an optimizer, tests/papers/<name>.py. Together they set every option off
    its default; `maximize` is set by the test itself."""
    try:
        return import_module(f"tests.papers.{name.lower()}").ROWS
    except (ModuleNotFoundError, AttributeError) as error:
        raise pytest.UsageError(
            f"{name} has no row of the contract: write tests/papers/{name.lower()}.py with the paper in NumPy, "
            f"`trajectory(params, grads, **options)`, and `ROWS`, a list of options ({error})"
        ) from None


ROWS = {name: _rows_of(name) for name in RULES}

# Beside a referee whose rule has a sign, `TIES`: the share of elements, weights and slots, that may differ from the
# float64 step because 16-bit numbers meet the edge of the sign (0.7 * m + 0.3 * g can be just 0).
TIES: dict[str, float] = {
    name: module.TIES
    for name, module in ((name, import_module(f"tests.papers.{name.lower()}")) for name in RULES)
    if hasattr(module, "TIES")
}

# Options of ours that the referee calls otherwise, or whose values it calls otherwise.
REFEREE_NAMES: dict[str, dict[str, str]] = {
    "RMSprop": {"eps_inside": "eps_inside_sqrt"},
    "StableAdamW": {"clip_threshold": "clip_thresh", "raw_decay": "decay_with"},
    "Adamax": {"eps_outside": "eps_placement"},
    "NAdam": {"average_with_mu": "average_with"},
    "AdaBelief": {"decoupled_weight_decay": "weight_decouple"},
    "ADOPT": {"decoupled_weight_decay": "decouple"},
    "MARS": {"first_previous_zero": "first_previous"},
    "Shampoo": {"precondition_frequency": "precondition_every", "eps_at_root": "eps_at"},
}
REFEREE_VALUES: dict[str, Any] = {
    "eps_placement": {True: "outside", False: "inside"},
    "average_with": {True: "mu", False: "beta1"},
    "decay_with": {True: "raw", False: "clipped"},
    "first_previous": {True: "zero", False: "gradient"},
    "eps_at": {True: "root", False: "start"},
}
REFEREE_VALUES_OF: dict[str, dict[str, Any]] = {"LAMB": {"bias_correction": {True: "inside", False: "none"}}}
NOT_FOR_THE_REFEREE = ("exclude",)  # it treats every tensor alike

# Optimizers with sums over a tensor or over all: kernels add them up in another order than the definition.
SUMMED = tuple(name for name in RULES if any(signature.sums for signature in find(name).signatures.values()))
# Optimizers of whole matrices: products of stacks of another size, or of another layout, are added up in another order.
MATRIX = tuple(name for name in RULES if find(name).view != "element")


def for_referee(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`options` as the referee has them."""
    given = {key: value for key, value in options.items() if key not in NOT_FOR_THE_REFEREE}
    if name == "RMSprop" and given.pop("variant", "torch") == "tensorflow":
        given |= {"eps_inside": True, "initial_square_avg": 1.0, "lr_in_momentum": True}
    named = {REFEREE_NAMES.get(name, {}).get(key, key): value for key, value in given.items()}
    values = {**REFEREE_VALUES, **REFEREE_VALUES_OF.get(name, {})}
    return {key: values[key][value] if key in values else value for key, value in named.items()}


def expected(
    name: str, options: dict[str, Any], params: list[Any], grads: list[list[Any]], bases: list[Any], maximize: bool
) -> list[Any]:
    """The trajectory's end by the referee, for arrays."""
    referee = import_module(f"tests.papers.{name.lower()}")
    given = for_referee(name, options)
    extra: dict[str, Any] = {"maximize": maximize}
    if name == "Sophia":
        extra["hessians"] = [hessians(row) for row in grads]
    if name == "SparseAdam":  # it has rows
        params, grads = _each(params, grads, np.atleast_1d)
    if name in ("Shampoo", "SOAP"):
        params, grads = _each(params, grads, lambda x: x.reshape(len(x), -1) if x.ndim > 2 else x)
    if name == "SOAP":
        extra["basis"] = bases
    if name == "Adafactor" and given.pop("relative_step", True) and given.get("variant") == "shazeer":
        del given["lr"]
    if name != "Muon":
        return referee.trajectory(params, grads, **extra, **given)
    # matrices are Muon's, all others AdamW's
    inner = {key.removeprefix("adamw_"): given.pop(key) for key in list(given) if key.startswith("adamw_")}
    inner = {"lr": given["lr"], "weight_decay": given["weight_decay"], "betas": (0.9, 0.95), **inner}
    given.pop("ns_dtype", None)  # float64 here
    adamw = import_module("tests.papers.adamw")
    ends: list[Any] = [None] * len(params)
    for rule, arguments, mine in ((referee, given, True), (adamw, inner, False)):
        places = [i for i, p in enumerate(params) if (p.ndim >= 2) is mine]
        rows = [[row[i] for i in places] for row in grads]
        for i, end in zip(
            places, rule.trajectory([params[i] for i in places], rows, **extra, **arguments), strict=True
        ):
            ends[i] = end
    return ends


def _each(params: list[Any], grads: list[list[Any]], change: Any) -> tuple[list[Any], list[list[Any]]]:
    return [change(p) for p in params], [[None if g is None else change(g) for g in row] for row in grads]


def hessians(row: list[Any]) -> list[Any]:
    """For Sophia: an estimate for every tensor that has a gradient, at about every other step; negative ones, too.

    Made of the gradients' signs alone, so that scaled gradients have the same.
    """
    if row[0] is None or row[0].sum() < 0:
        return [None for _ in row]
    return [None if g is None else np.sign(g) * 1.5 + 0.5 for g in row]


SHAPES = ((24, 5), (5, 24), (11,), (), (4, 3, 3, 3), (300,))  # tall, wide, vector, number, convolution, uneven tail
# The basis of a matrix's longer side is rank deficient at first: its free part is the LAPACK's choice.
SHAPES_OF = {"SOAP": ((8, 8), (5, 5), (11,), (), (8, 2, 2, 2), (300,)), "Shampoo": (*SHAPES[:-1], (20,))}
STEPS = 20
LATE = {2: 3, 3: 1}  # tensor -> the step at which its first gradient comes


def backends(name: str) -> tuple[str, str]:
    """The definition, and what "auto" takes in its place."""
    return ("eager", "auto") if name in MATRIX else ("eager", "cpu")


# Nearly every row sets these, so they tell no row from another.
_EVERYWHERE = ("lr", "betas", "eps", "weight_decay", "adamw_lr", "adamw_betas", "adamw_eps", "adamw_weight_decay")


def label(name: str, options: dict[str, Any]) -> str:
    """How a row is called in test ids: `AdamW-amsgrad`, `Signum-momentum-no-decoupled_weight_decay`.

    The optimizer, and its options off their defaults. Other rows do not change the label: an id stays what it is.
    """
    defaults = {key: one.default for key, one in inspect.signature(find(name)).parameters.items()}
    words = [name]
    for key, value in options.items():
        if key in _EVERYWHERE or (key in defaults and value == defaults[key]):
            continue
        if value is False or value is None:
            words.append("no")
        words += [key, value] if isinstance(value, str) else [key]
    return "-".join(words)


def rows() -> list[Any]:
    """(name, options) of each row. A new kernel is compiled for about a second, so second rows are marked slow."""
    return [
        pytest.param(name, options, id=label(name, options), marks=[pytest.mark.slow] if i else [])
        for name, all_options in ROWS.items()
        for i, options in enumerate(all_options)
    ]


def further_rows() -> list[Any]:
    """`rows()` without the first one of each optimizer."""
    firsts = [all_options[0] for all_options in ROWS.values()]
    return [row for row in rows() if not any(row.values[1] is first for first in firsts)]


def rows_on_backends() -> list[Any]:
    """(name, options, backend) of each row on each of `backends(name)`: `AdamW-amsgrad-cpu`."""
    return [
        pytest.param(*row.values, backend, id=f"{row.id}-{backend}", marks=row.marks)
        for row in rows()
        for backend in backends(row.values[0])
    ]
