"""L-BFGS: Newton's direction from recent steps and changes of the gradient, and a line search along the direction.

s_i, y_i          = step i, and the change of the gradient over it, for the last history_size steps
direction         = H @ g by the two-loop recursion over (s_i, y_i), starting with H0 = (s @ y) / (y @ y)
p                <- p - t * direction, t by a line search (strong Wolfe conditions), or t = lr
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from stepwell.engine import as_groups, checkpoint, prefixes, sharding, stored
from stepwell.engine.bytes import held
from stepwell.engine.closures import check_closure
from stepwell.engine.given_groups import check_names, labelled
from stepwell.engine.options import NoOptions, Params, Unpack, hyperparameters
from stepwell.engine.rule import OneOf, Range, Slot, check_hyperparameters
from stepwell.errors import UsageError, WrongType, nearest, shown
from stepwell.optimizers.facts import Facts

# torch's step itself, without the hooks and the profiler's range that torch puts around it once an LBFGS of its own was
# made: the class here has them around its own step.
_steps: Callable[..., Any] = inspect.unwrap(torch.optim.LBFGS.step)

_RANGES: Mapping[str, Range | OneOf] = {
    "lr": Range(0),
    "max_iter": Range(1, whole=True),
    "max_eval": Range(1, optional=True, whole=True),
    "tolerance_grad": Range(0),
    "tolerance_change": Range(0),
    "history_size": Range(1, whole=True),
    "line_search_fn": OneOf(("strong_wolfe", None)),
}
_VECTORS = ("d", "prev_flat_grad", "old_dirs", "old_stps")  # of the state: vectors with one element per weight
_LISTS = ("old_dirs", "old_stps")  # of these
_NUMBERS = ("t", "H_diag", "prev_loss")


class LBFGS(torch.optim.LBFGS):
    """L-BFGS, for full-batch problems: physics-informed networks, small regression problems, final fine-tuning.

    Each step evaluates the loss up to `max_eval` times, so it needs a closure. The noise of small batches spoils its
    estimate of the curvature. Cost: 2 * history_size + 2 copies of the weights. torch.optim.LBFGS does the work.

    Args:
        params: parameters or (name, parameter) pairs; one group, one dtype, one device.
        lr: first trial of the line search, or the step size without line search; at least 0. 1 is Newton's step.
        max_iter: directions per step, at least 1.
        max_eval: evaluations of the loss per step, at least 1; None: max_iter * 1.25.
        tolerance_grad: a step ends where no element of the gradient is larger, at least 0.
        tolerance_change: a step ends where loss or weights change by less, at least 0.
        history_size: number of pairs (s_i, y_i) in the history, at least 1.
        line_search_fn: "strong_wolfe" (recommended), or None (torch's default): t = lr.
        options: none; an unknown option is refused with the nearest right name.

    Beyond torch: the line search returns from a point where loss or gradient is not finite; a step that raises, is
    interrupted, or ends at weights that are not finite changes nothing; gradients may have any layout; copies can make
    steps; a checkpoint of other parameters, or of the same in another order, is refused.

    Reference: Liu, Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical Programming
    45, 1989; Nocedal, Wright, "Numerical optimization", algorithms 7.4, 7.5 and 3.5. For networks: Le et al., "On
    optimization methods for deep learning", ICML 2011.

    >>> optimizer = LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    >>> done = Step(optimizer).closure(lambda: loss_fn(model(x), y))
    """

    slots, decay = (), None
    needs_closure: ClassVar[bool] = True
    _nowhere = False  # whether the last evaluation was at a point without a loss
    _flat: Tensor | None = None  # its gradients
    facts: ClassVar[Facts] = Facts(
        lr={"default": (0.05, 1.0), "cnn": (0.01, 1.0), "transformer": (0.01, 1.0), "toy": (0.1, 1.0)},
        source="Nocedal and Wright 2006, section 7.2 (1 is Newton's step); Le et al., ICML 2011 (large batches)",
        compare_options=MappingProxyType({"line_search_fn": "strong_wolfe"}),
        method="curvature",
        kind="closure",
        schedule="constant",
        lr_against_adamw=None,
        needs_closure=True,
        needs_large_batch=True,
    )

    def __init__(
        self, params: Params, lr: float = 1.0, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None, **options: Unpack[NoOptions],
    ) -> None:  # fmt: skip
        given = hyperparameters(locals())
        for option, value in options.items():
            raise UsageError(f"LBFGS: unknown option {option}={value!r}: {nearest(option, given)}")
        given = _check(given)
        taken: Any = as_groups([params] if isinstance(params, dict) else params, "LBFGS")
        if len(taken) > 1:
            raise _several(taken)
        check_names("LBFGS", taken[0])
        for label, tensor in labelled(taken[0]):
            if sharding.is_spread(tensor) or sharding.is_flattened(tensor):
                raise UsageError(
                    f"LBFGS: {label} is sharded or replicated over processes (DTensor, FSDP), and L-BFGS keeps one "
                    "vector over all parameters; train with DistributedDataParallel, or in one process"
                )
        try:
            super().__init__(taken, **given)
        except (TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise (WrongType if isinstance(error, TypeError) else UsageError)(f"LBFGS: {error}") from None
        (group,) = self.param_groups
        group.update(_check(group))
        _check_alike(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """There is one group: a second one is refused."""
        if self.param_groups:
            raise _several([*self.param_groups, param_group])
        if not isinstance(param_group, dict):
            raise WrongType(f"LBFGS: param_group={shown(param_group)}; it must be a dict, as {{'params': [...]}}")
        strange = [key for key in param_group if key not in (*self.defaults, "params", "param_names", "name")]
        if strange:
            raise UsageError(
                f"LBFGS: unknown option {strange[0]}={param_group[strange[0]]!r} in the parameter group: "
                f"{nearest(strange[0], self.defaults)}"
            )
        super().add_param_group(param_group)

    # The step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make up to `max_iter` line searches, each along a new direction.

        Args:
            closure: clears the gradients, computes the loss, runs backward and returns the loss.

        Returns the loss before the step. Raises UsageError without a closure.
        """
        if closure is None:
            raise UsageError(
                "LBFGS: step() needs a closure that drops the gradients, computes the loss, does backward and returns "
                "it, as step(closure); or use Step(optimizer).closure(lambda: loss_fn(model(x), y))"
            )
        check_closure("LBFGS", closure)
        self.param_groups[0].update(_check(self.param_groups[0]))
        if float(self.param_groups[0]["lr"]) == 0:  # at an end of a schedule: torch's search divides by lr
            with torch.enable_grad():
                return closure()
        losses: list[Any] = []

        def evaluate() -> Any:
            loss = closure()
            losses.append(loss)
            self._flat = self._flattened()
            self._nowhere = len(losses) > 1 and not (math.isfinite(_number(loss)) and _is_finite(self._flat))
            return math.inf if self._nowhere else loss

        weights, state = self._clone_param(), self._held()
        try:
            with torch.no_grad():
                _steps(self, evaluate)
        except BaseException:
            self._put_back(weights, state)
            raise
        finally:
            self._nowhere, self._flat = False, None
        if not all(map(_is_finite, self._params)):
            self._put_back(weights, {})  # without the history that led there
        return losses[0]

    def _gather_flat_grad(self) -> Tensor:
        """All gradients of the last evaluation as one vector. Where loss or gradient is not finite: NaN, with an
        infinite loss.

        With a NaN loss every comparison of torch's line search is false, and it moves further out. An infinite loss
        makes the search return, and a NaN slope makes it halve the interval instead of fitting a cubic to infinity.
        """
        flat = self._flattened() if self._flat is None else self._flat
        return torch.full_like(flat, math.nan) if self._nowhere else flat

    @torch.no_grad()
    def _flattened(self) -> Tensor:
        parts = []
        for p in self._params:
            gradient = p.grad
            if gradient is None:
                gradient = torch.zeros_like(p)
            elif gradient.is_sparse:
                gradient = gradient.to_dense()
            parts.append(torch.view_as_real(gradient).reshape(-1) if gradient.is_complex() else gradient.reshape(-1))
        return torch.cat(parts)

    def _held(self) -> dict[str, Any]:
        """The state, with copies of the tensors and lists that a step changes in place."""
        held = dict(self.state.get(self._params[0], {}))
        for key, value in held.items():
            if isinstance(value, list):
                held[key] = list(value)
            elif key == "prev_flat_grad" and isinstance(value, Tensor):
                held[key] = value.clone()
        return held

    @torch.no_grad()
    def _put_back(self, weights: list[Tensor], state: dict[str, Any]) -> None:
        self._set_param(weights)
        self.state.pop(self._params[0], None)
        if state:
            self.state[self._params[0]] = state

    # State

    def state_bytes(self) -> int:
        """Bytes held in the history."""
        state = self.state.get(self._params[0], {})
        items = [item for value in state.values() for item in (value if isinstance(value, list) else [value])]
        return held(item for item in items if isinstance(item, Tensor) and item.dim())

    @staticmethod
    def bytes_per_element(history_size: int = 100, **options: Any) -> float:
        """Bytes of state per float32 weight, once the history is full."""
        return 4.0 * (2 * history_size + 2)

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's layout, with copies of its lists: later steps extend the lists of the optimizer."""
        result = super().state_dict()
        for state in result["state"].values():
            if isinstance(state, dict):  # a user's own entry may be anything
                state.update({key: list(value) for key, value in state.items() if isinstance(value, list)})
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state saved here or by torch.optim.LBFGS.

        Raises UsageError for other parameters, or the same in another order, because the vectors of the history span
        all parameters. Nothing is changed then.
        """
        content = checkpoint.content_of("LBFGS", state_dict)
        groups = content.get("param_groups")
        if not isinstance(groups, Sequence) or len(groups) != 1 or "state" not in content:
            raise UsageError("LBFGS: this is no state of L-BFGS, which has one group; pass what state_dict() returned")
        states, (saved,) = checkpoint.parts_of("LBFGS", content)
        (group,) = self.param_groups
        names, theirs = group.get("param_names"), saved.get("param_names")
        if names is not None and theirs is not None:
            pairs = prefixes.paired(names, theirs)
            if pairs is None or [pairs[name] for name in names] != list(theirs):
                mine, other = next(
                    pair for pair in zip([*names, "nothing"], [*theirs, "nothing"], strict=False) if pair[0] != pair[1]
                )
                raise UsageError(
                    f"LBFGS: the checkpoint has '{other}' where this model has '{mine}', and the history is one vector "
                    "of all parameters in their order; it was saved from another model, or with another order"
                )
        if len(saved["params"]) != len(group["params"]):
            raise UsageError(
                f"LBFGS: the checkpoint has {len(saved['params'])} parameters, this model {len(group['params'])}; "
                "it was saved from another model"
            )
        values = _check({key: saved.get(key, group[key]) for key in _RANGES}, "LBFGS: the group of the checkpoint")
        state = dict(content["state"])
        for place, index in enumerate(saved["params"]):
            kept = states.get(index)
            if place == 0 and kept:
                state[index] = self._history(kept, values["history_size"])
            elif kept:
                raise UsageError(
                    f"LBFGS: the checkpoint has a state of parameter {place}, and the history is that of the first; it "
                    "was saved by another optimizer"
                )
        known = {**saved, **values}
        if names is not None:
            known["param_names"] = names
        content = {**content, "state": state, "param_groups": [known]}
        super().load_state_dict(checkpoint.copied(content))  # torch would use, and change, the checkpoint's own tensors

    def _history(self, kept: Mapping[str, Any], history_size: int) -> dict[str, Any]:
        """The state of a checkpoint as the next step needs it. Raises UsageError where it does not fit."""
        result, pairs = dict(kept), kept.get("old_dirs", [])
        for key in ("func_evals", "n_iter"):
            result[key] = int(stored.number("LBFGS", "all parameters", Slot(key, signed=False), kept.get(key, 0)))
        missing = [key for key in (*_VECTORS, *_NUMBERS, "ro") if key not in kept or kept[key] is None]
        has_history = len(missing) < len(_VECTORS) + len(_NUMBERS) + 1
        if (missing and result["n_iter"]) or (has_history and not result["n_iter"]):
            raise UsageError(
                f"LBFGS: the checkpoint lacks '{missing[0] if missing else 'n_iter'}'; it was saved by another "
                "optimizer, or changed"
            )
        for key in (key for key in _VECTORS if key in kept):
            value = kept[key]
            if key in _LISTS and (not isinstance(value, list) or len(value) != len(pairs)):
                raise UsageError(f"LBFGS: '{key}' of the checkpoint is no list of {len(pairs)} vectors; it was changed")
            vectors = value if key in _LISTS else [value]
            result[key] = [self._vector(key, vector) for vector in vectors if vector is not None]
            if key not in _LISTS:
                result[key] = result[key][0] if result[key] else None
        ro = kept.get("ro") or []
        if not isinstance(ro, list) or len(ro) != len(pairs) or len(ro) > history_size:
            raise UsageError(f"LBFGS: 'ro' of the checkpoint must be a list of {len(pairs)} numbers; it was changed")
        for number in [*ro, *(kept[key] for key in _NUMBERS if kept.get(key) is not None)]:
            stored.number("LBFGS", "all parameters", Slot("ro, t, H_diag or prev_loss"), number)
        if not isinstance(kept.get("al"), list) or len(kept["al"]) != history_size:
            result.pop("al", None)  # scratch of the two loops, as long as the history
        return result

    def _vector(self, key: str, vector: Any) -> Tensor:
        """One vector of the history, contiguous. Raises UsageError where it does not fit."""
        if isinstance(vector, Tensor) and vector.numel() != self._numel():
            raise UsageError(
                f"LBFGS: '{key}' of the checkpoint has {vector.numel():,} elements, the parameters have "
                f"{self._numel():,}; it was saved from another model"
            )
        like = torch.empty(self._numel(), dtype=self._params[0].dtype, device="meta")
        stored.check("LBFGS", "all parameters", Slot(key), {key: vector}, like)
        return vector.detach().as_subclass(Tensor).resolve_neg().contiguous()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # torch does not copy these two
        self._params = self.param_groups[0]["params"]
        self._numel_cache = None


def _is_finite(tensor: Tensor) -> bool:
    """Whether every element is finite: by the norm, and where that is not, by minimum and maximum. `isfinite` of each
    element takes 13 times as long as these."""
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.numel() == 0 or math.isfinite(torch.linalg.vector_norm(tensor).item()):
        return True
    return all(map(math.isfinite, torch.stack(torch.aminmax(tensor)).tolist()))


def _number(loss: Any) -> float:
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _check(given: Mapping[str, Any], owner: str = "LBFGS") -> dict[str, Any]:
    return check_hyperparameters(owner, given, _RANGES)


def _several(groups: list[dict[str, Any]]) -> UsageError:
    named = ", ".join(f"'{group['name']}'" for group in groups if "name" in group)
    return UsageError(
        f"LBFGS: {len(groups)} parameter groups{f' ({named})' if named else ''}; it sees all weights as one vector, so "
        "there is one group: pass model.parameters()"
    )


def _check_alike(group: Mapping[str, Any]) -> None:
    """Raise UsageError for the first parameter of another dtype or device: all weights are one vector."""
    names = group.get("param_names") or [f"number {place}" for place in range(len(group["params"]))]
    first = group["params"][0]
    for name, p in zip(names, group["params"], strict=True):
        for what, mine, theirs in (("dtype", p.dtype, first.dtype), ("device", p.device, first.device)):
            if mine != theirs:
                raise UsageError(
                    f"LBFGS: the parameter '{name}' has {what} {mine}, '{names[0]}' has {theirs}; all weights are one "
                    "vector, so they must be alike"
                )
