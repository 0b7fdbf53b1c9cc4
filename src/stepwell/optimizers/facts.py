"""Facts about an optimizer that its rule does not show: one frozen record per optimizer, with sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

# What the step is computed from: the gradient itself; the gradient divided by its running size; its sign; an average
# of the iterates; an estimate of the curvature; products of whole matrices; the gradient at a point near the weights.
Method = Literal["gradient", "adaptive", "sign", "averaged", "curvature", "layer-wise", "matrix", "perturbed"]

# What the step of an element depends on: that element; also sums over its tensor; its whole matrix; the loss, which the
# step evaluates itself. Or the step is that of another optimizer, in a wrapper.
Kind = Literal["elementwise", "sums", "matrix", "closure", "wrapper"]

# What the learning rate should do: warm up and decay; warm up and stay constant, where averages of the iterates replace
# the decay; or be constant, where the rule chooses its step sizes itself.
Schedule = Literal["decay", "warmup", "constant"]

# The length of the step of an element: in proportion to its gradient, so that a loss twice as large moves weights twice
# as far; near lr, whatever the gradient's size; or found by the rule in another way, also whatever the gradient's size.
Length = Literal["gradient", "lr", "own"]
_LENGTH: Mapping[Method, Length] = MappingProxyType(
    {"gradient": "gradient", "perturbed": "gradient", "adaptive": "lr", "sign": "lr"}
)

# Of Adam and AdamW, from 199 published configurations (the project's recipes.json), rounded. Fine-tuning: the 10th to
# the 75th percentile of 21 runs of AdamW. The defaults stand in the files of both.
PUBLISHED_ADAM: Mapping[str, tuple[float, float]] = MappingProxyType({
    "transformer": (6e-5, 1e-3), "vit": (5e-4, 4e-3), "fine-tuning": (1e-5, 1e-4), "lora": (1e-4, 5e-4),
    "gan": (1e-4, 4e-4), "rl": (1e-4, 1e-3), "gnn": (1e-3, 1e-2), "diffusion": (1e-4, 3e-4),
})  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """Facts of one optimizer, read by `compare`, the advisor, the command line and the documentation.

    Args:
        lr: learning rates worth trying, (low, high), by model family; "default" where a family is not named.
        source: the sources of these ranges and of the judgments below.
        compare_options: constructor options `compare` uses unless told otherwise.
        method: what the step is computed from.
        kind: what the step of an element depends on.
        schedule: what the learning rate should do over a run.
        lr_against_adamw: the usual learning rate as a multiple of AdamW's on the same model; None where there is no
            usual ratio.
        length: what the length of an element's step is in proportion to; None: that of the method ("gradient" for
            gradient and perturbed, "lr" for adaptive and sign, "own" for the others).
        eps_bounds: eps is added to the running size that divides the gradient (or is the least value of this size), so
            that steps shrink with gradients below eps; None: for adaptive methods.
        published: learning rates of published runs, (low, high), by kind of training, "default" among them: where
            there are enough of them to say more than `lr`.
        needs_closure: the step evaluates the loss itself.
        needs_warmup: starting at the full learning rate usually fails on transformers.
        needs_large_batch: loses more than AdamW does when batches are small.
        matrices_only: made for matrices of weights; other parameters need another optimizer.
        needs_modes: `.train()` before training and `.eval()` before evaluation.
    """

    lr: Mapping[str, tuple[float, float]]
    source: str
    compare_options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    method: Method = "adaptive"
    kind: Kind = "elementwise"
    schedule: Schedule = "decay"
    lr_against_adamw: float | None = 1.0
    length: Length | None = None
    eps_bounds: bool | None = None
    published: Mapping[str, tuple[float, float]] | None = None
    needs_closure: bool = False
    needs_warmup: bool = False
    needs_large_batch: bool = False
    matrices_only: bool = False
    needs_modes: bool = False

    def lr_range(self, family: str | None = None) -> tuple[float, float]:
        """The learning rates worth trying for a model family ("cnn", "transformer", "toy"), (low, high)."""
        return self.lr.get(family or "default", self.lr["default"])

    def usual_lr(self, kind: str | None = None) -> tuple[float, float]:
        """The learning rates of published runs, (low, high), for a kind of training where it is known; else `lr`."""
        spans = self.published or {"default": self.lr["default"]}
        return spans.get(kind or "default", spans["default"])

    def step_length(self) -> Length:
        """What the length of an element's step is in proportion to: "gradient", "lr" or "own"."""
        return self.length or _LENGTH.get(self.method, "own")

    def eps_bounds_steps(self) -> bool:
        """Whether steps shrink with gradients that are below eps."""
        return self.method == "adaptive" if self.eps_bounds is None else self.eps_bounds

    def needs(self) -> list[str]:
        """What the optimizer needs in addition to gradients: closure, warmup, large_batch, matrices, modes."""
        words = {
            "closure": self.needs_closure,
            "warmup": self.needs_warmup,
            "large_batch": self.needs_large_batch,
            "matrices": self.matrices_only,
            "modes": self.needs_modes,
        }
        return [word for word, needed in words.items() if needed]


def state_bytes(optimizer: type[Any], shape: Sequence[int] = (1024, 1024), **options: Any) -> float:
    """Bytes of state per element of a float32 matrix, from the declared slots: 8 for `AdamW`, 4 for `Lion`.

    `options` are those of the constructor. With `state="int8"` the scales of the blocks are included. An optimizer
    without an update rule (L-BFGS, wrappers) has a method `bytes_per_element`.
    """
    if hasattr(optimizer, "bytes_per_element"):
        return optimizer.bytes_per_element(**options)
    import torch

    from stepwell.engine.bytes import of_slot

    group = optimizer([("weight", torch.zeros(2, 2))], **options).param_groups[0]
    kept = [slot for slot in optimizer.slots if slot.exists(group) and not slot.is_number]
    return sum(of_slot(slot, slot.format(group, group["state"]), shape, group) for slot in kept) / math.prod(shape)


def record(optimizer: type[Any], family: str | None = None) -> dict[str, Any]:
    """All facts of an optimizer as plain values: what `stepwell optimizers --json` prints."""
    facts: Facts = optimizer.facts
    low, high = facts.lr_range(family)
    lines = (optimizer.__doc__ or "").strip().splitlines()
    return {
        "name": optimizer.__name__,
        "summary": lines[0].strip() if lines else "",
        "method": facts.method,
        "kind": facts.kind,
        "schedule": facts.schedule,
        "lr_low": low,
        "lr_high": high,
        "lr_by_family": {name: list(span) for name, span in facts.lr.items()},
        "lr_against_adamw": facts.lr_against_adamw,
        "state_bytes": state_bytes(optimizer, **facts.compare_options),
        "slots": [slot.name for slot in optimizer.slots],
        "decay": optimizer.decay,
        "needs": facts.needs(),
        "compare_options": dict(facts.compare_options),
        "source": facts.source,
    }
