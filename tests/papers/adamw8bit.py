"""AdamW8bit: AdamW, which keeps its state in 8 bits unless `state` says otherwise. The referee is AdamW's."""

from tests.papers.adamw import trajectory as trajectory

ROWS = [
    {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2, "amsgrad": True},
]  # fmt: skip
