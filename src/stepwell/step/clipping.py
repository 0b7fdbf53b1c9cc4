"""Ways to clip the gradient. Each receives the whole gradient once per update, unscaled or not. It returns the factor
by which the optimizer multiplies the gradient, and whether the gradient was clipped. Nothing here waits for the device.

Clipping by value and adaptive clipping are not a single factor: they write the gradients in a separate pass. `ClipNorm`
and `AutoClip` cost only the norm, which a step computes anyway.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.arguments import FINITE, number, plain_number, refusal, sequence, text, whole
from stepwell.engine.gradients import Factor, global_norm, multiply
from stepwell.errors import UsageError, shown
from stepwell.step.part import PutBack, copy_kept, try_state

_PATTERNS = "a list of patterns of names, as ('head.*',)"
_MOST = 3e38  # what a float32 holds
_LONGEST = 1000  # characters of a pattern
_WINDOW = 2**24  # norms that AutoClip sorts at each step: 64 MiB of them
ALMOST_ZERO = 1e-6  # torch.nn.utils.clip_grad_norm_ adds the same to the norm that it divides by


def above_zero(owner: str, name: str, value: Any, most: float = math.inf) -> float:
    """`value` as a float if it is a number above 0, or UsageError."""
    plain = plain_number(value)
    if plain is None or not 0 < plain <= min(most, FINITE):
        raise refusal(owner, name, value, "a finite number above 0", "None does not clip")
    return float(plain)


class Clip:
    """Base class of the ways to clip. `named` are the (name, parameter) pairs that have a gradient; a name may be
    empty."""

    def clip(self, named: Sequence[tuple[str, Tensor]], factor: Factor, norm: Tensor) -> tuple[Factor, Tensor]:
        """Returns (factor, clipped): the new gradient factor, and 1 if the gradient was clipped. `norm` is the norm
        after applying `factor`."""
        raise NotImplementedError

    def check(self, names: Sequence[str]) -> None:
        """Raise UsageError if clipping does not fit parameters of these names."""

    def state_dict(self) -> dict[str, Any]:
        """The state; empty for most ways to clip."""
        return {}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise UsageError if `load_state_dict` cannot load this state."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""


class ClipNorm(Clip):
    """Scale the gradient down to a maximal Euclidean norm: g * min(1, max_norm / (||g|| + 1e-6)).

    The direction of the full gradient is preserved. `Step(optimizer, clip_norm=1.0)` is the short form.

    Args:
        max_norm: above 0, in units of the gradient. A usual start is 1.0; the 90th percentile of recent norms is
            what the Deep Learning Tuning Playbook advises.

    Reference: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", arXiv 1211.5063.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = above_zero("ClipNorm", "max_norm", max_norm)

    def clip(self, named: Sequence[tuple[str, Tensor]], factor: Factor, norm: Tensor) -> tuple[Factor, Tensor]:
        return _to_norm(factor, norm, self.max_norm)

    def __repr__(self) -> str:
        return f"ClipNorm({self.max_norm:g})"


def _to_norm(factor: Factor, norm: Tensor, largest: float | Tensor) -> tuple[Factor, Tensor]:
    ratio = largest / (norm + ALMOST_ZERO)
    return factor * ratio.clamp(max=1.0), ratio < 1


class ClipValue(Clip):
    """Cut every element into [-max_value, max_value]. This changes the direction of the gradient; `ClipNorm` does not.

    Args:
        max_value: above 0, in units of the gradient.

    Costs two passes over the gradients, and writes them.
    """

    def __init__(self, max_value: float) -> None:
        self.max_value = above_zero("ClipValue", "max_value", max_value, _MOST)

    def clip(self, named: Sequence[tuple[str, Tensor]], factor: Factor, norm: Tensor) -> tuple[Factor, Tensor]:
        dense = [gradient for _, _, gradient in _written(named, factor) if gradient.numel()]
        if not dense:  # sparse ones without rows
            return 1.0, torch.zeros_like(norm)
        clipped = global_norm(dense, torch.inf) > self.max_value
        torch._foreach_clamp_max_(dense, self.max_value)
        torch._foreach_clamp_min_(dense, -self.max_value)
        return 1.0, clipped

    def __repr__(self) -> str:
        return f"ClipValue({self.max_value:g})"


def _written(named: Sequence[tuple[str, Tensor]], factor: Factor) -> list[tuple[str, Tensor, Tensor]]:
    """(name, parameter, gradient) with every gradient multiplied by `factor`, in writable memory."""
    result = []
    for name, tensor in named:
        gradient = tensor.grad
        assert gradient is not None
        if gradient.is_sparse:
            tensor.grad = gradient = gradient.coalesce()  # its values are then a view of it
            gradient = gradient.values()
        result.append((name, tensor, gradient))
    multiply([gradient for _, _, gradient in result], factor)
    return result


class AdaptiveClip(Clip):
    """Clip each unit's gradient relative to its weights (AGC): the gradient G_i of unit i, a row of a matrix or a
    filter of a convolution (a whole vector for biases and norms), becomes

        G_i * ratio * max(||W_i||, eps) / ||G_i||    where ||G_i|| > ratio * max(||W_i||, eps).

    Args:
        ratio: above 0; the paper takes 0.01 to 0.16, smaller for larger batches.
        eps: above 0; it lets units that start at zero be updated.
        exclude: patterns of parameter names that are not clipped, as ("head.*",): the paper excludes the last
            layer. Build the optimizer with `model.named_parameters()`, so that parameters have names.

    Adaptive clipping lets networks without batch norm train with large batches and learning rates. It costs several
    passes over the gradients, which it writes, and over the weights.

    Reference: Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization",
    arXiv 2102.06171, section 4.1 (equation 3).
    """

    def __init__(self, ratio: float = 0.01, *, eps: float = 1e-3, exclude: Sequence[str] = ()) -> None:
        self.ratio = above_zero("AdaptiveClip", "ratio", ratio, _MOST)
        self.eps = above_zero("AdaptiveClip", "eps", eps, _MOST)
        given = [exclude] if isinstance(exclude, str) else sequence("AdaptiveClip", "exclude", exclude, _PATTERNS)
        if any(isinstance(one, str) and len(one) > _LONGEST for one in given):
            raise refusal("AdaptiveClip", "exclude", exclude, f"{_PATTERNS}, each of at most {_LONGEST} characters")
        self.exclude = tuple(text("AdaptiveClip", "exclude", one, _PATTERNS) for one in given)

    def check(self, names: Sequence[str]) -> None:
        for pattern in self.exclude:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                hint = ", ".join(names[-3:]) if any(names) else "none; pass model.named_parameters() to the optimizer"
                raise UsageError(
                    f"AdaptiveClip: exclude={shown(pattern)} matches no parameter's name; the last are {hint}"
                )

    def clip(self, named: Sequence[tuple[str, Tensor]], factor: Factor, norm: Tensor) -> tuple[Factor, Tensor]:
        touched = []
        for name, tensor, gradient in _written(named, factor):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude):
                continue
            weights = tensor.detach()
            if tensor.grad is not None and tensor.grad.is_sparse:  # its rows alone
                weights = weights[tensor.grad.indices()[0]]
            limit = self.ratio * unit_norm(weights).clamp(min=self.eps)
            size = unit_norm(gradient)
            too_large = size > limit
            gradient.mul_(torch.where(too_large, limit / size.clamp(min=ALMOST_ZERO), 1.0).to(gradient.dtype))
            touched.append(too_large.any().to(norm.device))
        return 1.0, torch.stack(touched).any() if touched else torch.zeros_like(norm)

    def __repr__(self) -> str:
        return f"AdaptiveClip({self.ratio:g})"


def unit_norm(tensor: Tensor) -> Tensor:
    """Euclidean norm of each unit, fp32 or wider, shaped to be divided by: [units, 1, ...], or [] of a vector."""
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    if tensor.dim() <= 1:
        return torch.linalg.vector_norm(wide)
    return torch.linalg.vector_norm(wide, dim=tuple(range(1, tensor.dim())), keepdim=True)


class AutoClip(Clip):
    """Clip to a percentile of the norms of recent updates, so that no threshold must be chosen.

    The norm of the current update is included; norms that are not finite are excluded. The first update is never
    clipped: its limit is its own norm.

    Args:
        percentile: in (0, 100]; the paper recommends 10, which clips nine of ten updates.
        window: how many recent updates are remembered, at least 1 (the paper: all updates).

    Reference: Seetharaman, Wichern, Pardo, Le Roux, "AutoClip: adaptive gradient clipping for source separation
    networks", arXiv 2007.14469, algorithm 1.
    """

    def __init__(self, percentile: float = 10.0, *, window: int = 1000) -> None:
        self.percentile = float(number("AutoClip", "percentile", percentile, above=0, most=100))
        self.window = whole("AutoClip", "window", window, least=1, most=_WINDOW)
        self._norms: Tensor | None = None  # [window], inf where there is none yet: they sort to the end
        self._count: Tensor | None = None  # how many there were, on the device

    def clip(self, named: Sequence[tuple[str, Tensor]], factor: Factor, norm: Tensor) -> tuple[Factor, Tensor]:
        if self._norms is None or self._count is None:
            self._norms = torch.full((self.window,), torch.inf, dtype=norm.dtype)
            self._count = torch.zeros(1, dtype=torch.int64)
        norms = self._norms = self._norms.to(norm.device)
        count = self._count = self._count.to(norm.device)
        finite = torch.isfinite(norm)
        place = count % self.window
        norms.index_copy_(0, place, torch.where(finite, norm, norms[place]).reshape(1).to(norms.dtype))
        count += finite
        held = count.clamp(1, self.window)  # [1]
        position = (held - 1) * (self.percentile / 100)
        low = position.floor().long()
        ordered = norms.sort().values
        below, above = ordered[low], ordered[torch.minimum(low + 1, held - 1)]
        limit = torch.lerp(below, above, (position - low).to(norms.dtype)).reshape(())
        # The norm it is compared with is the limit itself where the window holds one: ALMOST_ZERO must not clip that,
        # and where both are 0 (a batch without a gradient) their ratio is no number.
        clipped = norm > limit
        return factor * torch.where(clipped, limit / norm, 1.0), clipped

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self._norms, "count": self._count}

    def check_state(self, state: Mapping[str, Any]) -> None:
        norms = state.get("norms")
        if norms is not None and norms.shape != (self.window,):
            raise UsageError(
                f"AutoClip: the checkpoint has a window of {norms.numel()} norms, this Step has window={self.window}; "
                "use the same window"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        norms = state.get("norms")
        self._norms = None if norms is None else norms.clone()
        self._count = None if norms is None else state["count"].clone()

    def __repr__(self) -> str:
        return f"AutoClip({self.percentile:g}, window={self.window})"


class ClipRecentNorm(Clip):
    """Scale the gradient down by the norms of recent updates: g * min(1, max_norm / (max(r, ||g||) + 1e-6)), where r is
    the median of the last norms that were finite.

    For `Step(..., release=True)`, which updates a parameter before the norm of the whole gradient is known: ||g|| is
    then the norm of those gradients of this backward pass that are complete, so the last layers, which come first, are
    clipped by r alone, and the others also by what those had. The first update has no r. With all gradients at hand,
    `ClipNorm` is the better choice.

    Args:
        max_norm: above 0, in units of the gradient.
        window: how many recent updates are remembered, at least 1.
    """

    def __init__(self, max_norm: float, *, window: int = 10) -> None:
        self.max_norm = above_zero("ClipRecentNorm", "max_norm", max_norm)
        self.window = whole("ClipRecentNorm", "window", window, least=1, most=_WINDOW)
        self._norms: Tensor | None = None  # [window], nan where there is none yet

    def clip(self, named: Sequence[tuple[str, Tensor]], factor: Factor, norm: Tensor) -> tuple[Factor, Tensor]:
        ratio, clipped = self.ratio(norm)
        self.remember(norm)
        return factor * ratio, clipped

    def ratio(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """The factor for a gradient of this norm, and whether it is below 1."""
        known = torch.zeros_like(norm) if self._norms is None else self._norms.to(norm.device).nanmedian()
        ratio = self.max_norm / (torch.fmax(known, norm) + ALMOST_ZERO)
        return ratio.clamp(max=1.0), ratio < 1

    def remember(self, norm: Tensor) -> None:
        """Take the norm of an update into the window, unless it is not finite."""
        norms = torch.full((self.window,), torch.nan) if self._norms is None else self._norms
        norms = norms.to(norm.device)
        with_it = torch.cat([norms[1:], norm.detach().reshape(1).to(norms.dtype)])
        self._norms = torch.where(torch.isfinite(norm), with_it, norms)

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self._norms}

    def check_state(self, state: Mapping[str, Any]) -> None:
        norms = state.get("norms")
        if norms is not None and norms.shape != (self.window,):
            raise UsageError(
                f"ClipRecentNorm: the checkpoint has a window of {norms.numel()} norms, this Step has "
                f"window={self.window}; use the same window"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        norms = state.get("norms")
        self._norms = None if norms is None else norms.clone()

    def __repr__(self) -> str:
        return f"ClipRecentNorm({self.max_norm:g}, window={self.window})"


class Clipping:
    """The way to clip of a Step, if any, and a copy of its state for an update that may not be made."""

    def __init__(self, clip: Clip | None) -> None:
        self.clip = clip
        self._before: dict[str, Any] | None = None

    @property
    def leaves_gradients(self) -> bool:
        """Whether clipping is only a factor: no gradient is written or replaced."""
        return self.clip is None or type(self.clip) in (ClipNorm, AutoClip, ClipRecentNorm)

    def check(self, names: Sequence[str]) -> None:
        """Raise UsageError if clipping does not fit parameters of these names."""
        if self.clip is not None:
            self.clip.check(names)

    def note(self) -> None:
        """Called when an update starts."""
        self._before = None if self.clip is None else _copied(self.clip.state_dict())

    def forget(self) -> None:
        """Called when that update was made, or no update has started."""
        self._before = None

    def put_back(self) -> None:
        """Called when that update was not made."""
        if self.clip is not None and self._before is not None:
            self.clip.load_state_dict(self._before)

    def factor(
        self, named: Sequence[tuple[str, Tensor]], factor: Factor, norm: Tensor, found_inf: Tensor
    ) -> tuple[Factor, Tensor]:
        """The factor for the optimizer, and 1 if a finite gradient is clipped."""
        if self.clip is None:
            return factor, torch.zeros_like(found_inf)
        factor, was = self.clip.clip(named, factor, norm)
        return factor, was.float() * (1 - found_inf)

    # As a part

    def state_dict(self) -> dict[str, Any]:
        return {} if self.clip is None else {"kind": type(self.clip).__name__, **self.clip.state_dict()}

    def check_state(self, state: Any) -> None:
        if self.clip is None:
            return
        kind = type(self.clip).__name__
        if state.get("kind") == kind:
            lost = sorted(self.clip.state_dict().keys() - state.keys())
            if lost:
                raise UsageError(
                    f"Step: the checkpoint has no '{lost[0]}' of {kind}; was it changed after it was saved?"
                )
            self.clip.check_state(state)
        try_state("clip", self.clip, state)

    def load_state_dict(self, state: Any) -> None:
        if self.clip is not None:
            self.clip.load_state_dict(state)

    def kept(self) -> PutBack:
        return (lambda: None) if self.clip is None else copy_kept(self.clip)


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def clip_from(clip_norm: Any, clip: Any) -> Clip | None:
    """The way to clip that the arguments `clip_norm` and `clip` of a Step describe, or UsageError."""
    if clip_norm is not None and clip is not None:
        raise UsageError(f"Step: clip_norm={shown(clip_norm)} and clip={shown(clip)} are both given; give one")
    if clip_norm is not None:
        return ClipNorm(above_zero("Step", "clip_norm", clip_norm))
    if clip is not None and not isinstance(clip, Clip):
        raise UsageError(
            f"Step: clip={shown(clip)}; it must be a ClipValue, AdaptiveClip, AutoClip or ClipRecentNorm of "
            "stepwell.step; or pass clip_norm=1.0"
        )
    return clip
