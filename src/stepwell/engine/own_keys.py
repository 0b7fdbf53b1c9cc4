"""Keys that a user may add to a parameter group besides hyperparameters, for trainers and schedules.

timm adds `{"params": ..., "lr_scale": 0.5}`, and a user may add `"layer": 3`; torch keeps such keys, and so does this
package. But a misspelled hyperparameter, or a hyperparameter that this optimizer does not have, would also be kept
silently and have no effect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from stepwell.engine.rule import RANGES

# Hyperparameters of other optimizers, and what others call those of the field: a group that has one means something.
_MEANT = frozenset(RANGES) | {
    *("amsgrad", "nesterov", "centered", "rho", "trust_coefficient", "backend", "state", "weights"),
    *("learning_rate", "learningrate", "lr_rate", "wd", "l2", "l2_reg", "decay", "weightdecay", "epsilon"),
    *(
        "beta",
        "beta1",
        "beta2",
        "beta3",
        "mom",
        "momentums",
        "lambd",
        "foreach",
        "fused",
        "capturable",
        "differentiable",
    ),
}
# One letter from an option (state, eps, seed), and words of their own.
_WORDS = frozenset({"stage", "stages", "steps", "speed"})
_LONGEST = 100  # characters of a key that are compared: difflib's time grows with the square
NEAR = 0.7  # of difflib: `weight_decy` has 0.96, `lrr` 0.8, `beta` 0.89; `lr_scale` against `lr` has 0.4


def is_own_key(key: Any, known: Iterable[str]) -> bool:
    """Whether a key of a group is the user's own: not similar to a name of this optimizer, and not a hyperparameter of
    another optimizer. A known name with a word before or after it (`lr_scale`, `max_lr`) is a separate name.

    >>> [is_own_key(key, ["lr", "betas", "weight_decay"]) for key in ("lr_scale", "beta", "weight_decy", "mark")]
    [True, False, False, True]
    """
    if not isinstance(key, str):
        return True
    folded = key[:_LONGEST].lower()
    names = {name.lower() for name in known}
    if folded in names or folded in _MEANT:
        return False
    if folded in _WORDS or any(_extends(folded, name) for name in names):
        return True
    return not difflib.get_close_matches(folded, names, n=1, cutoff=NEAR)


def _extends(key: str, name: str) -> bool:
    """Whether a key is a whole name with whole words around it."""
    return f"_{name}_" in f"_{key}_" and key.strip("_") != name
