"""The recorder: fills the record from hooks, losses and updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stepwell.doctor import batches, losses, samplers, schedulers
from stepwell.doctor.first import parameters, sensitive
from stepwell.doctor.forwards import EARLY, PROBES, Forwards
from stepwell.doctor.graph import Graph
from stepwell.doctor.hooks import FIRST, Hooks, Staleness
from stepwell.doctor.line import MOST_BYTES, probe
from stepwell.doctor.measure import Around, Coordinates
from stepwell.doctor.not_finite import hunt
from stepwell.doctor.processes import kind, left_out, rank, sharded
from stepwell.doctor.record import NotFinite, Record, Series
from stepwell.doctor.unread import AT_ONCE, Unread

SCALED = 128.0  # the gradient of a loss at itself, above which a scaler has multiplied it


class Watch(Forwards):
    """Watches models and optimizers from now on. `record` is what was seen."""

    def __init__(self, models: Sequence[nn.Module], optimizers: Sequence[Any], probes: bool = True) -> None:
        self.models, self.optimizers = list(models), list(optimizers)
        self.record = Record()
        found, self.tensors = parameters(self.models, self.optimizers)
        self.record.parameters = found
        self.shards = sharded(self.models, self.tensors)
        self.probes, self.averaged = probes and not self.shards, rank() is not None  # averaged: gradients, after hooks
        self.record.reached = [0] * len(found)
        self.numbers = {id(tensor): number for number, tensor in enumerate(self.tensors)}
        self.sensitive = sensitive(self.models)
        self.record.sensitive = tuple(name for name, _ in self.sensitive)
        names = [kind(module) for model in self.models for module in model.modules()]
        self.record.attention = (
            any("Attention" in name or "Transformer" in name for name in names)
            or sum("LayerNorm" in name or "RMSNorm" in name for name in names) > 2
        )
        self.record.recurrent = any(name in ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell") for name in names)
        self.coordinates = Coordinates(self.tensors)
        self.hooks = Hooks()
        self.unread = Unread()
        self.busy = False  # while the doctor runs the model itself
        self.depth = 0
        self.program: Any = None
        self.past: Any = None  # the program of the last update, where its loss is told after it
        self.late: tuple[int, list[int], list[torch.Tensor]] | None = None  # an update that could be probed then
        self.told: list[tuple[torch.Tensor, float, Any, frozenset[int]]] = []  # losses since the last update
        self.around: dict[int, Around] = {}
        self.before: dict[int, list[torch.Tensor]] = {}
        self.last_grads: dict[int, tuple[int, dict[int, torch.Tensor]]] = {}
        self.last_inputs: list[torch.Tensor] = []  # of the models, since the last loss
        self.last_call: Any = None
        self.given: tuple[Any, Any] | None = None
        self.forward_mode: bool | None = None  # of the last forward pass with gradients
        self.blind = self.blind_eval = 0  # forward passes without gradients, by mode, since the last update
        self.schedulers: list[tuple[Any, int]] = []
        self.compiled = any(hasattr(module, "_orig_mod") for model in self.models for module in model.modules())
        self.record.left_out = left_out(bool(self.shards), self.compiled)
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)
        self.outermost: set[int] = set()  # ids of modules that are called by no other module
        self.first = True
        self.begun = False  # a forward pass has begun a new batch
        for optimizer in self.optimizers:
            self._adopt(optimizer)
        self._hook()

    # Hooks

    def _hook(self) -> None:
        self.hooks.around_steps(self.before_step, self.after_step)
        self.module_names = {id(module): name for model in self.models for name, module in model.named_modules()}
        for module in {id(m): m for model in self.models for m in model.modules()}.values():
            self.hooks.while_first(module, self.before_forward, self.after_forward)

    def _adopt(self, optimizer: Any) -> int:
        """A number for an optimizer."""
        number = len(self.record.optimizers)
        if number >= len(self.optimizers):
            self.optimizers.append(optimizer)
        record = self.record
        record.optimizers.append(type(optimizer).__name__)
        record.groups.append(_groups(optimizer))
        record.first_groups.append(_groups(optimizer))
        record.updates.append(0)
        record.lr.append([])
        record.norms.append([])
        own = [tensor for group in optimizer.param_groups for tensor in group["params"] if id(tensor) in self.numbers]
        own = [tensor for tensor in own if tensor.requires_grad]
        staleness = Staleness([own[0], own[-1]] if len(own) > 1 else own)
        staleness.hook(self.hooks)
        if not hasattr(self, "staleness"):
            self.staleness: list[Staleness] = []
        self.staleness.append(staleness)
        return number

    # Losses

    def loss(self, loss: Any, place: str) -> None:
        if self.program is not None:
            self.program.close()
        elif self.past is not None and isinstance(loss, torch.Tensor) and self.past.computes(loss):
            self.program = self.past  # the loss is told after its update
        series = next((one for one in self.record.series if one.place == place), None)
        if series is None:
            series = Series(place)
            self.record.series.append(series)
        if not isinstance(loss, torch.Tensor):
            series.steps.append(self.record.step + 1)
            series.values.append(float(loss))
            return
        value = self._value(loss, series)
        for one in self.staleness:
            one.measures = self._samples and not (self.record.scaled or self.averaged)
        self._modes()
        reached: frozenset[int] = frozenset()
        if loss.requires_grad and loss.grad_fn is not None:
            if self._samples:
                reached = self._graph(loss, series)
            if (self.record.step < EARLY or self.record.scaled) and loss.grad_fn is not None:
                loss.register_hook(self._root)
        if not loss.requires_grad or (self._samples and not reached):
            series.detached += 1
        elif self._samples:
            series.detached = 0
        self.told.append((loss, value, self.program, reached))
        if not math.isfinite(value) and self.record.not_finite is None and series.steps[-1] == self.record.step + 1:
            self._hunt(series)
        if self.program is not None and self.program is self.past:  # of an update that was made already
            if self.late is not None:
                self._probe(*self.late)
            self.told = []
        self.program, self.past, self.late, self.begun = None, None, None, False
        if len(self.told) > 64:
            self.told = self.told[-64:]

    def _value(self, loss: torch.Tensor, series: Series) -> float:
        """The number of a loss. From update 20 on those of a GPU are read many at a time, but for probes: 0.0 then."""
        scalar = loss.detach() if loss.numel() == 1 else loss.detach().float().mean()
        step = self.record.step + 1

        late = {"is": False, "sound": True}  # sound: whether the input was finite, which is gone by then

        def told(value: float) -> None:
            series.steps.append(step)
            series.values.append(value)
            if late["is"] and not math.isfinite(value) and self.record.not_finite is None:
                if late["sound"]:
                    self._hunt(series)
                else:
                    self.record.not_finite = NotFinite(step, "input")

        if step > EARLY and scalar.device.type not in AT_ONCE and self.last_inputs:
            x = self.last_inputs[0]
            self.unread.add(torch.isfinite(x).all(), lambda flag: late.update(sound=bool(flag)))
        self.unread.add(scalar, told)
        if len(self.unread) and (step <= EARLY or step in PROBES):
            self.unread.read()
        late["is"] = bool(len(self.unread))
        return 0.0 if late["is"] else series.values[-1]

    def _root(self, grad: torch.Tensor) -> None:
        for one in self.staleness:
            one.begins()
        self.unread.add(grad.float().mean(), self._seed)

    def _seed(self, seed: float) -> None:
        self.record.seeds.append(seed)
        if seed >= SCALED:
            self.record.scaled = True

    def _graph(self, loss: torch.Tensor, series: Series) -> frozenset[int]:
        graph = Graph(loss)
        reached = frozenset(self.numbers[key] for key in graph.leaves if key in self.numbers) | self.shards
        self.record.graphs, found = self.record.graphs + 1, self.record.parameters
        for number in reached:
            self.record.reached[number] += number not in self.shards or found[number].optimizer is not None
        facts, target = losses.facts(loss, self.program, graph)
        facts.reached = reached
        if series.facts is None or facts.function:
            series.facts = facts
        if target is None and self.given is not None:
            target = self.given[1]
        x = self.last_inputs[0] if self.last_inputs else self.given[0] if self.given is not None else None
        if x is not None or target is not None:
            self.record.batches.append(batches.facts(self.record.step + 1, x, target))
            if self.last_call is not None:
                batches.others(self.record.batches[-1], x, self.last_call[1], target)
        for other in self.last_inputs[1:]:
            if other.is_floating_point():
                self.record.batches.append(batches.facts(self.record.step + 1, other, None))
        if not self.record.half:
            output = loss.dtype is torch.float16 or any(
                isinstance(one, torch.Tensor) and one.dtype is torch.float16
                for call in (self.program.calls if self.program is not None else ())
                for one in (call.result if isinstance(call.result, (tuple, list)) else (call.result,))
            )
            self.record.half = output or any(tensor.dtype is torch.float16 for tensor in self.tensors)
        return reached

    def _modes(self) -> None:
        if self.forward_mode is None:
            return
        if self.forward_mode is False and self.sensitive and self.eval_parts:
            self.record.eval_in_training += 1
        else:
            self.record.eval_in_training = 0
        self.forward_mode = None

    def _hunt(self, series: Series) -> None:
        hard = series.facts.hard if series.facts is not None else ()
        self.record.not_finite = NotFinite(self.record.step + 1, *self._origin(), hard=hard)

    def _origin(self) -> tuple[str, str]:
        self.busy = True
        try:
            return hunt(self.last_inputs, self.last_call, self.tensors, self.record.parameters, not self.shards)
        finally:
            self.busy = False

    def val(self, value: float) -> None:
        self.record.vals.append((self.record.step, float(value)))
        self.record.evaluations += 1
        if self.blind and not self.blind_eval:
            self.record.training_in_evaluation += 1
        self.blind = self.blind_eval = 0

    # Updates

    def _number(self, optimizer: Any) -> int | None:
        for number, one in enumerate(self.optimizers):
            if one is optimizer:
                return number
        own = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]} & self.numbers.keys()
        if not own:
            return None
        for number, one in enumerate(self.optimizers):
            theirs = {id(tensor) for group in one.param_groups for tensor in group["params"]}
            if own <= theirs and type(one) is type(optimizer):
                self.optimizers[number] = optimizer
                self.record.remade += 1
                return number
        inner = [getattr(one, "base_optimizer", None) or getattr(one, "optimizer", None) for one in self.optimizers]
        if any(one is optimizer for one in inner):
            return None
        for tensor in own:
            self.record.parameters[self.numbers[tensor]].optimizer = len(self.record.optimizers)
        return self._adopt(optimizer)

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.busy:
            return
        number = self._number(optimizer)
        if number is None:
            return
        if self.program is not None:
            self.program.close()
            self.past, self.program = self.program, None
        if number == 0 and self.record.updates[0] in (0, 20, 60, 150):
            self.schedulers = schedulers.find(self.optimizers)
            if self.record.updates[0]:
                self.record.sampler = samplers.find()
            if self.record.updates[0] == 0:
                self.early = {id(one) for one, _ in self.schedulers if schedulers.calls(one) > 0}
        step = self.record.updates[number] + 1
        probes = bool(self.probes) and step in PROBES and self.bytes <= MOST_BYTES
        own = self._own(optimizer) if self._samples or probes else []
        if self._samples:
            sampled = Around(step, number, own, self.tensors, self.coordinates, self.last_grads.get(number))
            self.around[number] = sampled
            sampled.sample.shrunk = self.staleness[number].shrunk()
            self._is_cleared(number, own, sampled)
        late = self.past is not None and not self.told
        if probes and (late or self._told_for(own)):
            self.before[number] = [self.tensors[n].detach().clone() for n in own]
        if self.first and step == FIRST + 1 and number == 0 and not self.depth:
            self._end_first()

    def _is_cleared(self, number: int, own: list[int], sampled: Around) -> None:
        """Whether backward passes came, and their gradients are gone."""
        gone = all(value is None or value == 0.0 for value in (sampled.sample.grad[n] for n in own))
        some = self.staleness[number].cleared()
        if number == 0:
            self.record.cleared = self.record.cleared + 1 if gone and some else 0

    def _told_for(self, own: list[int]) -> list[tuple[torch.Tensor, float, Any]]:
        """The losses that this update is for, with their calls: one, or those of some micro-batches."""
        found = [one for one in self.told if one[3] & set(own)][:4]
        if any(program is None or not math.isfinite(value) or not program.computes(loss)
               for loss, value, program, _ in found):  # fmt: skip
            return []
        return [(loss, value, program) for loss, value, program, _ in found]

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.busy:
            return
        number = self._number(optimizer)
        if number is None:
            return
        record = self.record
        record.updates[number] += 1
        record.groups[number] = _groups(optimizer)
        record.lr[number].append(tuple(_number_of(group["lr"]) for group in optimizer.param_groups))
        if number == 0:
            record.backwards.append(self.staleness[0].passes)
        stale = self.staleness[number].updated()
        if number == 0 or stale:
            record.stale = record.stale + 1 if stale else 0
        sampled = self.around.pop(number, None)
        if sampled is not None:
            sample = sampled.end()
            record.samples.append(sample)
            record.norms[number].append((sample.step, sample.norm))
            self.last_grads[number] = (sample.step, sampled.grads)
            if not math.isfinite(sample.norm):
                self.unread.read()
            if not math.isfinite(sample.norm) and record.not_finite is None and not record.scaled:
                hard = record.main.facts.hard if record.main is not None and record.main.facts is not None else ()
                origin = ("gradient", self._first_bad(sample))
                if self._origin()[0] == "input":
                    origin = ("input", "")
                record.not_finite = NotFinite(record.updates[number], *origin, hard=hard)
            if len(record.samples) > 4000:
                del record.samples[:1000]
        before = self.before.pop(number, None)
        if before is not None and self.told:
            self._probe(number, self._own(optimizer), before)
        elif before is not None:
            self.late = (number, self._own(optimizer), before)
        if self.told:
            self.past = None
        self.told = []
        self.blind = self.blind_eval = 0
        if number == 0 and (record.updates[0] in (1, 2, 5) or record.updates[0] % 10 == 0):
            record.schedules = [schedulers.facts(one, n) for one, n in self.schedulers]
            self._follow()
            for facts, (one, _) in zip(record.schedules, self.schedulers, strict=True):
                facts.before_first_step = id(one) in getattr(self, "early", ())

    def _follow(self) -> None:
        """Parameters that were thawed or frozen, and groups that were added, since the doctor came."""
        for parameter, tensor in zip(self.record.parameters, self.tensors, strict=True):
            parameter.trainable = tensor.requires_grad
        for number, one in enumerate(self.optimizers):
            for index, group in enumerate(one.param_groups):
                for tensor in group["params"]:
                    place = self.numbers.get(id(tensor))
                    if place is not None and self.record.parameters[place].optimizer is None:
                        self.record.parameters[place].optimizer, self.record.parameters[place].group = number, index

    def _first_bad(self, sample: Any) -> str:
        for number, value in enumerate(sample.grad):
            if value is not None and not math.isfinite(value):
                return self.record.parameters[number].name
        return ""

    def _own(self, optimizer: Any) -> list[int]:
        return [self.numbers[id(t)] for g in optimizer.param_groups for t in g["params"] if id(t) in self.numbers]

    def _probe(self, number: int, own: list[int], before: list[torch.Tensor]) -> None:
        told = self._told_for(own)
        if not told:
            return
        self.busy = True
        try:
            one = probe(told, before, [self.tensors[n] for n in own], self.models, self.record.updates[number], number)
        finally:
            self.busy = False
        if one is not None:
            self.record.probes.append(one)

    def close(self) -> None:
        if self.program is not None:
            self.program.close()
            self.program = None
        self.record.schedules = [schedulers.facts(one, n) for one, n in self.schedulers] or self.record.schedules
        for facts, (one, _) in zip(self.record.schedules, self.schedulers, strict=False):
            facts.before_first_step = id(one) in getattr(self, "early", ())
        self.schedulers = []
        self.hooks.remove()
        self.told, self.last_inputs, self.last_call = [], [], None
        self.past, self.late, self.before = None, None, {}


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    """The hyperparameters of the groups, without their tensors."""
    kept = (int, float, bool, str, tuple, type(None))
    return [{key: value for key, value in group.items() if key != "params" and isinstance(value, kept)}
            for group in optimizer.param_groups]  # fmt: skip


def _number_of(value: Any) -> float:
    return float(value)
