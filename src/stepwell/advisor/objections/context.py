"""What an objection looks at: the recipe, and what would be advised without the constraint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from stepwell.advisor.choosing.lr import choose
from stepwell.advisor.published import kind_of

if TYPE_CHECKING:
    from stepwell.advisor.asked import Asked
    from stepwell.advisor.choosing.ground import Ground
    from stepwell.advisor.recipe import Recipe


@dataclass(frozen=True)
class Context:
    """The recipe with its basis; `free` is the recipe for the same training with nothing fixed, which `unfixed` "
    "makes."""

    recipe: Recipe
    ground: Ground
    unfixed: Callable[[], Recipe]

    @property
    def asked(self) -> Asked:
        return self.recipe.asked

    @cached_property
    def free(self) -> Recipe:
        return self.unfixed()

    @property
    def kind(self) -> str:
        return kind_of(self.recipe.published_optimizer)

    @property
    def published(self) -> tuple[float, float]:
        """The range of published learning rates for the optimizer of the recipe."""
        found = choose(self.ground, self.recipe.published_optimizer)
        if found is None or found.low is None or found.high is None:
            return self.recipe.lr_range
        return found.low, found.high

    @property
    def transformer(self) -> bool:
        one = self.recipe.situation
        return one.architecture in (
            "vit", "causal_lm", "masked_lm", "seq2seq", "lm", "contrastive", "masked_image", "speech",
        ) or one.family in ("lm_pretraining", "translation", "vit_supervised", "fine_tuning")  # fmt: skip

    def said(self, recipe: Recipe) -> str:
        """A recipe in a few words, as code."""
        decay = f", weight_decay={recipe.weight_decay:g}" if recipe.weight_decay else ""
        momentum = f", momentum={recipe.value('momentum'):g}" if recipe.optimizer == "SGD" else ""
        return f"{recipe.optimizer}(lr={recipe.lr:g}{momentum}{decay})"
