"""Why a learning-rate range test gives no answer."""

from __future__ import annotations

from stepwell.findings.check import Check

NO_ANSWER = Check(
    code="F01",
    name="no-learning-rate-found",
    severity="warning",
    certainty="certain",
    looks_for="the loss over the learning rate has no fall that exceeds its noise",
    why="a learning rate read from this curve would be arbitrary",
    instead="search a grid of rates with short runs (stepwell compare), or change the setting that the reason names",
    example_bad="the loss rises from the first rate on",
    example_good="the loss falls over two decades of rates, then rises",
    reference="Smith, arXiv 1506.01186",
)

CHECKS = (NO_ANSWER,)
