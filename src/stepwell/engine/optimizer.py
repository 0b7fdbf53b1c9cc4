"""The base class of all optimizers: turns an update rule and its declarations into a `torch.optim.Optimizer`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stepwell.arguments import flag
from stepwell.engine import checkpoint, explain
from stepwell.engine.backends import BACKENDS, EMPTY, STACKS, SUBCLASSES, backends_for
from stepwell.engine.closures import check_closure
from stepwell.engine.divided.owners import Owners, process_group_of
from stepwell.engine.gathered import Gathered, checked
from stepwell.engine.given_groups import as_groups
from stepwell.engine.group_settings import Grouped, one_of
from stepwell.engine.kind import LaunchKind
from stepwell.engine.launch import Launch
from stepwell.engine.observation import observed
from stepwell.engine.options import Params
from stepwell.engine.plan import Plan
from stepwell.engine.pointers import is_wrapper
from stepwell.engine.rule import OneOf, Range, Rule, RuleSignature, Slot, check_hyperparameters, ranges_of
from stepwell.engine.slots import trust
from stepwell.engine.state_place import StatePlace
from stepwell.engine.tracing import refuse_tracing, untraced
from stepwell.engine.watch import Kept, Stale, Watched
from stepwell.errors import UsageError

# Attributes not copied by `copy` and `deepcopy`: hooks (as in torch), the plan, the factor and flag that a GradScaler
# sets for one step, and the counter that a torch scheduler puts around `step`.
_LEFT_BEHIND = {
    *(
        f"_optimizer_{what}_{when}_hooks"
        for what in ("step", "state_dict", "load_state_dict")
        for when in ("pre", "post")
    ),
    *("_kept", "_lock", "owners", "said", "_zero_grad_profile_name", "_warned_capturable_if_run_uncaptured"),
    *("grad_scale", "found_inf", "step", "_opt_called"),
}


class Optimizer(StatePlace, Grouped):
    """The base class of every optimizer: an update rule becomes a `torch.optim.Optimizer`.

    Args:
        params: a model, tensors, (name, tensor) pairs, or parameter groups (dicts with a key "params", and with
            their own hyperparameters), as for `torch.optim`. Names appear in messages and match checkpoints.
        options: those below. Every optimizer takes them, and all except `backend` can also be set per group.

    Options:
        maximize: maximize the objective instead of minimizing it (default False).
        decoupled_weight_decay: for optimizers whose weight decay is an L2 penalty by default (added to the gradient):
            shrink the weights by lr * weight_decay instead (default False).
        state: how slots are stored: "fp32" (default), "bf16" (2 bytes per element, stochastic rounding), "int8"
            (1 byte), "int4" (half a byte). Tensors with fewer than 4,096 elements keep fp32 under int8 and int4. An
            average of gradients with a long memory is kept wider, as `explain()` reports: in int4 an average with a
            beta above 0.9 is int8, in int8 an average with a beta above 0.995 is bf16. int8 and int4 saturate: a few
            elements that are far above the others of their block (or not finite) become the largest value of the block.
        weights: how bf16 and fp16 parameters are rounded: "native" (to the nearest: updates under half a unit in
            the last place are lost), "stochastic" (unbiased stochastic rounding), "split" (fp32 weights: the lost bits
            are kept in 16 more bits; for fp16 weights, where they are above 2**-16). If you change weights between
            steps (a mask, `clamp_`, `copy_`), the next step starts from your values, to half a unit in the last place:
            the low bits of the old weight stay where they fit the new one. For exact values, also
            `del optimizer.state[p]["low_bits"]`.
        cautious: skip elements whose update and gradient have opposite signs (arXiv 2411.16085); a second pass over
            each tensor (default False).
        seed: seed of stochastic rounding, from 0 (default) to 2**31 - 1.
        backend: "auto" (the fastest that can update the tensor), "eager", "cpu" or "gpu". A backend that is asked for
            by name never falls back to another.
        state_device: "cpu" keeps the state of parameters on a GPU in the memory of the CPU, and updates there: memory
            for time, as gradients and weights travel (default None: where each parameter is).
        process_group: of Muon, SOAP and Shampoo: processes that train copies (DistributedDataParallel) and divide work
            and state, so that each owns some matrices (default: None; a model that `fully_shard` has cut needs none).

    Row-sparse gradients (`nn.Embedding(sparse=True)`) update only their rows: weights, slots and weight decay of these
    rows change as in a step of a tensor that consists of them, with the step count of the whole tensor ("lazy"). Rules
    with sums and rules of matrices need the whole tensor: there a sparse gradient counts as a dense gradient.

    A subclass declares `rule`, `slots` and `decay`, and an `__init__` that passes its hyperparameters on:

    >>> class SignDescent(Optimizer):
    ...     rule, slots, decay = lambda g, p, t: sign(g), (), "decoupled"
    ...     def __init__(self, params, lr=1e-4, weight_decay=0.0, **options):
    ...         super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, options)
    """

    rule: ClassVar[Rule]
    slots: ClassVar[tuple[Slot, ...]] = ()
    measure: ClassVar[Rule | None] = None  # contribution of an element to each sum, by name (two passes)
    sums: ClassVar[tuple[str, ...]] = ()  # names of the sums
    over: ClassVar[Literal["tensor", "run"]] = "tensor"  # the range of the sums
    view: ClassVar[Literal["element", "matrix", "tensor"]] = "element"  # the operands of the rule (see `RuleSignature`)
    others: ClassVar[Mapping[str, RuleSignature]] = {}  # further rules, selected by `method_of`
    decay: ClassVar[str | None] = "decoupled"
    ranges: ClassVar[Mapping[str, Range | OneOf]] = {}
    # Group keys that record the current mode of the weights (train or eval); the same in all groups.
    modes: ClassVar[tuple[str, ...]] = ()
    construction: ClassVar[tuple[str, ...]] = ()  # keys of `defaults` that no group has (Muon's `adamw_lr`)
    splits_by_role: ClassVar[bool] = False  # for hidden matrices: `stepwell.groups.muon` makes its groups
    takes_estimates: ClassVar[bool] = False  # uses estimates of the Hessian's diagonal (`add_hessian`)
    # group -> the hyperparameters that make a slot a plain sum of gradients, or, as text, what the group needs for that
    summing: ClassVar[Any] = None
    facts: ClassVar[Any]
    memory: ClassVar[Any] = None  # meaning of the slots for a switch (`stepwell.optimizers.memory`)
    decay_by_rule: ClassVar[str | None] = None  # decay of the rule if `decay_of` is None but a known kind applies

    signature: ClassVar[RuleSignature]
    signatures: ClassVar[Mapping[str, RuleSignature]]  # by the result of `method_of`; "" is the rule above
    all_ranges: ClassVar[Mapping[str, Range | OneOf]]  # `ranges`, and those of the field's hyperparameters
    _step_supports_amp_scaling = True  # torch.amp.GradScaler hands over grad_scale and found_inf

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for function in ("rule", "measure"):
            if cls.__dict__.get(function) is not None:
                setattr(cls, function, staticmethod(cls.__dict__[function]))
        if hasattr(cls, "rule"):
            cls.signature = RuleSignature(cls.rule, cls.slots, cls.measure, cls.sums, cls.over, cls.view)
            cls.signatures = {"": cls.signature, **cls.others}
        cls.all_ranges = ranges_of(cls.__init__, cls.ranges)

    def __init__(self, params: Params, defaults: dict[str, Any], options: Mapping[str, Any]) -> None:
        name, options = type(self).__name__, dict(options)
        self.backend = one_of(name, "backend", options.pop("backend", "auto"), ("auto", *BACKENDS))
        self.state_device = self._state_device(options)
        self.owners = Owners(process_group_of(name, options.pop("process_group", None), self))
        shared = {"maximize": False, "state": "fp32", "weights": "native", "seed": 0, "cautious": False}
        defaults = {**defaults, **{key: options.pop(key, value) for key, value in shared.items()}}
        if self.decay == "coupled" and "decoupled_weight_decay" not in defaults:  # else an argument of its own
            defaults["decoupled_weight_decay"] = options.pop("decoupled_weight_decay", False)
        # `type(optimizer)(params, **optimizer.defaults)`: defaults that are no arguments (`use_muon`) come as options
        handed_on = [key for key in options if key in defaults and (key not in self.modes or options[key] is True)]
        defaults |= {key: options.pop(key) for key in handed_on}
        self._refuse_options(options, defaults)
        self._kept = Kept()
        self._lock = threading.RLock()
        self.said: set[str] = set()  # warnings that are given once
        groups = as_groups(params, name)
        defaults |= check_hyperparameters(name, defaults, self.ranges_with(defaults))
        self.check_together(defaults)
        defaults |= self._check_formats(defaults)
        for group in groups:
            self._check_group(group, defaults)
        try:
            super().__init__(groups, defaults)
        except (ValueError, TypeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{name}: {error}") from None
        self.state = self._watched(self.state)
        self._check_state_device()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to None (or to zero)."""
        set_to_none = flag(type(self).__name__, "set_to_none", set_to_none)
        if torch.autograd._profiler_enabled():
            with torch.autograd.profiler.record_function(f"Optimizer.zero_grad#{type(self).__name__}.zero_grad"):
                self._zero_grad(set_to_none)
        else:
            self._zero_grad(set_to_none)

    def _zero_grad(self, set_to_none: bool) -> None:
        for group in self.param_groups:
            for tensor in group["params"]:
                if set_to_none:
                    tensor.grad = None
                elif tensor.grad is not None:
                    if tensor.grad.grad_fn is not None:
                        tensor.grad.detach_()
                    else:
                        tensor.grad.requires_grad_(False)
                    tensor.grad.zero_()

    # The step

    @untraced
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: a function that computes the loss again and returns it; `step` returns its value.
        """
        return self._step(closure)

    # torch wraps `step` for its profiler and hooks unless it says that it has them already. The wrapper costs 0.3 ms
    # in a training loop: it opens a profiler range even where nothing profiles. Here it is used when something does.
    step = observed(step)

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            check_closure(type(self).__name__, closure)
            with torch.enable_grad():
                loss = closure()
        grad_scale = getattr(self, "grad_scale", None)
        self.update(1.0 if grad_scale is None else 1.0 / grad_scale, getattr(self, "found_inf", None))
        return loss

    @untraced
    def update(self, gradient_factor: float | Tensor = 1.0, found_inf: Tensor | None = None) -> None:
        """Update with every gradient multiplied by `gradient_factor` (unscaling, clipping).

        If `found_inf` is not 0, no bit of a parameter or slot changes. Both arguments may be tensors on the GPU:
        nothing waits for them.
        """
        if type(gradient_factor) is not float or not math.isfinite(gradient_factor) or found_inf is not None:
            gradient_factor, found_inf = checked(type(self).__name__, gradient_factor, found_inf)
        with self.gathered() as step:
            step.apply(gradient_factor, found_inf)

    @untraced
    def gradient_norm(self) -> Tensor:
        """The Euclidean norm of all gradients together (not unscaled): sqrt(sum of g^2), 0-D.

        One pass over the gradients; nothing waits for a GPU. The norm is infinite or nan if a gradient is.

        >>> float(optimizer.gradient_norm())
        """
        with self.gathered() as step:
            return step.norm()

    @contextmanager
    def gathered(self) -> Iterator[Gathered]:
        """Context manager: look up gradients, parameters and state once, for a norm and the following update.

        Inside, hyperparameters may change; gradients, parameters and state must not, because their addresses are not
        read again.

        >>> with optimizer.gathered() as step:
        ...     step.update(min(1.0, 1.0 / (float(step.norm()) + 1e-6)))
        """
        with self._lock:
            found: Gathered | None = None
            try:
                found = Gathered(self, *self.prepare())
                yield found
            finally:
                if found is not None:
                    found.release()

    def prepare(self) -> tuple[Plan, list[Launch]]:
        """The plan of this step, and the launches that have a gradient, ready to run."""
        refuse_tracing(type(self).__name__)
        self.look_at_state()
        plan = self._plan
        if plan is None or not plan.fits(self):
            plan = self.make_plan()
        try:
            return plan, plan.collected()
        except Stale:  # a tensor moved to another device, dtype or layout: the next plan follows it
            plan = self.make_plan()
            return plan, plan.collected()

    def look_at_state(self) -> None:
        """Drop the plan where the state was replaced, as by `optimizer.state = {}`."""
        if not (isinstance(self.state, Watched) and self.state.is_of(self._kept)):
            self.state, self._kept.plan = self._watched(self.state), None

    @property
    def _plan(self) -> Plan | None:
        """The plan of the last step, if nothing that it depends on has changed."""
        return self._kept.plan

    def make_plan(self) -> Plan:
        """Make a new plan from the current parameters, groups and state."""
        plan = Plan(self)
        self._kept.plan, self.is_away = plan, False
        return plan

    def decay_of(self, group: Mapping[str, Any]) -> str | None:
        """How weight decay acts in `group`: "coupled" (L2, through the gradient), "decoupled", or None."""
        if "decoupled_weight_decay" in group:
            return "decoupled" if group["decoupled_weight_decay"] else "coupled"
        return self.decay

    @classmethod
    def method_of(cls, group: Mapping[str, Any], tensor: Tensor) -> str:
        """The name of the entry of `signatures` that updates one tensor of a group."""
        return ""

    @classmethod
    def group_for(cls, settings: Mapping[str, Any], group: Mapping[str, Any], tensor: Tensor) -> dict[str, Any]:
        """The hyperparameters of a tensor of `group`, as far as they determine its state; for the forecast of
        `stepwell.groups`, which has only the class. An optimizer with group entries that are not arguments of its
        constructor overrides this method.

        Args:
            settings: arguments of the constructor, or the defaults of an optimizer.
        """
        return {**settings, **group}

    def signature_for(self, group: Mapping[str, Any], tensor: Tensor) -> RuleSignature:
        """The rule that updates one tensor of a group, with its slots."""
        return self.signatures[self.method_of(group, tensor)]

    def choose(
        self, group: Mapping[str, Any], tensor: Tensor, flags: dict[str, Any], decay: str | None
    ) -> tuple[dict[str, Any], str | None]:
        """The flags and the kind of decay of one tensor of a group. LAMB and LARS exempt vectors here."""
        return flags, decay

    def remarks(self, group: Mapping[str, Any], tensor: Tensor) -> list[str]:
        """Remarks of `explain()` on the rule for one tensor of a group."""
        return []

    def backends_for(self, kind: LaunchKind, tensor: Tensor) -> dict[str, ModuleType]:
        """The possible backends for `tensor`, fastest first."""
        if is_wrapper(tensor) and self.backend in ("auto", "eager"):
            return SUBCLASSES
        if tensor.numel() == 0 and kind.view == "element":
            return EMPTY
        if kind.view != "element" and self.backend in ("auto", "eager"):
            return STACKS
        if self.backend != "auto":
            return {self.backend: BACKENDS[self.backend]}
        return backends_for(tensor.device.type)

    def backend_for(self, kind: LaunchKind, tensor: Tensor, name: str) -> ModuleType:
        """The backend that updates `tensor`. Raises UsageError if the backend chosen by name cannot."""
        wanted = self.backends_for(kind, tensor)
        reasons = []
        for label, backend in wanted.items():
            reason = backend.refusal(kind, tensor)
            if reason is None:
                return backend
            reasons.append(f"backend={label!r} cannot update {name!r}: {reason}")
        raise UsageError(f"{type(self).__name__}: {'; '.join(reasons)}; backend='auto' chooses a possible backend")

    def explain(self) -> str:
        """A table of the groups: tensors, elements, lr, decay, formats, bytes and backend, with reasons.

        >>> print(optimizer.explain())
        """
        return explain.explain(self)

    # State

    def watched_state(self, tensor: Tensor) -> Watched:
        """The state of one parameter; replacing an entry invalidates the plan."""
        state = dict.get(self.state, tensor)
        if not isinstance(state, Watched) or not state.is_of(self._kept):
            state = Watched(state or {}, self._kept)
            dict.__setitem__(self.state, tensor, state)
        return state

    def _watched(self, state: Mapping[Any, Any]) -> Watched:
        return Watched(state, self._kept, default=dict)

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's layout; `torch.optim` can load slots in fp32 (see `engine/checkpoint.py`)."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        result = checkpoint.state_dict(self)
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any], *, keep_formats: bool = False) -> None:
        """Load a state of this optimizer or of `torch.optim`, by name if both have names, else by position.

        Hyperparameters and formats are loaded from the checkpoint, as in torch. With `keep_formats` this optimizer
        keeps its formats (`state`, `weights`), and the slots are converted.

        Raises UsageError that names the first parameter that does not fit. Nothing is changed then.
        """
        content = checkpoint.content_of(type(self).__name__, state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, content)
            content = content if changed is None else dict(changed)
        checkpoint.load_state_dict(self, content, flag(type(self).__name__, "keep_formats", keep_formats))
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it here; no group of ours has it
        self._kept = Kept()
        self._lock = threading.RLock()
        self.owners, self.state_device = self.__dict__.get("owners", Owners()), self.__dict__.get("state_device")
        self.said = set()  # warnings that are given once
        self.state = self._watched(self.state)
        trust(self.state)

    def __getstate__(self) -> dict[str, Any]:
        # Torch hands on defaults, state and groups; a subclass has attributes of its own (Muon's `inner`).
        return {name: value for name, value in self.__dict__.items() if name not in _LEFT_BEHIND}
