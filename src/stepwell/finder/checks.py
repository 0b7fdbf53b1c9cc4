"""Why a learning-rate range test gives no answer."""

from __future__ import annotations

from stepwell.findings.check import Check

NO_ANSWER = Check(
    code="F01",
    name="no-learning-rate-found",
    severity="warning",
    certainty="certain",
    looks_for="the curve of the loss over the learning rate has no fall that stands out of its noise",
    why="any rate read off this curve would be made up",
    instead="search a grid of rates with short runs (stepwell compare), or change what the reason names",
    example_bad="the loss rises from the first rate on",
    example_good="the loss falls over two decades of rates, then rises",
    reference="Smith, arXiv 1506.01186",
)

CHECKS = (NO_ANSWER,)
