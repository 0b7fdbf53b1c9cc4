"""The blocks of docs/memory.md run."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import stepwell as sw
from tests.step.small import data, model

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/memory.md").read_text(), re.S)


def test_every_block_runs() -> None:
    network: Any = model()
    network.generate = lambda prompts: prompts
    x, y = data()
    names: dict[str, Any] = {"sw": sw, "model": network, "loss_fn": nn.functional.cross_entropy, "prompts": []}
    names["loader"] = [SimpleNamespace(x=x, y=y)] * 3
    release, offload, state_device = BLOCKS
    exec(release, names)
    assert names["step"].number == 3
    step = names["step"] = sw.Step(sw.AdamW(network.named_parameters()), model=network)
    names |= {"optimizer": step.optimizer, "loss": nn.functional.cross_entropy(network(x), y)}
    exec(offload, names)
    assert step.number == 1
    if torch.cuda.is_available():
        network.cuda()
        exec(state_device, names)
    else:
        with pytest.raises(sw.UsageError, match="state_device='cpu' is for parameters on a GPU"):
            exec(state_device, names)
