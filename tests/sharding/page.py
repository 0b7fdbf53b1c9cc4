"""The blocks of docs/distributed.md, run one after the other in several processes."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import stepwell as sw

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run() -> dict[str, Any]:
    """What a reader has after all blocks."""
    os.chdir(os.environ["STEPWELL_TEST_FOLDER"])
    generator = torch.Generator().manual_seed(dist.get_rank())
    loader = [(torch.randn(5, 64, generator=generator), torch.randint(10, (5,), generator=generator)) for _ in range(6)]
    names: dict[str, Any] = {
        "torch": torch, "dist": dist, "nn": nn, "sw": sw, "fully_shard": fully_shard, "loader": loader,
    }  # fmt: skip
    torch.manual_seed(0)
    for number, block in enumerate(blocks()):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", module="torch")
            exec(compile(block, f"block {number}", "exec"), names)  # the page's text, which is ours
    return {"epoch": names["epoch"], "number": names["step"].number, "norm": float(names["done"].grad_norm)}
