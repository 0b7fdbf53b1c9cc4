"""The groups of an optimizer: added, checked, and checked again after changes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stepwell.arguments import plain_number
from stepwell.engine import formats, sharding
from stepwell.engine.divided.owners import Owners
from stepwell.engine.given_groups import as_groups, check_names, labelled
from stepwell.engine.own_keys import is_own_key
from stepwell.engine.rule import FLAG, OneOf, Range, RuleSignature, as_matrix, as_plain_numbers, check_hyperparameters
from stepwell.engine.watch import Kept
from stepwell.errors import UsageError, WrongType, nearest, shown

# Options that torch's optimizers have and these do not need, with what takes their place.
_TORCH_ONLY = {
    "foreach": "every backend updates all tensors in one launch",
    "fused": "choose with backend='cpu', 'gpu' or 'eager'; 'auto' chooses the fastest",
    "capturable": "steps can be captured without an option",
    "differentiable": "stepwell does not differentiate through its step",
}


class Grouped(torch.optim.Optimizer):
    """The groups of an optimizer. `engine.Optimizer` adds the step."""

    decay: ClassVar[str | None]
    construction: ClassVar[tuple[str, ...]]
    signature: ClassVar[RuleSignature]
    signatures: ClassVar[Mapping[str, RuleSignature]]
    all_ranges: ClassVar[Mapping[str, Range | OneOf]]
    owners: Owners
    _kept: Kept

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: `params` and any hyperparameters that differ from the defaults."""
        name = type(self).__name__
        if not isinstance(param_group, dict):
            raise WrongType(
                f"{name}: param_group={shown(param_group)}; it must be a dict, as {{'params': [...], 'lr': 0.1}}"
            )
        if "params" not in param_group:
            raise UsageError(f"{name}: param_group={shown(param_group)} has no 'params'; it must be a list of tensors")
        (param_group,) = as_groups([param_group], name)
        self._check_group(param_group, self.defaults)
        present = {id(p): n for n, p in self._named()}
        for label, tensor in labelled(param_group):
            if id(tensor) in present:
                raise UsageError(
                    f"{name}: {label} is already in a group (as {present[id(tensor)]}); a tensor belongs to one group"
                )
        # Past the decorator with which torch keeps this method out of torch.compile: it imports the whole of
        # torch._dynamo, 1.4 s, the first time an optimizer is made.
        plain = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", torch.optim.Optimizer.add_param_group)
        try:
            plain(self, param_group)
        except (ValueError, TypeError) as error:  # params with names beside params without
            if isinstance(error, UsageError):
                raise
            raise (WrongType if isinstance(error, TypeError) else UsageError)(f"{name}: params: {error}") from None
        for key in self.construction:  # torch puts all defaults into every group
            self.param_groups[-1].pop(key, None)
        self._kept.plan = None

    def _named(self) -> list[tuple[str, Tensor]]:
        return [pair for group in getattr(self, "param_groups", []) for pair in labelled(group)]

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Raise UsageError for hyperparameters of a group that are in range but cannot be combined."""

    def ranges_with(self, defaults: Mapping[str, Any]) -> dict[str, Range | OneOf]:
        """`all_ranges`, and flags for the flags in `defaults` that are not arguments (`train_mode`)."""
        flags = {key: FLAG for key, value in defaults.items() if isinstance(value, bool)}
        return {**flags, **self.all_ranges}

    def _check_group(self, group: dict[str, Any], defaults: Mapping[str, Any]) -> None:
        name = type(self).__name__
        apart = {"params", "param_names", "name"} | {f"initial_{key}" for key in defaults}  # a scheduler's memory
        group.update(as_plain_numbers(group, self.all_ranges))
        for key in self.construction:  # a ZeroRedundancyOptimizer puts all arguments into its groups
            if key in group and _equal(group[key], defaults[key]):
                del group[key]
        given = {key: value for key, value in group.items() if key not in apart}
        unknown = given.keys() - defaults.keys()
        if unknown:
            arguments = inspect.signature(type(self).__init__).parameters.keys() - {"self", "params", "options"}
            own = {key for key in unknown if is_own_key(key, {*defaults, *arguments})}
            given = {key: value for key, value in given.items() if key not in own}
        strange = {k: v for k, v in given.items() if k not in defaults or k in self.construction}
        self._refuse_options(strange, defaults, "in a parameter group")
        given |= check_hyperparameters(name, given, self.ranges_with(defaults))
        self.check_together({**defaults, **given})
        given |= self._check_formats(given)
        group.update(given)
        check_names(name, group)
        for label, tensor in labelled(group):
            if not isinstance(tensor, Tensor):
                raise WrongType(f"{name}: {label} is a {type(tensor).__name__}; a parameter must be a torch.Tensor")
            if tensor.layout != torch.strided:
                raise UsageError(
                    f"{name}: {label} is {str(tensor.layout).removeprefix('torch.')}; parameters must be dense (their "
                    "gradients may be row-sparse): pass parameter.to_dense()"
                )
            formats.format_of(tensor, f"{name}: {label}")
            self._check_whole({**defaults, **given}, tensor, label)

    def _check_whole(self, group: Mapping[str, Any], tensor: Tensor, label: str) -> None:
        """Raise UsageError for a part of a parameter where the rule needs the whole."""
        signature = self.signature_for(group, tensor)
        reason = self.owners.refusal(signature, tensor)
        if signature.view != "element" or signature.sums or group.get("cautious"):
            reason = reason or sharding.no_shape(tensor)
        if signature.over == "run" and sharding.is_one_of_several() and sharding.inside_zero():
            reason = (
                "its rate follows from sums over all parameters, and inside ZeroRedundancyOptimizer every process has "
                "others; shard the model with torch.distributed.fsdp.fully_shard, or use the optimizer without it"
            )
        if reason is not None:
            raise UsageError(f"{type(self).__name__}: cannot update {label}: {reason}")

    @classmethod
    def work(cls, group: Mapping[str, Any], shape: Sequence[int]) -> float:
        """About how many multiplications an update of a matrix takes, relative to other matrices of the optimizer: by
        it, matrices are divided over processes. An optimizer with a matrix rule overrides this method if its work does
        not grow like rows * columns * the shorter side."""
        rows, columns = as_matrix(shape)
        return float(rows * columns * min(rows, columns))

    def signature_for(self, group: Mapping[str, Any], tensor: Tensor) -> RuleSignature:
        """The rule that updates one tensor of a group, with its slots."""
        return self.signature

    def _check_formats(self, group: Mapping[str, Any], place: str = "") -> dict[str, Any]:
        """The formats of `group`, as plain str and numbers."""
        name = type(self).__name__
        reason = self._no_caution()
        if group.get("cautious") and reason:
            raise UsageError(f"{name}: cautious=True is not available: {reason}; omit it")
        words = (("state", formats.STATES), ("weights", formats.WEIGHTS))
        found: dict[str, Any] = {
            option: one_of(name, option, group[option], allowed, place) for option, allowed in words if option in group
        }
        if "seed" in group:
            found["seed"] = _seed(name, group["seed"], place)
        return found

    def check_changed(self, index: int, keys: Iterable[str]) -> None:
        """Check values written into a group since the last step, as the constructor would.

        The group gets plain numbers. Raises UsageError, with the group and the key, for a value that the constructor
        refuses.
        """
        group, place = self.param_groups[index], f" in group {index}"
        changed = {key: group[key] for key in keys}
        plain = check_hyperparameters(type(self).__name__, changed, self.ranges_with(self.defaults), place)
        plain |= self._check_formats({**changed, **plain}, place)
        self.check_together({**self.defaults, **group, **plain})
        group.update(plain)

    def _no_caution(self) -> str | None:
        """Why `cautious` is not available, or None."""
        if any(signature.sums for signature in self.signatures.values()):
            return "its rule needs sums itself"
        if any(signature.view != "element" for signature in self.signatures.values()):
            return "it is only for elementwise rules"
        if "lr" in self.signature.named:
            return "its rule returns a whole step, not a direction"
        return None

    def _refuse_options(self, options: Mapping[str, Any], known: Mapping[str, Any], place: str = "") -> None:
        for option, value in options.items():
            start = f"{type(self).__name__}: unknown option {option}={shown(value)}{' ' + place if place else ''}"
            if option == "decoupled_weight_decay" and value is True and self.decay == "decoupled":
                continue  # it is
            if option in _TORCH_ONLY:
                if value is None or value is False:  # torch's defaults, handed on: they ask for nothing
                    continue
                raise UsageError(f"{start}: {_TORCH_ONLY[option]}; omit it")
            if option in self.construction:
                raise UsageError(f"{start}: it is an argument of {type(self).__name__}, and cannot be set in a group")
            raise UsageError(f"{start}: {nearest(option, [*known, *([] if place else ['backend'])])}")


def one_of(owner: str, name: str, value: Any, allowed: Iterable[str], place: str = "") -> str:
    """One of the allowed values."""
    words = tuple(allowed)
    if isinstance(value, str) and value in words:
        return str(value)  # NumPy's text is a str, too
    raise UsageError(f"{owner}: {name}={shown(value)}{place}; it must be one of {', '.join(words)}")


def _seed(owner: str, value: Any, place: str = "") -> int:
    plain = plain_number(value)
    if type(plain) is int and 0 <= plain < 2**31:
        return plain
    raise UsageError(f"{owner}: seed={shown(value)}{place}; it must be a whole number from 0 to 2**31 - 1")


def _equal(value: Any, other: Any) -> bool:
    try:
        return bool(value == other)
    except Exception:  # an array has no single answer, and a stranger's object may raise anything
        return False
