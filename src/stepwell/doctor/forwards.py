"""What a doctor sees of forward passes: modes, inputs, units that are 0, and the calls that a probe makes again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stepwell.doctor import batches
from stepwell.doctor.first import SENSITIVE
from stepwell.doctor.graph import Graph, dead_share
from stepwell.doctor.hooks import Hooks
from stepwell.doctor.program import Program
from stepwell.doctor.record import Record

EARLY = 20  # updates that are all sampled
PROBES = (2, 4, 7, 12, 20, 35, 60, 100, 160, 250, 400, 700, 1200, 2000, 4000, 8000, 16000, 32000)


class Forwards:
    """The part of a watch that looks at forward passes; its other parts set these attributes."""

    record: Record
    models: list[nn.Module]
    sensitive: list[tuple[str, nn.Module]]
    module_names: dict[int, str]
    outermost: set[int]
    hooks: Hooks
    program: Program | None
    forward_mode: bool | None
    eval_parts: bool
    last_inputs: list[torch.Tensor]
    last_call: Any
    busy: bool
    first: bool
    begun: bool
    compiled: bool
    depth: int
    blind: int
    blind_eval: int

    def _end_first(self) -> None:
        """From now on only the modules that a script calls by itself are watched: the models, or parts of them."""
        self.hooks.end_first()
        modules = {id(module): module for model in self.models for module in model.modules()}
        for key in self.outermost or {id(model) for model in self.models}:
            self.hooks.around_forward(modules[key], self.before_forward, self.after_forward)
        self.first = False

    @property
    def _samples(self) -> bool:
        step = self.record.step + 1
        return step <= EARLY or (step <= 200 and step % 4 == 0) or step % 10 == 0 or step in PROBES

    def before_forward(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.busy:
            return
        self.depth += 1
        if self.first:
            name = self.module_names.get(id(module), "")
            if self.record.ran.get(name) != "grad":
                self.record.ran[name] = "grad" if torch.is_grad_enabled() else "no_grad"
        if self.depth > 1:
            return
        self.outermost.add(id(module))
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            self.forward_mode = module.training or bool(self.forward_mode)
            self.eval_parts = self._in_eval() if self._samples or not module.training else False
            if not self.begun:
                self.begun, self.last_inputs = True, []
                self.last_call = (module, args, kwargs)
            x = batches.first_tensor(args, kwargs)
            if x is not None and len(self.last_inputs) < 4 and not x.requires_grad:
                self.last_inputs.append(x)
            if self.program is not None:
                self.program.pause()
            elif self._samples and not self.compiled and not self.busy:
                self.program = Program()
        else:
            if self.program is not None:
                self.program.pause()
            inside = any(one.training for one in module.modules() if isinstance(one, SENSITIVE))
            if inside:
                self.blind += 1
            elif self.sensitive and not module.training:
                self.blind_eval += 1

    def after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.busy:
            return
        self.depth = max(self.depth - 1, 0)
        if self.depth or self.program is None:
            return
        if torch.is_grad_enabled() and output is not None:
            self.program.add(module, args, kwargs, output)
            self._dead(output)
        self.program.resume()

    def _dead(self, output: Any) -> None:
        """Units that are 0 for the whole batch; seen before a backward pass frees what the graph has saved."""
        step = self.record.step + 1
        first = batches.first_tensor((output,))
        if first is None or first.grad_fn is None or (self.record.dead and self.record.dead[-1][0] == step):
            return
        dead = dead_share(Graph(first).relus)
        if dead is not None:
            self.record.dead.append((step, *dead))

    def _in_eval(self) -> bool:
        """Whether all that act differently in training are in eval mode."""
        return bool(self.sensitive) and not any(module.training for _, module in self.sensitive)
