"""All schedules in one picture: the expression above each curve is the code that makes it.

A schedule is a pure function from the number of an update to a factor of the learning rate, so it can be drawn without
a model. The last one, Plateau, is the exception: its factor depends on a metric, here a loss that stops falling.
"""

from __future__ import annotations

from exercise import COLORS, finish, options, panels

from stepwell import schedules
from stepwell.schedules import Plateau, Schedule

STEPS = 1000

# Written as in a configuration file: `schedules.parse` reads the text.
EXPRESSIONS = (
    "constant()",
    "warmup(200).then(constant())",
    "untuned_warmup(0.99).then(constant())",
    "linear(1000, to=0.1)",
    "cosine(1000, to=0.1)",
    "warmup(100).then(cosine(900, to=0.1))",
    "polynomial(1000, power=2.0)",
    "exponential(0.997)",
    "exponential_to(1000, to=0.01)",
    "step(300, gamma=0.3)",
    "multi_step([400, 700], gamma=0.3)",
    "one_cycle(1000)",
    "one_cycle(1000, peak=0.4, three_phase=True)",
    "cyclic(150, mode='triangular2')",
    "cosine_restarts(140, mult=2)",
    "inverse_square_root(100)",
    "trapezoid(1000, warmup=100, cooldown=0.3)",
    "stable(0.7).then(cooldown(0.3, shape='linear'))",
    "cosine(1000) * step(250, gamma=0.6)",
    "warmup(100).then(cosine(500, to=0.1)).hold()",
)
CALLABLES: dict[str, Schedule] = {
    "from_function(lambda k: 1 / (1 + k / 100))": schedules.from_function(lambda k: 1 / (1 + k / 100)),
    "product_of(lambda k: 0.998)": schedules.product_of(lambda k: 0.998),
}


def plateau() -> list[float]:
    """The factors of a Plateau for a loss that falls to 0.4, rests until the rate falls, and falls to 0.12."""
    watching = Plateau(factor=0.3, patience=100)
    factors, loss = [], 1.0
    for _ in range(STEPS):
        floor = 0.4 * watching.by if factors and factors[-1] < 1 else 0.4
        loss = max(floor, loss - 0.0025)
        factors.append(watching.observe(loss))
    return factors


def main() -> None:
    chosen = options(__doc__)
    curves = {text: schedules.parse(text) for text in EXPRESSIONS} | CALLABLES
    figure, axes = panels(6, 4, (14, 13))
    drawn = {}
    for axis, (text, schedule) in zip(axes, curves.items(), strict=False):
        schedule = schedule if schedule.resolved else schedule.over(STEPS)
        values = [schedule(k) for k in range(STEPS if schedule.horizon is None else min(STEPS, schedule.horizon))]
        axis.plot(values, color=COLORS[0])
        axis.set_title(text, fontsize=7, family="monospace")
        drawn[text] = round(values[-1], 4)
    factors = plateau()
    axes[len(curves)].plot(factors, color=COLORS[1])
    axes[len(curves)].set_title("Plateau(factor=0.3, patience=100)", fontsize=7, family="monospace")
    momentum = schedules.one_cycle(STEPS).with_momentum(0.85, 0.95)["momentum"]
    axes[len(curves) + 1].plot([momentum(k) for k in range(STEPS)], color=COLORS[2])
    axes[len(curves) + 1].set_title("one_cycle(1000).with_momentum(0.85, 0.95)", fontsize=7, family="monospace")
    for axis in axes[: len(curves) + 1]:
        axis.set(ylim=(0, 1.08), xlim=(0, STEPS))
    for axis in axes[len(curves) + 2 :]:
        axis.set_axis_off()
    finish(figure, {"schedules drawn": len(drawn) + 1, "factor of the last update": drawn}, chosen)


if __name__ == "__main__":
    main()
