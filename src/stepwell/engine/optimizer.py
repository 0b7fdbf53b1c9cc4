"""The base of every optimizer here: an update rule and its declarations become a `torch.optim.Optimizer`."""

from __future__ import annotations

import functools
import inspect
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor

from stepwell.arguments import flag, number, plain_number, refusal
from stepwell.engine import checkpoint, cpu, eager, explain, formats, gpu, stacks, subclasses
from stepwell.engine.bytes import held_in_state
from stepwell.engine.options import Params
from stepwell.engine.own_keys import is_own_key
from stepwell.engine.plan import Kept, Launch, LaunchKind, Plan, Stale, Watched, trust
from stepwell.engine.pointers import is_wrapper
from stepwell.engine.rule import (
    FLAG,
    OneOf,
    Range,
    Rule,
    RuleSignature,
    Slot,
    as_plain_numbers,
    check_hyperparameters,
    ranges_of,
)
from stepwell.engine.tracing import refuse_tracing, untraced
from stepwell.errors import UsageError, WrongType, nearest, shown

BACKENDS: dict[str, ModuleType] = {"gpu": gpu, "cpu": cpu, "eager": eager}
STACKS = {"stacks": stacks}  # what runs matrix rules, on any device
SUBCLASSES = {"subclasses": subclasses}  # what updates tensors that wrap others

# Options that torch's optimizers have and these do not need, with what takes their place.
_TORCH_ONLY = {
    "foreach": "one launch over all tensors is what every backend here does",
    "fused": "choose with backend='cpu', 'gpu' or 'eager'; 'auto' takes the fastest",
    "capturable": "steps can be captured without an option",
    "differentiable": "stepwell does not differentiate through its step",
}


# What a copy of an optimizer does without: hooks, as torch has it; the plan; what a GradScaler hands over for one step;
# the counter that a scheduler of torch puts around `step`.
_LEFT_BEHIND = {
    *(
        f"_optimizer_{what}_{when}_hooks"
        for what in ("step", "state_dict", "load_state_dict")
        for when in ("pre", "post")
    ),
    *("_kept", "_lock", "said", "_zero_grad_profile_name", "_warned_capturable_if_run_uncaptured"),
    *("grad_scale", "found_inf", "step", "_opt_called"),
}


Step = TypeVar("Step", bound=Callable[..., Any])


def _observed(step: Step) -> Step:
    """`step` that runs inside a range of torch's profiler, with its hooks, where anything looks: as it was called, for
    hooks see whether `closure` was passed by name."""
    hooked = torch.optim.Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def observed(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        return (hooked if self._is_observed() else step)(self, *args, **kwargs)

    observed.hooked = True  # type: ignore[attr-defined]
    return observed  # type: ignore[return-value]


class Optimizer(torch.optim.Optimizer):
    """An update rule as an optimizer.

    A subclass declares `rule`, `slots` and `decay`, and an `__init__` that hands its hyperparameters on:

    >>> class SignDescent(Optimizer):
    ...     rule, slots, decay = lambda g, p, t: sign(g), (), "decoupled"
    ...     def __init__(self, params, lr=1e-4, weight_decay=0.0, **options):
    ...         super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, options)

    Row-sparse gradients (`nn.Embedding(sparse=True)`) update the rows they hold and no others: weights, slots and decay
    of these rows move as in a step of a tensor of their own, with the step count of the whole tensor ("lazy"). Rules
    with sums and rules of matrices need the whole tensor: there such a gradient counts as a dense one.

    Every optimizer takes these options, each of them per group too but for `backend`:

        maximize: go up the gradient instead of down (default False).
        decoupled_weight_decay: where decay is L2 by default (added to the gradient): shrink the weights by
            lr * weight_decay instead (default False).
        state: how slots are stored: "fp32" (default), "bf16" (2 bytes per element, rounded stochastically), "int8"
            (1 byte), "int4" (half a byte). Tensors with fewer than 4,096 elements keep fp32 under int8 and int4. An
            average of gradients with a long memory is kept wider, which `explain()` says: in int4 one with a beta
            above 0.9 is int8, in int8 one above 0.995 bf16. int8 and int4 count a few elements that are far above
            the others of their block (or not finite) as the largest number the block has.
        weights: how bf16 and fp16 parameters are rounded: "native" (to the nearest: updates under half a unit in
            the last place are lost), "stochastic" (right in the mean), "split" (fp32 weights: what was lost is kept
            in 16 bits more; of fp16 weights, where they are above 2**-16). Weights that you change between steps (a
            mask, `clamp_`, `copy_`) go on from what they are, to half a unit in the last place: the low bits of the
            weight before stay, where they make a number with the new one. For exact ones, also
            `del optimizer.state[p]["low_bits"]`.
        cautious: leave out elements whose direction has not the sign of their gradient (arXiv 2411.16085); a second
            pass over each tensor (default False).
        seed: of the random bits of stochastic rounding, from 0 (default) to 2**31 - 1.
        backend: "auto" (the fastest that can), "eager", "cpu" or "gpu". A backend asked for by name never falls back.
    """

    rule: ClassVar[Rule]
    slots: ClassVar[tuple[Slot, ...]] = ()
    measure: ClassVar[Rule | None] = None  # what the rule wants summed over each tensor, by name (two passes)
    sums: ClassVar[tuple[str, ...]] = ()  # those names
    over: ClassVar[Literal["tensor", "run"]] = "tensor"  # what they are sums of
    view: ClassVar[Literal["element", "matrix", "tensor"]] = "element"  # what the rule sees (see `RuleSignature`)
    others: ClassVar[Mapping[str, RuleSignature]] = {}  # rules for tensors that `method_of` sends there
    decay: ClassVar[str | None] = "decoupled"
    ranges: ClassVar[Mapping[str, Range | OneOf]] = {}
    modes: ClassVar[tuple[str, ...]] = ()  # entries of the groups that say what the weights are now; one for all groups
    construction: ClassVar[tuple[str, ...]] = ()  # of `defaults`: arguments that no group has (Muon's `adamw_lr`)
    splits_by_role: ClassVar[bool] = False  # made for hidden matrices: `stepwell.groups.muon` makes its groups
    takes_estimates: ClassVar[bool] = False  # of the Hessian's diagonal, by `add_hessian`: an estimator makes them
    facts: ClassVar[Any]
    memory: ClassVar[Any] = None  # what its slots mean to another optimizer (`stepwell.optimizers.memory`)
    decay_by_rule: ClassVar[str | None] = None  # how the rule decays where `decay_of` is None, if like another's

    signature: ClassVar[RuleSignature]
    signatures: ClassVar[Mapping[str, RuleSignature]]  # by what `method_of` returns; "" is the rule above
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
        self.backend = _word(name, "backend", options.pop("backend", "auto"), ("auto", *BACKENDS))
        shared = {"maximize": False, "state": "fp32", "weights": "native", "seed": 0, "cautious": False}
        defaults = {**defaults, **{key: options.pop(key, value) for key, value in shared.items()}}
        if self.decay == "coupled":
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

    # Groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: `params` and any hyperparameters that differ from the defaults."""
        name = type(self).__name__
        if not isinstance(param_group, dict):
            raise WrongType(
                f"{name}: param_group={shown(param_group)}; it must be a dict, as {{'params': [...], 'lr': 0.1}}"
            )
        if "params" not in param_group:
            raise UsageError(f"{name}: param_group={shown(param_group)} has no 'params'; give a list of tensors")
        (param_group,) = as_groups([param_group], name)
        self._check_group(param_group, self.defaults)
        present = {id(p): n for n, p in self._named()}
        for label, tensor in _labelled(param_group):
            if id(tensor) in present:
                raise UsageError(
                    f"{name}: {label} is in a group already (as {present[id(tensor)]}); a tensor belongs to one group"
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

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients (or fill them with zeros)."""
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

    def _named(self) -> list[tuple[str, Tensor]]:
        return [pair for group in getattr(self, "param_groups", []) for pair in _labelled(group)]

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Raise UsageError where hyperparameters of a group, each inside its range, do not go together."""

    def ranges_with(self, defaults: Mapping[str, Any]) -> dict[str, Range | OneOf]:
        """`all_ranges`, and flags for those of `defaults` that are one and no argument (`train_mode`)."""
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
        for label, tensor in _labelled(group):
            if not isinstance(tensor, Tensor):
                raise WrongType(f"{name}: {label} is a {type(tensor).__name__}; a parameter must be a torch.Tensor")
            if tensor.layout != torch.strided:
                raise UsageError(
                    f"{name}: {label} is {str(tensor.layout).removeprefix('torch.')}; parameters must be dense (their "
                    "gradients may be row-sparse): pass parameter.to_dense()"
                )
            formats.format_of(tensor, f"{name}: {label}")

    def _check_formats(self, group: Mapping[str, Any], place: str = "") -> dict[str, Any]:
        """What `group` says of formats, as plain words and numbers."""
        name = type(self).__name__
        reason = self._no_caution()
        if group.get("cautious") and reason:
            raise UsageError(f"{name}: cautious=True is not available: {reason}; leave it out")
        words = (("state", formats.STATES), ("weights", formats.WEIGHTS))
        found: dict[str, Any] = {
            option: _word(name, option, group[option], allowed, place) for option, allowed in words if option in group
        }
        if "seed" in group:
            found["seed"] = _seed(name, group["seed"], place)
        return found

    def check_changed(self, index: int, keys: Iterable[str]) -> None:
        """What was written into a group since the last step, as the constructor would have taken it.

        The group gets the plain numbers; UsageError, which names the group and the key, for what no constructor takes.
        """
        group, place = self.param_groups[index], f" in group {index}"
        changed = {key: group[key] for key in keys}
        plain = check_hyperparameters(type(self).__name__, changed, self.ranges_with(self.defaults), place)
        plain |= self._check_formats({**changed, **plain}, place)
        self.check_together({**self.defaults, **group, **plain})
        group.update(plain)

    def _no_caution(self) -> str | None:
        """Why caution is not available, or None."""
        if any(signature.sums for signature in self.signatures.values()):
            return "its rule needs sums itself"
        if any(signature.view != "element" for signature in self.signatures.values()):
            return "it is for rules of single elements"
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
                raise UsageError(f"{start}: {_TORCH_ONLY[option]}; leave it out")
            if option in self.construction:
                raise UsageError(f"{start}: it is an argument of {type(self).__name__} itself, not of a group")
            raise UsageError(f"{start}: {nearest(option, [*known, *([] if place else ['backend'])])}")

    # The step

    @untraced
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss anew and returns it; its value is what `step` returns.
        """
        return self._step(closure)

    # torch wraps `step` for its profiler and hooks unless it says that it has them already. The wrapper costs 0.3 ms
    # in a training loop: it opens a profiler range even where nothing profiles. Here it is used when something does.
    step = _observed(step)

    def _is_observed(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        )

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
        """Update with every gradient multiplied by `gradient_factor` on the way (unscaling, clipping).

        Where `found_inf` is not 0, nothing changes, no bit of a parameter or slot. On a GPU both may be tensors there:
        nothing waits for them.
        """
        if type(gradient_factor) is not float or not math.isfinite(gradient_factor) or found_inf is not None:
            gradient_factor, found_inf = _handed_over(type(self).__name__, gradient_factor, found_inf)
        with self._lock:
            plan, ready = self._prepare()
            try:
                summed = [launch for launch in ready if launch.kind.sums]
                for launch in summed:
                    launch.backend.measure(launch, plan.rows.values, gradient_factor)
                plan.pool(summed)
                plan.run(ready, gradient_factor, found_inf)
            finally:
                plan.done(ready)

    @untraced
    def gradient_norm(self) -> Tensor:
        """The Euclidean norm of all gradients together, as they are (not unscaled): sqrt(sum of g^2), 0-D.

        One pass that reads the gradients; nothing waits for a GPU. It is infinite or nan where a gradient is.

        >>> float(optimizer.gradient_norm())
        """
        with self._lock:
            plan, ready = self._prepare()
            try:
                squared = plan.squared_norm(ready)
            finally:
                plan.done(ready)
        if not squared:
            return torch.zeros(())
        norm = torch.stack([value.to(squared[0].device) for value in squared]).sum().sqrt()
        return norm if any(launch.kind.weights == "fp64" for launch in ready) else norm.float()

    def _prepare(self) -> tuple[Plan, list[Launch]]:
        """The plan of this step, and the launches that have a gradient, ready to run."""
        refuse_tracing(type(self).__name__)
        if not (isinstance(self.state, Watched) and self.state.is_of(self._kept)):  # replaced: `optimizer.state = {}`
            self.state, self._kept.plan = self._watched(self.state), None
        plan = self._plan
        if plan is None or not plan.fits(self):
            plan = self.make_plan()
        try:
            return plan, self._collected(plan)
        except Stale:  # a tensor moved to another device, dtype or layout: the next plan follows it
            plan = self.make_plan()
            return plan, self._collected(plan)

    @staticmethod
    def _collected(plan: Plan) -> list[Launch]:
        ready = [launch for launch in plan.launches if launch.collect()]
        plan.refuse_overlaps()
        for launch in ready:
            launch.backend.prepare(launch)
        return ready

    @property
    def _plan(self) -> Plan | None:
        """The plan of the last step, while nothing that it depends on has changed."""
        return self._kept.plan

    def make_plan(self) -> Plan:
        """Make the plan anew, from the parameters, groups and state as they are."""
        plan = Plan(self)
        self._kept.plan = plan
        return plan

    def decay_of(self, group: Mapping[str, Any]) -> str | None:
        """How weight decay acts in `group`: "coupled" (L2, through the gradient), "decoupled", or None."""
        if "decoupled_weight_decay" in group:
            return "decoupled" if group["decoupled_weight_decay"] else "coupled"
        return self.decay

    @classmethod
    def method_of(cls, group: Mapping[str, Any], tensor: Tensor) -> str:
        """Which of `signatures` updates one tensor of a group."""
        return ""

    @classmethod
    def group_for(cls, settings: Mapping[str, Any], group: Mapping[str, Any], tensor: Tensor) -> dict[str, Any]:
        """The hyperparameters that a tensor of `group` would have, as far as they decide which state is kept; what the
        forecast of `stepwell.groups` asks of a class. An optimizer that puts more into its groups than arguments of
        its constructor says so here.

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
        """The flags and the kind of decay of one tensor of a group. LAMB and LARS leave out vectors here."""
        return flags, decay

    def remarks(self, group: Mapping[str, Any], tensor: Tensor) -> list[str]:
        """What `explain()` should say of the rule for one tensor of a group."""
        return []

    def backends_for(self, kind: LaunchKind, tensor: Tensor) -> dict[str, ModuleType]:
        """The backends that may update `tensor`, the fastest first."""
        if is_wrapper(tensor) and self.backend in ("auto", "eager"):
            return SUBCLASSES
        if kind.view != "element" and self.backend in ("auto", "eager"):
            return STACKS
        if self.backend != "auto":
            return {self.backend: BACKENDS[self.backend]}
        return {"cpu": cpu, "eager": eager} if tensor.device.type == "cpu" else {"gpu": gpu, "eager": eager}

    def backend_for(self, kind: LaunchKind, tensor: Tensor, name: str) -> ModuleType:
        """The backend that updates `tensor`; UsageError if the one asked for by name cannot."""
        wanted = self.backends_for(kind, tensor)
        reasons = []
        for label, backend in wanted.items():
            reason = backend.refusal(kind, tensor)
            if reason is None:
                return backend
            reasons.append(f"backend={label!r} cannot update {name!r}: {reason}")
        raise UsageError(f"{type(self).__name__}: {'; '.join(reasons)}; backend='auto' takes one that can")

    def explain(self) -> str:
        """A table of what each group gets: tensors, elements, lr, decay, formats, bytes, backend, and the reasons.

        >>> print(optimizer.explain())
        """
        return explain.explain(self)

    # State

    def state_bytes(self) -> int:
        """Bytes held in slots, beside the step counts."""
        return held_in_state(self.state)

    def watched_state(self, tensor: Tensor) -> Watched:
        """The state of one parameter; replacing an entry of it makes the plan stale."""
        state = dict.get(self.state, tensor)
        if not isinstance(state, Watched) or not state.is_of(self._kept):
            state = Watched(state or {}, self._kept)
            dict.__setitem__(self.state, tensor, state)
        return state

    def _watched(self, state: Mapping[Any, Any]) -> Watched:
        return Watched(state, self._kept, default=dict)

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's layout; `torch.optim` loads what is kept in fp32 (see `engine/checkpoint.py`)."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        result = checkpoint.state_dict(self)
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any], *, keep_formats: bool = False) -> None:
        """Take over a state saved here or by `torch.optim`, by name where both have names, else by position.

        Hyperparameters and formats become those of the checkpoint, as with torch. With `keep_formats` the formats of
        this optimizer stay (`state`, `weights`), and the slots are converted to them.

        Raises UsageError naming the first parameter that does not fit; then nothing has changed.
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
        self.said = set()  # warnings that are given once
        self.state = self._watched(self.state)
        trust(self.state)

    def __getstate__(self) -> dict[str, Any]:
        # Torch hands on defaults, state and groups; a subclass has attributes of its own (Muon's `inner`).
        return {name: value for name, value in self.__dict__.items() if name not in _LEFT_BEHIND}


def as_groups(params: Any, owner: str) -> list[dict[str, Any]]:
    """`params` as torch takes them (tensors, (name, tensor) pairs, or dicts of groups) as a list of group dicts."""
    if isinstance(params, Tensor):
        raise WrongType(f"{owner}: params is a tensor; pass a list of them, as in model.parameters()")
    if isinstance(params, torch.nn.Module):
        params = params.named_parameters()
    given = members_of(owner, "params", params)
    if not given:
        raise UsageError(
            f"{owner}: the list of parameters is empty; is model.parameters() used up, or has the model none?"
        )
    groups = given if isinstance(given[0], dict) else [{"params": given}]
    result = []
    for position, group in enumerate(groups):
        if not isinstance(group, dict) or "params" not in group:
            raise UsageError(f"{owner}: group {position} has no 'params'; each group is a dict with the key 'params'")
        members = group["params"]
        members = [members] if isinstance(members, Tensor) else members_of(owner, position, members)
        result.append({**group, "params": members})
    seen: dict[int, str] = {}
    for position, group in enumerate(result):
        for label, tensor in _labelled(group, position):
            if id(tensor) in seen:
                raise UsageError(
                    f"{owner}: {label} is given twice (also as {seen[id(tensor)]}); a tensor belongs to one group, once"
                )
            seen[id(tensor)] = label
    return result


def members_of(owner: str, of: str | int, members: Any) -> list[Any]:
    """The members of `params`, or of the params of a group by its place; they may be those of an iterator."""
    what, is_ = (of, "is") if isinstance(of, str) else (f"the params of group {of}", "are")
    do = "pass model.parameters() or a list of groups" if isinstance(of, str) else "pass a list"
    if isinstance(members, (set, frozenset)):
        raise WrongType(f"{owner}: {what} {is_} a set, whose order differs from run to run; pass a list of them")
    if isinstance(members, (str, bytes, bytearray, memoryview, Mapping)):
        raise WrongType(f"{owner}: {what} {is_} a {type(members).__name__}; {do}")
    found: list[Any] = []
    try:
        iterator = iter(members)
    except Exception:  # a method of the user's own may raise anything
        raise WrongType(f"{owner}: {what} {is_} a {type(members).__name__}; {do}") from None
    try:
        for member in iterator:
            if not isinstance(member, (Tensor, tuple, dict)):
                where = f"parameter {len(found)}" + ("" if isinstance(of, str) else f" of group {of}")
                raise WrongType(
                    f"{owner}: {where} is a {type(member).__name__}; a parameter must be a torch.Tensor, in params"
                )
            found.append(member)
            if len(found) > _MOST:
                raise UsageError(f"{owner}: {what} {is_} longer than {_MOST:,}; does it ever end? {do}")
    except (OverflowError, RecursionError, MemoryError):  # of a range
        raise WrongType(f"{owner}: {what} {is_} a {type(members).__name__}; {do}") from None
    return found


_MOST = 1_000_000  # parameters of one optimizer; an iterator of more is taken for one that never ends


def _labelled(group: dict[str, Any], position: int | None = None) -> list[tuple[str, Any]]:
    """The tensors of a group with words to call them by."""
    where = "" if position is None else f" of group {position}"
    names = group.get("param_names")
    names = names if isinstance(names, (list, tuple)) and len(names) == len(group["params"]) else None
    pairs = []
    for index, member in enumerate(group["params"]):
        if isinstance(member, tuple) and len(member) == 2:
            pairs.append((f"the parameter '{member[0]}'", member[1]))
        elif names:
            pairs.append((f"the parameter '{names[index]}'", member))
        else:
            pairs.append((f"parameter {index}{where}", member))
    return pairs


def check_names(owner: str, group: Mapping[str, Any]) -> None:
    """Raise UsageError where names of parameters or of the group are no texts, or are not as many."""
    names = group.get("param_names")
    count = len(group["params"])
    if names is not None and not (
        isinstance(names, (list, tuple)) and len(names) == count and all(isinstance(name, str) for name in names)
    ):
        raise UsageError(f"{owner}: param_names={shown(names)}; they must be a list of {count} texts, one for each")
    for member in group["params"]:
        if isinstance(member, tuple) and len(member) == 2 and not isinstance(member[0], str):
            raise UsageError(f"{owner}: {shown(member[0])} names a parameter in params; it must be a text")


def check_closure(owner: str, closure: Any) -> None:
    """Raise WrongType for a closure that cannot be called."""
    if not callable(closure):
        raise WrongType(
            f"{owner}: closure={shown(closure)}; it must be a function that drops the gradients, computes the loss, "
            "does backward and returns it"
        )


def _word(owner: str, name: str, value: Any, allowed: Iterable[str], place: str = "") -> str:
    """One of the words that are allowed."""
    words = tuple(allowed)
    if isinstance(value, str) and value in words:
        return str(value)  # NumPy's text is a str, too
    raise UsageError(f"{owner}: {name}={shown(value)}{place}; allowed: {', '.join(words)}")


def _handed_over(owner: str, factor: Any, found_inf: Any) -> tuple[float | Tensor, Tensor | None]:
    """What comes with the gradients: a number, and a flag; each may be a tensor on the device."""
    if isinstance(factor, Tensor):
        if factor.numel() != 1 or not factor.is_floating_point() or factor.is_meta or factor.is_sparse:
            raise refusal(owner, "gradient_factor", factor, "a finite number, or a tensor of one number")
    elif type(factor) is not float or not math.isfinite(factor):
        factor = float(number(owner, "gradient_factor", factor))
    one = isinstance(found_inf, Tensor) and found_inf.numel() == 1 and not found_inf.is_meta
    if found_inf is not None and (not one or found_inf.is_complex() or found_inf.is_sparse):
        raise refusal(owner, "found_inf", found_inf, "a tensor of one number (not 0: nothing changes), or None")
    return factor, found_inf


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
