"""The optimizer that a Step trains with (a switch may replace it), and the trained model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stepwell import engine
from stepwell.arguments import plain_number, refusal
from stepwell.engine.reading import Reading
from stepwell.engine.sharding import is_flattened, left_behind
from stepwell.engine.update import innermost, takes_factor
from stepwell.errors import UsageError
from stepwell.step.names import bare
from stepwell.step.part import PutBack
from stepwell.step.trainer import unwrapped


class Trained:
    """The optimizer and the model of a Step. The checkpoint stores the optimizer's state.

    Attributes:
        switched: the class of the optimizer that the run was switched to, or None.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = checked_optimizer(optimizer)
        self.model: torch.nn.Module | None = None
        self.switched: str | None = None

    def named(self) -> list[tuple[str, Tensor]]:
        """(name, parameter) pairs of the optimizer; names are empty if the optimizer was built without names."""
        pairs: list[tuple[str, Tensor]] = []
        for group in self.optimizer.param_groups:
            names = group.get("param_names") or [""] * len(group["params"])
            pairs += zip(names, group["params"], strict=True)
        return pairs

    def with_gradient(self) -> list[tuple[str, Tensor]]:
        """The pairs of `named` whose parameter has a gradient."""
        return [(name, tensor) for name, tensor in self.named() if tensor.grad is not None]

    def drop_gradients(self) -> None:
        for group in self.optimizer.param_groups:
            for tensor in group["params"]:
                tensor.grad = None

    def check_gradients(self) -> None:
        """Raise UsageError if a backward pass left no gradient at all."""
        if any(tensor.grad is not None for group in self.optimizer.param_groups for tensor in group["params"]):
            return
        released = any(tensor._post_accumulate_grad_hooks for _, tensor in self.named())
        raise UsageError(
            "Step: no parameter of the optimizer has a gradient after backward; "
            + (
                "a hook removes the gradients (gradient release), but clipping by norm, skipping and "
                "accumulation need all gradients together: remove the hook"
                if released
                else left_behind([tensor for _, tensor in self.named()])
                or "does the loss come from another model, or are all its parameters frozen?"
            )
        )

    def make_state(self) -> None:
        """Create the state of the optimizer where it has none, as before its first update."""
        if isinstance(self.optimizer, engine.Optimizer):
            self.optimizer.make_state()

    def check_has_state(self, state: Any) -> None:
        """Raise UsageError for the state of a run that has made updates, without that of its optimizer: it was loaded
        into a state that did not exist yet."""
        inside = innermost(self.optimizer)
        number = plain_number(state.get("number")) if isinstance(state, Mapping) else None
        if not isinstance(inside, engine.Optimizer) or not number:  # anything else than a number is refused later
            return
        saved = state.get("optimizer")
        if isinstance(saved, Mapping) and "param_groups" in saved and not saved.get("state"):
            raise UsageError(
                f"Step: the state is that of update {number}, and contains no state of the optimizer; a "
                "distributed checkpoint is loaded into step.state_dict() by several processes; one process uses "
                "step.save and step.load"
            )

    def lr(self) -> float | Reading:
        """The learning rate of the first group."""
        group = self.optimizer.param_groups[0]
        lr = group["lr"] if "lr" in group else float("nan")
        return Reading(lr.detach().clone()) if isinstance(lr, Tensor) else float(lr)

    def model_to_save(self, model: Any) -> torch.nn.Module:
        """The given model, or the Step's model, without DistributedDataParallel; UsageError if there is neither."""
        model = self.model if model is None else checked_model(model)
        if model is None:
            raise UsageError("Step: pass the model, as step.save(path, model), or make it with Step(..., model=model)")
        inner = getattr(model, "_orig_mod", model)  # of a compiled one
        return inner.module if isinstance(inner, torch.nn.parallel.DistributedDataParallel) else model

    # As a part

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def check_state(self, state: Any) -> None:
        saved = state
        for _ in range(_DEEPEST):  # wrappers once saved what is inside so
            if not isinstance(saved, Mapping):
                raise refusal("Step", "'optimizer' of the state", saved, "the result of the optimizer's state_dict()")
            if "param_groups" in saved or "base" not in saved:
                break
            saved = saved["base"]
        inside = innermost(self.optimizer)
        if not takes_factor(inside):
            _check_torch_optimizer(inside, saved)

    def load_state_dict(self, state: Any) -> None:
        # one of stepwell refuses what does not fit, before it changes anything
        self.optimizer.load_state_dict(state)

    def kept(self) -> PutBack:
        optimizer, state = self.optimizer, self.optimizer.state_dict()
        if not isinstance(optimizer, engine.Optimizer):
            state = copy.deepcopy(state)  # others may load into the tensors that they have
        return lambda: optimizer.load_state_dict(state)


_DEEPEST = 9  # wrappers around one another


def checked_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer, without the wrapper of a trainer, or UsageError."""
    optimizer = unwrapped(optimizer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"Step: optimizer is a {type(optimizer).__name__}; it must be a torch.optim.Optimizer")
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    if any(map(is_flattened, tensors)):
        raise UsageError(
            "Step: the parameters are parts of FullyShardedDataParallel (FSDP1), whose processes would clip and skip "
            "by the gradients of separate parts; shard the model with torch.distributed.fsdp.fully_shard (in "
            "Accelerate: fsdp_version=2)"
        )
    if not any(tensor.requires_grad for tensor in tensors):
        raise UsageError("Step: no parameter of the optimizer requires a gradient; is the whole model frozen?")
    return optimizer


def checked_model(model: Any) -> torch.nn.Module | None:
    """The model. Raises UsageError if it is not a module."""
    if model is not None and not isinstance(model, torch.nn.Module):
        raise UsageError(f"Step: model is a {type(model).__name__}; it must be the trained torch.nn.Module")
    return model


def _check_torch_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """torch loads a state of other shapes silently, and fails at a later step; this check names the parameter."""
    owner = type(optimizer).__name__
    if "param_groups" not in saved:
        raise UsageError(
            f"Step: the checkpoint contains the state of {saved.get('wrapper', 'another optimizer')}, not of {owner}"
        )
    groups, theirs = optimizer.param_groups, saved["param_groups"]
    counts = [len(group["params"]) for group in groups], [len(group["params"]) for group in theirs]
    if counts[0] != counts[1]:
        raise UsageError(
            f"Step: {owner} has groups of {counts[0]} parameters, the checkpoint of {counts[1]}; "
            "it was saved from a different model or with other groups"
        )
    # L-BFGS keeps vectors over all parameters, as the state of the first.
    whole = (sum(tensor.numel() for group in groups for tensor in group["params"]),)
    vectors = (whole,) if isinstance(optimizer, torch.optim.LBFGS) else ()
    for place, (group, their) in enumerate(zip(groups, theirs, strict=True)):
        names = group.get("param_names") or [f"parameter {i} of group {place}" for i in range(len(group["params"]))]
        saved_names = their.get("param_names") or names
        plain, saved_plain = bare(names), bare(saved_names)
        for name, saved_name, tensor, index in zip(names, saved_names, group["params"], their["params"], strict=True):
            if "param_names" in group and plain[name] != saved_plain[saved_name]:
                raise UsageError(
                    f"Step: the checkpoint has '{saved_name}' where {owner} has '{name}'; it was saved from a "
                    "different model"
                )
            for slot, value in saved["state"].get(index, {}).items():
                if _misfit(slot, value, tensor) and value.shape not in vectors:
                    raise UsageError(
                        f"Step: '{slot}' of {name} has shape {tuple(value.shape)} in the checkpoint, the parameter "
                        f"{tuple(tensor.shape)}; it was saved from a different model"
                    )


def _misfit(slot: str, value: Any, tensor: Tensor) -> bool:
    """Whether a slot with one number per element differs in shape from the parameter."""
    if not isinstance(value, Tensor) or slot in ("row_var", "col_var"):  # torch's Adafactor: one per row and column
        return False
    return bool(value.dim() and value.dim() == tensor.dim()) and value.shape != tensor.shape
