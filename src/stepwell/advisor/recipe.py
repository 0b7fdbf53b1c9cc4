"""A recipe: a complete configuration with the reason, the sources and the doubt of each value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepwell.advisor.asked import Asked
from stepwell.advisor.choice import Choice
from stepwell.advisor.situation import Situation
from stepwell.errors import UsageError, nearest, shown

if TYPE_CHECKING:
    import torch
    from torch import nn

    from stepwell.advisor.objections import Objection
    from stepwell.groups import Forecast
    from stepwell.step import Step


@dataclass(frozen=True)
class Recipe:
    """A configuration for one training run, which `stepwell.advise` returns.

    `recipe["lr"]` is the `Choice` of a value, with reason, sources, range and doubt; `recipe.lr` is the value. The
    values are optimizer, lr, momentum, nesterov, betas, eps, alpha (those that the optimizer has), weight_decay,
    decay_form, exempt, layer_decay, groups, schedule, lr_end, warmup, clip_norm, batch_size, accumulate, precision,
    state, ema and steps.

    >>> recipe = stepwell.advise("ViT-B/16", task="image_classification", batch_size=1024, epochs=300)
    >>> print(recipe.explain())
    >>> optimizer, step = recipe.build(model, steps=1_000)

    Attributes:
        name: of the recipe.
        situation: what was known about the training, and from where (`situation.origin`).
        choices: the values.
        published_optimizer: the optimizer by the name of the publications, as "SkipStepAdamW".
        near: the nearest published configurations: id, distance, and the differences in words.
        objections: what speaks against something that was asked for.
        notes: what was assumed, scaled or not understood.
        asked: what the user fixed.
    """

    name: str
    situation: Situation
    choices: Mapping[str, Choice]
    published_optimizer: str
    near: tuple[tuple[str, float, str], ...] = ()
    objections: tuple[Objection, ...] = ()
    notes: tuple[str, ...] = ()
    asked: Asked = field(default_factory=Asked)

    def __getitem__(self, name: str) -> Choice:
        if name in self.choices:
            return self.choices[name]
        raise UsageError(f"the recipe has no value {shown(name)}: {nearest(name, self.choices)}")

    def value(self, name: str) -> Any:
        """The value of a choice; None if the recipe does not have it."""
        return self.choices[name].value if name in self.choices else None

    @property
    def optimizer(self) -> str:
        """The optimizer of stepwell."""
        from stepwell.advisor.choosing.optimizer import stepwell_name

        return stepwell_name(self.published_optimizer)

    @property
    def lr(self) -> float:
        return float(self.value("lr"))

    @property
    def lr_range(self) -> tuple[float, float]:
        """The range in which the best learning rate is expected."""
        choice = self["lr"]
        return (self.lr if choice.low is None else choice.low, self.lr if choice.high is None else choice.high)

    @property
    def weight_decay(self) -> float:
        return float(self.value("weight_decay") or 0.0)

    @property
    def decay_form(self) -> str:
        """ "decoupled", "l2" or "none"."""
        return str(self.value("decay_form"))

    @property
    def schedule(self) -> str:
        """The kind of schedule, as "cosine"."""
        return str(self.value("schedule"))

    @property
    def betas(self) -> tuple[float, ...] | None:
        found = self.value("betas")
        return None if found is None else tuple(found)

    def explain(self) -> str:
        """The recipe in words: each value with reason, range, sources and doubt; objections; both sides of disputes."""
        from stepwell.advisor.explain import explained

        return explained(self)

    def __str__(self) -> str:
        from stepwell.advisor.explain import table

        return table(self)

    def build(
        self, model: nn.Module, *, steps: int | None = None, lr: float | None = None
    ) -> tuple[torch.optim.Optimizer, Step]:
        """The optimizer over the model's parameters, and the `Step` around it with schedule, clip and average.

        Args:
            model: the module to train. For a GAN, call `build` once for each network.
            steps: updates of the run, if the recipe does not know them.
            lr: another learning rate, as one that `find_lr` has found.

        Raises UsageError if the number of updates is unknown, and whatever the optimizer refuses.
        """
        from stepwell.advisor.building import built

        return built(self, model, steps, lr)

    def code(self, form: str = "stepwell", *, steps: int | None = None) -> str:
        """A training loop with this recipe, as a program that runs: a stand-in model and made-up data are to replace.

        Args:
            form: "stepwell", or "torch" for PyTorch alone.
            steps: updates of the run, if the recipe does not know them; 1,000 otherwise.

        Raises UsageError for an optimizer that PyTorch does not have, with `form="torch"`.
        """
        from stepwell.advisor.code import program

        return program(self, form, steps)

    def forecast(self, model: nn.Module) -> Forecast:
        """The memory that training needs with this recipe: weights, gradients, state and average."""
        from stepwell.advisor.building import forecast

        return forecast(self, model)

    def scaled(
        self,
        *,
        batch_size: float | None = None,
        devices: int | None = None,
        width: float | None = None,
        steps: int | None = None,
    ) -> Recipe:
        """The recipe at another batch size, number of devices (the batch per device stays), or width of the model.

        Args:
            batch_size: of one update, in the unit of the recipe.
            devices: the batch size grows with them.
            width: how many times wider the model gets, as 2.
            steps: updates of the new run; by default as many samples as before.

        The rules and their limits are in `stepwell.advisor.scaling`. A change of more than 8 times is warned about.
        Raises UsageError if the batch size of the recipe is unknown, is per device, or lr is a base or a factor.
        """
        from stepwell.advisor.rescaled import rescaled

        return rescaled(self, batch_size=batch_size, devices=devices, width=width, steps=steps)

    def with_optimizer(self, name: str) -> Recipe:
        """The recipe for the same training with another optimizer, by published configurations or conversions."""
        from stepwell.advisor.making import again

        return again(self, name)

    def to_record(self) -> dict[str, Any]:
        """The recipe as plain values."""
        from stepwell.advisor.stored import record

        return record(self)

    def to_json(self) -> str:
        """The recipe as JSON."""
        return json.dumps(self.to_record(), indent=1, ensure_ascii=False)

    def to_toml(self) -> str:
        """The recipe as TOML, which `Recipe.from_toml` reads."""
        from stepwell.advisor.stored import to_toml

        return to_toml(self)

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """The recipe that `to_toml` wrote. Raises UsageError for text of another form."""
        from stepwell.advisor.stored import from_toml

        return from_toml(cls, text)
