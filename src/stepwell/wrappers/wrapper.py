"""The base class of optimizers that wrap another optimizer.

Parameter groups, defaults and state are those of the wrapped optimizer, so schedules, `GradScaler` and trainers find
them. The wrapper's own tensors for each parameter are in `own`, and are saved by name (see `saving.py`).
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from stepwell.arguments import flag
from stepwell.engine import as_groups, checkpoint
from stepwell.engine.bytes import held, held_in_state
from stepwell.engine.closures import check_closure
from stepwell.engine.explanation import Explanation
from stepwell.engine.given_groups import members_of
from stepwell.engine.gradients import Factor
from stepwell.engine.update import Evaluate, needs_closure, takes_factor, update, update_with
from stepwell.errors import UsageError, nearest, shown
from stepwell.optimizers import parted
from stepwell.optimizers.facts import Facts, state_bytes
from stepwell.wrappers import saving

# The attributes in which torch's optimizers keep hooks. A wrapper has its own hooks, and copies do not have them.
_PLACES = ("step", "state_dict", "load_state_dict")
_HOOKS = tuple(f"_optimizer_{place}_{when}_hooks" for place in _PLACES for when in ("pre", "post"))


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another optimizer.

    A subclass overrides `_before` and `_after`, which are called around an update, or `update` and `update_with`. Its
    settings are plain attributes, named in `settings`; its tensors per parameter are in `own`.
    """

    settings: ClassVar[tuple[str, ...]] = ()  # attributes that are saved: numbers, strings, tensors
    kept: ClassVar[tuple[str, ...]] = ()  # names of the tensors in `own`, each of the shape of its parameter
    group_options: ClassVar[tuple[str, ...]] = ()  # keys in the groups that only the wrapper reads
    usual_base: ClassVar[str] = "sgd"  # the wrapped optimizer that `create` makes by default
    evaluates: ClassVar[bool] = False  # whether its own step computes gradients at several points
    copies: ClassVar[int] = 0  # copies of the weights in `own`, from the first step on
    facts: ClassVar[Facts]
    slots, decay = (), None
    takes_factor: ClassVar[bool] = True  # `update` takes a factor and a flag

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.base: Any = self._checked(optimizer)
        self.own: dict[Tensor, dict[str, Tensor]] = {}
        self._swapped = False
        self._begin()

    def _begin(self) -> None:
        """The part of torch's constructor that does not make groups: the wrapped optimizer has made them."""
        for hooks in _HOOKS:
            setattr(self, hooks, OrderedDict())
        self._patch_step_function()

    def _checked(self, optimizer: Any) -> torch.optim.Optimizer:
        name = type(self).__name__
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(
                f"{name}: optimizer is a {type(optimizer).__name__}; it wraps an optimizer: "
                f"{name}(SGD(model.parameters(), lr=0.1)), or create('{name.lower()}', model, base='sgd', lr=0.1)"
            )
        return optimizer

    @classmethod
    def around(cls, params: Any, base: str | None = None, **options: Any) -> Self:
        """Construct an optimizer and wrap it: `create("sam", model, base="sgd", rho=0.1, lr=0.1)` calls this.

        Options that the wrapper has are its own; all others are passed to the wrapped optimizer.
        """
        from stepwell.optimizers import create, find

        name = cls.__name__
        inside = find(cls.usual_base if base is None else base)
        named = [option for option in inspect.signature(cls.__init__).parameters if option not in ("self", "optimizer")]
        mine = {option: options.pop(option) for option in named if option in options}
        if "model" in named and isinstance(params, torch.nn.Module):
            mine.setdefault("model", params)
        if not issubclass(inside, Wrapper):
            example = inside([("weight", torch.zeros(2, 2))])  # a matrix: Muon needs one
            known = {*example.defaults, *inspect.signature(inside.__init__).parameters, "backend", "state_device"}
            known -= {"self", "params", "options"}
            for option, value in options.items():
                if option not in known:
                    raise UsageError(
                        f"{name} around {inside.__name__}: unknown option {option}={shown(value)}: "
                        f"{nearest(option, {*known, *named, 'base'})}"
                    )
        if cls.group_options and not isinstance(params, torch.nn.Module):
            params, taken = cls._without_own(params)
        else:
            taken = []
        optimizer = create(inside.__name__, params, **options)
        pairs = list(zip(params, taken, strict=True)) if taken else []
        own = {id(tensor): values for group, values in pairs for _, tensor in parted.named(group)}
        for group in optimizer.param_groups:  # may be more groups than given: Muon splits them
            group.update(own.get(id(group["params"][0]), {}) if group["params"] else {})
        return cls(optimizer, **mine)

    @classmethod
    def _without_own(cls, params: Any) -> tuple[Any, list[dict[str, Any]]]:
        """Groups without the wrapper's own options, and those options for each group."""
        if isinstance(params, Tensor):
            return params, []  # which is refused
        given = params if isinstance(params, list) else members_of(cls.__name__, "params", params)
        if not given or not isinstance(given[0], dict):
            return given, []
        if not any(key in group for group in given for key in cls.group_options):
            return (params if isinstance(params, list) else given), []  # those of `stepwell.groups` have attributes
        given = as_groups(given, cls.__name__)
        taken = [{key: group[key] for key in cls.group_options if key in group} for group in given]
        return [{k: v for k, v in group.items() if k not in cls.group_options} for group in given], taken

    @classmethod
    def bytes_per_element(cls, base: str | None = None, **options: Any) -> float:
        """Bytes of state per float32 weight, including those of the usual wrapped optimizer."""
        from stepwell.optimizers import find

        named = inspect.signature(cls.__init__).parameters
        inside = {option: value for option, value in options.items() if option not in named}
        return 4.0 * cls.copies + state_bytes(find(cls.usual_base if base is None else base), **inside)

    def check_base(self) -> None:
        """Raise UsageError where the settings do not suit the wrapped optimizer."""

    def around_another(self, optimizer: torch.optim.Optimizer) -> Wrapper:
        """The same wrapper with its settings and tensors, around another optimizer of the same parameters."""
        other = object.__new__(type(self))
        other.__setstate__({**self.__getstate__(), "base": other._checked(optimizer)})
        other.own = {tensor: {k: value.clone() for k, value in kept.items()} for tensor, kept in self.own.items()}
        mine = {id(tensor): group for group in self.param_groups for tensor in group["params"]}
        for group in optimizer.param_groups:
            before = mine[id(group["params"][0])] if group["params"] else self.param_groups[0]
            group.update({key: before.get(f"initial_{key}", before[key]) for key in self.group_options})
        return other

    # Delegated to the wrapped optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the wrapped optimizer."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of the wrapped optimizer; the wrapper's own tensors are in `own`."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]  # an attribute in torch
        """The defaults of the wrapped optimizer."""
        return self.base.defaults

    @property
    def needs_closure(self) -> bool:
        """Whether a step evaluates the loss itself."""
        return self.evaluates or needs_closure(self.base)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether torch.amp.GradScaler may pass grad_scale and found_inf."""
        return takes_factor(self.base) or all(group.get("fused") for group in self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer."""
        self.base.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients (or set them to zero)."""
        set_to_none = flag(type(self).__name__, "set_to_none", set_to_none)
        if torch.autograd._profiler_enabled():
            with torch.autograd.profiler.record_function(f"Optimizer.zero_grad#{type(self).__name__}.zero_grad"):
                self.base.zero_grad(set_to_none)
        else:
            self.base.zero_grad(set_to_none)

    def named(self) -> list[tuple[str, Tensor]]:
        """(name, parameter) pairs of all groups; the name of a parameter without a name is empty."""
        pairs: list[tuple[str, Tensor]] = []
        for group in self.param_groups:
            names = group.get("param_names") or [""] * len(group["params"])
            pairs += zip(names, group["params"], strict=True)
        return pairs

    # The step

    def step(self, closure: Any = None) -> Any:
        """One update. Returns the loss that the closure returns.

        Args:
            closure: clears the gradients, computes the loss, runs backward and returns the loss.
        """
        self._refuse_inside("step")
        if closure is None:
            self._refuse_without_closure()
            scale = getattr(self, "grad_scale", None)
            self.update(1.0 if scale is None else 1.0 / scale, getattr(self, "found_inf", None))
            return None

        check_closure(type(self).__name__, closure)

        def evaluate() -> tuple[Any, None]:
            with torch.enable_grad():
                return closure(), None

        return self.update_with(evaluate)[0]

    def update(self, gradient_factor: Factor = 1.0, found_inf: Tensor | None = None) -> None:
        """Update with the current gradients times `gradient_factor`. No update where `found_inf` is not 0."""
        self._refuse_inside("update")
        self._refuse_without_closure()
        self._before()
        update(self.base, gradient_factor, found_inf)
        self._after(gradient_factor, found_inf)

    def update_with(self, evaluate: Evaluate) -> tuple[Any, Tensor | None]:
        """Update with gradients that the wrapped optimizer has computed itself (see `engine.update.update_with`)."""
        self._refuse_inside("update")
        self._before()
        loss, found_inf = update_with(self.base, evaluate)
        self._after(1.0, found_inf)
        return loss, found_inf

    def _before(self) -> None:
        """Called before the update, with the weights at which the gradients were computed."""

    def _after(self, factor: Factor, found_inf: Tensor | None) -> None:
        """Called after the update, also if `found_inf` skipped it. The update used the gradients times `factor`."""

    def _refuse_without_closure(self) -> None:
        if self.needs_closure and not self._evaluates_nothing():
            name = type(self).__name__
            raise UsageError(
                f"{name}: a step evaluates the loss itself, so it needs a closure that drops the gradients, computes "
                "the loss, does backward and returns it: step(closure), or Step(optimizer).closure(lambda: loss)"
            )

    def _evaluates_nothing(self) -> bool:
        """Whether this step needs only the current gradients, unlike other steps of this optimizer."""
        return not self.evaluates and isinstance(self.base, Wrapper) and self.base._evaluates_nothing()

    # Evaluation

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context manager: use the evaluation weights inside, restore the training weights exactly on exit."""
        self._refuse_inside("evaluating")
        with self._inside_evaluating():
            self._swapped = True
            try:
                yield
            finally:
                self._swapped = False

    def _inside_evaluating(self) -> AbstractContextManager[Any]:
        return self.base.evaluating() if hasattr(self.base, "evaluating") else nullcontext()

    def _refuse_inside(self, what: str) -> None:
        if self._swapped:
            raise UsageError(
                f"{type(self).__name__}: {what}() inside `with optimizer.evaluating()` would act on other weights than "
                "those that are trained; leave it first"
            )

    # State

    def offload(self, device: str | torch.device = "cpu") -> None:
        """Move the state of the wrapped optimizer elsewhere until the next update; `own` stays (see `Optimizer`)."""
        self._in_base("offload", device)

    def onload(self) -> None:
        """Bring the state of the wrapped optimizer back."""
        self._in_base("onload")

    def _in_base(self, act: str, *args: Any) -> None:
        if not hasattr(self.base, act):
            raise UsageError(f"{type(self).__name__}: {type(self.base).__name__} has no {act}()")
        getattr(self.base, act)(*args)

    def state_bytes(self) -> int:
        """Bytes of state of the wrapped optimizer and of the wrapper, without step counts."""
        mine = sum(held(kept.values()) for kept in self.own.values())
        if hasattr(self.base, "state_bytes"):
            return mine + self.base.state_bytes()
        return mine + held_in_state(self.base.state)

    def state_dict(self) -> dict[str, Any]:
        """The state of the wrapped optimizer, in torch's layout, with settings and tensors of the wrapper."""
        self._refuse_inside("state_dict")
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        result = saving.with_own(self, self.base.state_dict())
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any], *, keep_formats: bool = False) -> None:
        """Load a state that was saved with the same wrapper around the same optimizer, by name where both have names.

        Settings and hyperparameters become those of the checkpoint. A state of the wrapped optimizer alone can be
        loaded, too: settings stay, and the wrapper's own tensors are initialized again.

        Raises UsageError with the first parameter that does not fit. Nothing is changed then.
        """
        self._refuse_inside("load_state_dict")
        content = checkpoint.content_of(type(self).__name__, state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, content)
            content = content if changed is None else dict(changed)
        inside, settings, loaded = saving.fitting(self, saving.in_torchs_layout(content))
        self.base.load_state_dict(inside, **({"keep_formats": True} if keep_formats else {}))
        self.own = loaded
        for name, value in settings.items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
        self._loaded(bool(settings))
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _loaded(self, with_settings: bool) -> None:
        """Called after a state was loaded; `with_settings`: a state that this wrapper has saved."""

    def _check_settings(self, settings: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
        """Raise UsageError for settings of a checkpoint, and options in its groups, that this wrapper would refuse."""

    def __getstate__(self) -> dict[str, Any]:
        apart = (*_HOOKS, "_zero_grad_profile_name", "step")  # a scheduler of torch puts its counter around `step`
        return {name: value for name, value in self.__dict__.items() if name not in apart}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    # Reporting

    def explain(self) -> str:
        """The table of the wrapped optimizer (see `Optimizer.explain`), under a line about the wrapper."""
        inside = self.base.explain() if hasattr(self.base, "explain") else repr(self.base)
        return (inside if isinstance(inside, Explanation) else Explanation(inside)).under(f"{self._shown()} around")

    def _shown(self) -> str:
        given = [name for name in inspect.signature(type(self).__init__).parameters if name in self.settings]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in given)})"

    def __repr__(self) -> str:
        inside = repr(self.base) if isinstance(self.base, Wrapper) else type(self.base).__name__
        return f"{self._shown()} around {inside}"
