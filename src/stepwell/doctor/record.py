"""What a doctor has seen of a run: facts, events and series. Checks read it; only the recorders write it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Parameter:
    """One tensor of the models.

    Attributes:
        name: its name in the model, with the number of the model in front where there are several: "1.conv.weight".
        shape, numel, dtype: as torch has them.
        module: the name and class of the module that holds it.
        trainable: requires_grad when the doctor came.
        optimizer: the number of the optimizer that has it, or None.
        group: the number of its group.
        fresh: whether its values look like those that torch's own initialization draws; None where that is not known.
        scale: the RMS of its values at the start, in units of 1/sqrt(fan-in); None for vectors.
        constant: whether all of its values were the same at the start.
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    dtype: Any
    module: str
    kind: str
    trainable: bool
    optimizer: int | None = None
    group: int = 0
    fresh: bool | None = None
    scale: float | None = None
    constant: bool = False


@dataclass(eq=False)
class Sample:
    """What was measured of every parameter around one update: RMS values, None where there is none.

    Attributes:
        step: the number of the update, from 1.
        grad: of the gradient that the optimizer used.
        weight: before the update. update: of the change. unchanged: the share of elements whose update was lost.
        norm: of all gradients together. cosine: of this gradient and that of the sample before, on fixed coordinates.
    """

    step: int
    optimizer: int = 0
    grad: list[float | None] = field(default_factory=list)
    weight: list[float | None] = field(default_factory=list)
    update: list[float | None] = field(default_factory=list)
    unchanged: list[float | None] = field(default_factory=list)
    norm: float = math.nan
    cosine: float | None = None
    shrunk: float | None = None  # gradients at the update over gradients as they were computed: what clipping has left
    previous: int | None = None  # the step of the gradient that the cosine compares with


@dataclass(eq=False)
class Probe:
    """The loss of one batch along the update of this batch: `losses[k]` at k times the update.

    >>> probe = Probe(3, 0, {0.0: 2.0, 1.0: 2.5, 0.1: 1.9})
    >>> probe.rises, probe.best
    (True, 0.1)
    """

    step: int
    optimizer: int
    losses: dict[float, float]

    @property
    def rises(self) -> bool:
        """Whether the whole update makes the loss of its own batch larger."""
        start, end = self.losses[0.0], self.losses[1.0]
        return not end <= start + 1e-3 * abs(start)

    @property
    def best(self) -> float:
        """The multiple with the lowest loss."""
        finite = {k: loss for k, loss in self.losses.items() if math.isfinite(loss)}
        return min(finite, key=lambda k: finite[k]) if finite else math.nan


@dataclass(eq=False)
class LossFacts:
    """How a loss is computed, as its graph and the calls before it say.

    Attributes:
        function: the loss function: "cross_entropy", "nll_loss", "mse_loss", "binary_cross_entropy" ..., "" if unknown.
        before: what computed its input: "softmax", "log_softmax", "sigmoid", "linear" ..., "" if unknown.
        broadcast: the shapes of input and target where these differ and were expanded, or None.
        divided: whether the last operation multiplies or divides by one value; factor: by which number, if known.
        input_range: lowest and highest value of the input. logsumexp: the largest |logsumexp| of its rows.
        one_hot: whether the target is one-hot or 0 and 1 only.
        whole: whether the loss is this function alone, and not a sum of several terms.
        roots: names of operations that may have no finite value or slope: "sqrt", "log", "div", "norm".
    """

    function: str = ""
    before: str = ""
    broadcast: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    divided: bool = False
    factor: float | None = None
    input_range: tuple[float, float] | None = None
    logsumexp: float | None = None
    one_hot: bool = False
    hard: tuple[str, ...] = ()
    requires_grad: bool = True
    reached: frozenset[int] = frozenset()
    classes: int = 0
    whole: bool = True


@dataclass(eq=False)
class BatchFacts:
    """One batch: sizes and moments of inputs and targets.

    Attributes:
        size: the first dimension of the input.
        mean, std, low, high: of a floating input. finite: whether all inputs are. ratio: the largest over the smallest
            deviation of its columns.
        labels: counts of integer targets. target_mean, target_std: of floating ones. target_size: how many targets.
        alike: whether all rows of a floating target with several columns are the same.
        copied: the column of the input that is the target, or -1 where the whole input is the target; None if none is.
    """

    step: int
    size: int = 0
    kind: str = "float"
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0
    spread: float = 1.0
    finite: bool = True
    labels: dict[int, int] | None = None
    target_mean: float | None = None
    target_std: float | None = None
    target_high: float | None = None
    target_size: int = 0
    copied: int | None = None
    alike: bool = False


@dataclass(eq=False)
class ScheduleFacts:
    """A scheduler of torch that drives an optimizer: its class, how often it was stepped, and its horizon."""

    kind: str
    optimizer: int
    calls: int
    horizon: int | None
    before_first_step: bool = False


@dataclass(eq=False)
class SamplerFacts:
    """The distributed sampler of the training data: its epoch, and how many samples this process gets in one."""

    shuffles: bool
    epoch: int
    samples: int


@dataclass(eq=False)
class Series:
    """The values of one loss: `doctor.loss` called at one place of the script."""

    place: str
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    facts: LossFacts | None = None
    detached: int = 0  # losses in a row that depend on no parameter

    def smooth(self, size: int = 10) -> list[float]:
        """Means over windows that follow one another, of finite values."""
        finite = [value for value in self.values if math.isfinite(value)]
        return [sum(finite[i : i + size]) / size for i in range(0, len(finite) - size + 1, size)]


@dataclass(eq=False)
class NotFinite:
    """Where the first value that is not finite came from.

    `origin`: "input", "module", "loss", "gradient", "weight", or "unknown" for a module or the loss.
    """

    step: int
    origin: str
    where: str = ""
    hard: tuple[str, ...] = ()


@dataclass(eq=False)
class Record:
    """All of it. Steps count the updates of the first optimizer."""

    parameters: list[Parameter] = field(default_factory=list)
    optimizers: list[str] = field(default_factory=list)
    groups: list[list[dict[str, Any]]] = field(default_factory=list)  # of each optimizer: hyperparameters, now
    first_groups: list[list[dict[str, Any]]] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)  # of each optimizer
    lr: list[list[tuple[float, ...]]] = field(default_factory=list)  # of each optimizer: per update
    series: list[Series] = field(default_factory=list)
    vals: list[tuple[int, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    batches: list[BatchFacts] = field(default_factory=list)
    schedules: list[ScheduleFacts] = field(default_factory=list)
    sampler: SamplerFacts | None = None
    norms: list[list[tuple[int, float]]] = field(default_factory=list)  # of each optimizer: (step, norm)
    backwards: list[int] = field(default_factory=list)  # backward passes before each update of the first optimizer
    seeds: deque[float] = field(default_factory=lambda: deque(maxlen=64))  # the gradient of each loss at its root
    stale: int = 0  # updates in a row that used gradients of the update before
    cleared: int = 0  # updates in a row whose gradients were gone
    remade: int = 0  # optimizers that were made again for the same parameters
    eval_in_training: int = 0  # losses in a row whose model was in eval mode
    training_in_evaluation: int = 0  # evaluations in training mode
    evaluations: int = 0
    sensitive: tuple[str, ...] = ()  # modules that act differently in the two modes
    attention: bool = False
    recurrent: bool = False
    reached: list[int] = field(default_factory=list)  # of each parameter: how often a loss depended on it
    graphs: int = 0  # losses whose graph was looked at
    ran: dict[str, str] = field(default_factory=dict)  # module -> "grad" or "no_grad": how it ran in the first steps
    dead: list[tuple[int, float, float]] = field(
        default_factory=list
    )  # (step, share of dead units, of the worst layer)
    not_finite: NotFinite | None = None
    half: bool = False  # activations or weights in fp16 without a scaler
    scaled: bool = False  # a scaler multiplies the loss
    ended: bool = False
    left_out: tuple[str, ...] = ()  # what is not looked at in a run of this kind

    @property
    def step(self) -> int:
        return self.updates[0] if self.updates else 0

    @property
    def main(self) -> Series | None:
        """The loss that is told most often."""
        return max(self.series, key=lambda one: len(one.values), default=None)

    def samples_of(self, optimizer: int = 0) -> Iterator[Sample]:
        return (one for one in self.samples if one.optimizer == optimizer)

    def probes_of(self, optimizer: int = 0) -> list[Probe]:
        return [one for one in self.probes if one.optimizer == optimizer]

    def names(self, numbers: list[int], most: int = 4) -> str:
        """The names of some parameters, in a sentence."""
        found = [self.parameters[number].name for number in numbers]
        return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def median(values: list[float]) -> float:
    """The middle one; nan of nothing."""
    ordered = sorted(value for value in values if not math.isnan(value))
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
