"""What the series of a record say together. The thresholds were calibrated on `bench/doctor/tasks`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stepwell.doctor.record import Probe, Record, Sample, median
from stepwell.optimizers import TABLE
from stepwell.optimizers.declared import declared

ENORMOUS = 0.5  # of a weight, changed in one of the first updates: 0.01 to 0.42 in healthy runs
LARGE = 0.12
_BOUNDED = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits")  # their slope is at most 1 for an output
STEEP = 1e5  # of the gradient, in units of the loss over the norm of the weights
TINY = 1.2e-3  # of a weight, changed in one update
AGREE = 0.2  # the cosine of two gradients that follow one another
FAR_GAIN = 0.03  # of the loss of a batch, by the best multiple of an update
SMALL_GAIN = 0.007  # of the loss of a batch, by one update


def ignores_scale(optimizer: str) -> bool:
    """Whether the class of this name, here or in torch, makes the same steps of gradients of any scale."""
    if optimizer not in TABLE or declared(optimizer).kind in ("closure", "wrapper"):
        return False  # a wrapper is as what is inside
    return declared(optimizer).step_length() != "gradient"


def entropy(counts: Mapping[int, int]) -> float:
    """In nats."""
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values() if count)


def ratios(record: Record, sample: Sample) -> list[float]:
    """The change over the weight, of each matrix; a weight that begins at or near 0 counts as one of a fifth of the
    usual size, so that a matrix that grows out of nothing is no alarm."""
    found = []
    for n, one in enumerate(record.parameters):
        weight, update = sample.weight[n], sample.update[n]
        if len(one.shape) > 1 and weight is not None and update is not None:
            usual = 0.2 / math.sqrt(max(one.numel / one.shape[0], 1)) if one.scale is not None else 0.02
            found.append(update / max(weight, usual))
    return found


def early_ratio(record: Record, number: int = 0) -> float:
    """The change over the weight of the median matrix, in the largest of the first forty updates (of a warmup, too)."""
    found = [median(ratios(record, one)) for one in record.samples_of(number) if one.step <= 40]
    return max((one for one in found if not math.isnan(one)), default=math.nan)


def ratio(record: Record, number: int = 0, first: int = 0, last: int = 10**9) -> float:
    """The median, over samples and matrices, of change over weight."""
    return median([median(ratios(record, one)) for one in record.samples_of(number) if first <= one.step <= last])


def start_of(record: Record) -> float:
    """The loss at the start: the median of the first values."""
    main = record.main
    return main.values[0] if main is not None and main.values else math.nan


def now_of(record: Record, size: int = 10) -> float:
    """The loss now: the median of the last values; infinite where these are not finite."""
    main = record.main
    if main is None or not main.values:
        return math.nan
    last = main.values[-size:]
    finite = [value for value in last if math.isfinite(value)]
    return median(finite) if len(finite) > len(last) // 2 else math.inf


def grown(record: Record) -> bool:
    """Whether a loss or weight that is not finite was the end of a growth, and not a single event."""
    samples = [one for one in record.samples if any(value is not None for value in one.weight)]
    if any(one.rises for one in record.probes[-2:]) or any(
        early_ratio(record, number) > ENORMOUS for number in range(len(record.optimizers))
    ):
        return True
    for sample in samples[-4:]:
        found = ratios(record, sample)
        if max((value for value in found if not math.isnan(value)), default=0.0) > 0.5:
            return True
    norms = [norm for rows in record.norms for _, norm in rows if norm > 0 and math.isfinite(norm)]
    if len(norms) >= 2 and norms[-1] > 100 * min(norms[:3]):
        return True
    main = record.main
    finite = [value for value in main.values if math.isfinite(value)] if main is not None else []
    return len(finite) >= 2 and max(finite[-3:]) > 5 * abs(finite[0]) + 1e-12


def overshoots(probes: Sequence[Probe]) -> bool:
    """Whether most updates raise the loss of their own batch, and shorter ones would lower it."""
    rising = [one for one in probes if one.rises]
    return len(rising) >= 2 and len(rising) >= 0.6 * len(probes)


def warms_up(record: Record) -> bool:
    """Whether the learning rate began below its highest value."""
    rates = [max(row) for row in record.lr[0]] if record.lr else []
    return bool(rates) and rates[0] < 0.7 * max(rates)


def too_high(record: Record, number: int) -> str:
    """What says that the updates are too long, or ""."""
    early, size = early_ratio(record, number), ratio(record, number)
    main, start, now = record.main, start_of(record), now_of(record)
    rose = record.updates[number] >= 4 and not now < 1.2 * abs(start)
    stays = record.updates[number] >= 40 and not now < 0.25 * start and record.optimizers[number] != "Adagrad"
    if (early > 0.4 and rose) or (early > ENORMOUS and stays):
        return (
            f"weights changed by up to {early:.2g} of their size in one of the first updates, and the loss went from "
            f"{start:.3g} to {now:.3g}"
        )
    probes = [one for one in record.probes_of(number) if one.step > 2 or len(record.probes_of(number)) < 3]
    recent = probes[-6:]
    if overshoots(recent) and early > 0.1 and not now < 0.3 * start:
        rising = [one for one in recent if one.rises]
        one = rising[-1]
        return (
            f"the update raises the loss of its own batch in {len(rising)} of {len(recent)} probes (from "
            f"{one.losses[0.0]:.3g} to {one.losses[1.0]:.3g} at update {one.step}); weights change by {size:.2g} of "
            "their size in one update"
        )
    bad = record.not_finite
    if bad is not None and bad.origin != "input" and grown(record):
        return (
            f"the weights grew until they were not finite, at update {bad.step}; {100 * size:.2g} % of a weight "
            "changed in one update"
        )
    if main is None or len(record.series) > 1 or number:
        return ""
    floor = marginal(record, main.facts.function) if main.facts is not None else None
    if early > LARGE and len(main.values) >= 80 and floor is not None and 0.9 * floor < now < 2 * floor:
        return (
            f"weights changed by up to {early:.2g} of their size in one of the first updates; the loss is {now:.3g} "
            f"after {len(main.values)} batches, no better than the frequencies of the labels ({floor:.3g})"
        )
    if size > 0.3 and record.step >= (40 if record.optimizers[number] == "Adagrad" else 10) and not now < 0.8 * start:
        return f"{100 * size:.2g} % of a weight changes in one update, and the loss went from {start:.3g} to {now:.3g}"
    return ""


def too_low(record: Record, number: int) -> str:
    """What says that the updates are too short, or ""."""
    rates = [max(row) for row in record.lr[number]]
    if not rates or any(one.calls == 0 and one.optimizer == number for one in record.schedules):
        return ""  # a schedule that nobody steps is the reason
    rising = len(rates) > 3 and rates[-1] > 1.02 * rates[-3]
    probes = [one for one in record.probes_of(number) if one.step >= 4 and rates[one.step - 1] > 0.3 * max(rates)][-4:]
    if len(probes) < 3 or rising:
        return ""
    far_gains = [(one.losses[0.0] - one.losses[one.best]) / abs(one.losses[0.0]) for one in probes if one.losses[0.0]]
    begun = now_of(record) > 0.3 * start_of(record)  # else it has learned already
    if len(record.series) == 1 and begun and ratio(record, number) < 2e-4 and median([p.best for p in probes]) >= 1000:
        one = probes[-1]
        return (
            f"the loss of a batch falls from {one.losses[0.0]:.6g} to {one.losses[1.0]:.6g} by the update that was "
            f"made, and to {one.losses[one.best]:.6g} by {one.best:.0f} times this update"
        )
    needed = FAR_GAIN if median([one.best for one in probes]) < 300 else 0.3 * FAR_GAIN
    if len(record.series) > 1 or median(far_gains) < needed:
        return ""  # two losses that pull against each other, or a batch that no longer update would help
    cosines = [
        one.cosine for one in record.samples_of(number) if one.cosine is not None and one.previous == one.step - 1
    ]
    if cosines and median(cosines) < AGREE:
        return ""  # a longer step would only learn this batch by heart
    gains = [(one.losses[0.0] - one.losses[1.0]) / abs(one.losses[0.0]) for one in probes if one.losses[0.0]]
    far = sum(one.best >= 30 for one in probes)
    if not ratio(record, number) < TINY:
        return ""
    if not gains or median(gains) > SMALL_GAIN or far < len(probes) - 1 or now_of(record) < 0.6 * start_of(record):
        return ""
    one = next(one for one in reversed(probes) if one.best >= 30)
    return (
        f"the loss of a batch falls on and on along its update: from {one.losses[0.0]:.4g} to {one.losses[1.0]:.4g} "
        f"at the update that was made, and to {one.losses[one.best]:.4g} at {one.best:.0f} times its length"
    )


def needs_warmup(record: Record) -> str:
    """What says that the first updates are too long and later ones are not, or ""."""
    if not record.attention or "Adam" not in record.optimizers[0] or warms_up(record):
        return ""
    early = [one for one in record.probes_of() if 4 <= one.step <= 20]
    if (
        len(early) < 4
        or not all(one.best <= 3 for one in early)
        or sum(one.best <= 1 for one in early) < len(early) - 1
    ):
        return ""
    return (
        f"in {sum(one.best <= 1 for one in early)} of the first {len(early)} probes a longer update would not lower "
        f"the loss of its batch any more, at the full rate {record.lr[0][0][0]:.3g} from the first update on"
    )


def decay_share(record: Record) -> tuple[float, float, float, float] | None:
    """(share of the decay in the update, weight now over weight at the start, decay, rate) of the median matrix."""
    if not record.groups or not record.groups[0]:
        return None
    name, group = record.optimizers[0], record.groups[0][0]
    decay = group.get("weight_decay", 0)
    if not decay or not record.lr[0] or _shrinks(record, 5e-3):
        return None  # where no gradient comes, the decay is all that is left
    samples = [one for one in record.samples_of(0) if any(w is not None for w in one.weight)]
    rate = max(record.lr[0][-1])
    coupled = name in ("SGD", "Adam", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax")
    if rate * decay >= 0.05 and decay >= 0.5 and (not coupled or name == "SGD") and len(samples) >= 3:
        return 1.0, 1.0 - min(rate * decay, 1.0), float(decay), rate  # of every weight, in every update
    momentum = group.get("momentum", 0.0)
    pulled = rate * decay * record.updates[0] / (1 - momentum if isinstance(momentum, float) and momentum < 1 else 1.0)
    if len(samples) < 8 or (pulled < 1.0 and (not coupled or name == "SGD")):
        return None  # decay alone cannot have changed the weights by much so far
    shares, shrunk = [], []
    first, recent = samples[0], samples[-6:]
    for n, one in enumerate(record.parameters):
        begun = first.weight[n]
        if len(one.shape) < 2 or not begun:
            continue
        parts = []
        for sample in recent:
            weight, grad, update = sample.weight[n], sample.grad[n], sample.update[n]
            if weight and update:
                part = (
                    decay * weight / (decay * weight + (grad or 0.0))
                    if coupled
                    else min(rate * decay * weight / update, 1.0)
                )
                parts.append(part)
        if parts:
            shares.append(median(parts))
            shrunk.append((recent[-1].weight[n] or 0.0) / begun)
    if not shares:
        return None
    start, now = start_of(record), now_of(record)
    if median(shrunk) > 0.6 or (now < 0.85 * start and median(shrunk) > 0.3):
        return None
    return median(shares), median(shrunk), float(decay), rate


def exploding(record: Record) -> str:
    """What says that gradients explode, or ""."""
    for number, rows in enumerate(record.norms):
        if early_ratio(record, number) > 0.15:
            continue  # the updates are large, whatever the gradients
        norms = [norm for _, norm in rows if norm > 0 or math.isnan(norm)]
        finite = [norm for norm in norms if math.isfinite(norm)]
        if not finite:
            continue
        base = median(finite[:2])
        steep = _steepness(record, number)
        if steep > STEEP:
            return (
                f"the gradient norm is {median(finite[-10:]):.3g}: a change of all weights by 1 % along the gradient "
                f"would change the loss by {0.01 * steep:.2g} times its size"
            )
        top = max(finite[:30])
        bounded = record.main is not None and record.main.facts is not None and record.main.facts.function in _BOUNDED
        if (base > 100 and ratio_of_layers(record) > 10) or (bounded and base > 3e3) or (top > 1e3 * base and top > 10):
            then = " and was not finite then" if len(finite) < len(norms) else ""
            return f"the gradient norm was {base:.3g} at first, and up to {top:.3g} later{then}"
    return ""


def _steepness(record: Record, number: int) -> float:
    """The norm of the gradient, in units of the loss over the norm of the weights: median over the first samples."""
    main = record.main
    if main is None or len(record.series) > 1:
        return 0.0
    found = []
    losses = dict(zip(main.steps, main.values, strict=True))
    for sample in list(record.samples_of(number))[:10]:
        loss = abs(losses.get(sample.step, math.nan))
        weights = math.sqrt(sum((weight or 0.0) ** 2 * one.numel
                                for weight, one in zip(sample.weight, record.parameters, strict=True)))  # fmt: skip
        if math.isfinite(loss) and loss > 1e-6 and math.isfinite(sample.norm):
            found.append(sample.norm * weights / loss)
    return median(found) if len(found) >= 3 else 0.0


def ratio_of_layers(record: Record) -> float:
    """RMS of the gradients of the first third of the matrices over that of the last third."""
    matrices = [n for n, one in enumerate(record.parameters) if len(one.shape) > 1]
    if len(matrices) < 3:
        return 1.0
    third = max(len(matrices) // 3, 1)
    found = []
    for sample in record.samples[-10:]:
        first = [sample.grad[n] for n in matrices[:third] if sample.grad[n]]
        last = [sample.grad[n] for n in matrices[-third:] if sample.grad[n]]
        if first and last:
            found.append(median([g for g in first if g]) / median([g for g in last if g]))
    return median(found) if found else 1.0


def vanishing(record: Record) -> str:
    """What says that gradients vanish toward the first layers, or ""."""
    share = _shrinks(record, 5e-4)
    return (
        f"relative to the weights the gradients of the first matrices are {share:.2g} times those of the last"
        if share
        else ""
    )


def _shrinks(record: Record, least: float) -> float:
    """The gradients of the first matrices over those of the last, relative to the weights, where that is below `least`
    and the last matrices learn; 0.0 else."""
    matrices = [n for n, one in enumerate(record.parameters)
                if len(one.shape) > 1 and one.trainable and one.kind not in ("Embedding", "EmbeddingBag")]  # fmt: skip
    if len(matrices) < 3:
        return 0.0
    third = max(len(matrices) // 3, 1)
    found, moved = [], []
    for sample in record.samples[-8:]:
        last_ones = [(sample.update[n] or 0.0) / max(sample.weight[n] or 0.0, 1e-12) for n in matrices[-third:]
                     if sample.update[n] is not None and sample.weight[n]]  # fmt: skip
        moved += [median(last_ones)] if last_ones else []
        rows = [(sample.grad[n] or 0.0) / max(sample.weight[n] or 0.0, 1e-12) for n in matrices
                if sample.grad[n] is not None and sample.weight[n]]  # fmt: skip
        if len(rows) >= 3:
            first, last = median(rows[:third]), median(rows[-third:])
            if last > 0:
                found.append(first / last)
    learns = median(moved) > 2e-4  # with updates of a sensible size
    return max(median(found), 1e-12) if len(found) >= 4 and median(found) < least and learns else 0.0


LATE = 300  # batches: some tasks stand still that long before they are understood, as brackets and parities do


def unrelated(record: Record) -> str:
    """What says that labels do not belong to their inputs, or ""."""
    main = record.main
    if main is None or len(record.series) > 1 or main.facts is None or not main.facts.whole:
        return ""
    values = [value for value in main.values if math.isfinite(value)]
    if len(values) < 60 or _shrinks(record, 5e-3):
        return ""
    floor = marginal(record, main.facts.function)
    if floor is None or floor <= 0:
        return ""
    now = median(values[-20:])
    probes = record.probes_of()[-4:]
    if len(probes) > 1 and median([one.best for one in probes]) >= 100:
        return ""  # the updates are too short to learn anything
    if any(one.calls == 0 for one in record.schedules):
        return ""  # a schedule that nobody steps is the reason
    if early_ratio(record) > LARGE:
        return ""  # the updates are too long to learn anything
    falling = not probes or sum(not one.rises for one in probes) >= 0.5 * len(probes)
    vals = [value for _, value in record.vals]
    late = record.ended or len(values) >= LATE
    if late and now > 0.93 * floor and now < 1.6 * floor and falling:
        return (
            f"the loss is {now:.3g} after {len(values)} batches, and "
            f"predicting the frequencies of the labels gives {floor:.3g}"
        )
    if len(vals) >= 3 and min(vals) > 0.97 * floor and vals[-1] > 1.02 * vals[0] and now < 0.9 * floor:
        return (
            f"the best validation is {min(vals):.3g}, and predicting the frequencies of the labels gives {floor:.3g}: "
            "what the training learns by heart does not hold for other data"
        )
    return ""


def marginal(record: Record, function: str) -> float | None:
    """The loss of the best constant answer."""
    if function in ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"):
        whole: dict[int, int] = {}
        for one in record.batches:
            for label, count in (one.labels or {}).items():
                whole[label] = whole.get(label, 0) + count
        return entropy(whole) if len(whole) >= 2 else None
    if function == "mse_loss":
        means = [one.target_mean for one in record.batches if one.target_mean is not None]
        stds = [one.target_std for one in record.batches if one.target_std is not None]
        if len(means) < 5 or len(stds) != len(means):
            return None
        middle = sum(means) / len(means)
        return sum((m - middle) ** 2 for m in means) / len(means) + sum(s * s for s in stds) / len(stds)
    return None


def diverged(record: Record) -> str:
    """What says that the run diverges, or ""."""
    main = record.main
    if main is None or len(record.series) > 1 or len(record.optimizers) > 1:
        return ""  # two networks against each other have no loss that must fall
    values = [value for value in main.values if math.isfinite(value)]
    if len(values) < 40:
        return ""
    start, now = median(values[:10]), median(values[-15:])
    if start > 0 and now > 3 * start:
        return f"the loss went from {start:.3g} to {now:.3g}"
    return ""
