"""Pieces that several optimizers share, each with its formula and its source.

They are written with `stepwell.ops`, like rules, and hold for elements, for numbers, and for stacks of matrices.
"""

from __future__ import annotations

from stepwell.ops import maximum, sqrt, where


def amsgrad(max_exp_avg_sq, exp_avg_sq):
    """AMSGrad: the second moment to divide by, and the new value of its slot. Without the slot, `exp_avg_sq` and None.

    max_exp_avg_sq <- max(max_exp_avg_sq, exp_avg_sq)      Reddi, Kale, Kumar, arXiv 1904.09237, algorithm 2
    """
    if max_exp_avg_sq is None:
        return exp_avg_sq, None
    largest = maximum(max_exp_avg_sq, exp_avg_sq)
    return largest, largest


def bias_correction(beta1, beta2, t):
    """Both bias corrections of Adam as one factor of exp_avg / sqrt(exp_avg_sq).

    sqrt(1 - beta2**t) / (1 - beta1**t)                    Kingma, Ba, arXiv 1412.6980, end of section 2
    """
    return sqrt(1 - beta2**t) / (1 - beta1**t)


def rms(sum_of_squares, elements):
    """The root mean square of a tensor, from the sum of its squares: sqrt(sum / elements)."""
    return sqrt(sum_of_squares / elements)


def clipped(step, size, limit):
    """Update clipping: a step, or its learning rate, scaled down where `size` is above `limit`.

    step / max(1, size / limit)                            Shazeer, Stern, arXiv 1804.04235, algorithms 4 and 5
    """
    return step / maximum(1, size / limit)


def trust_ratio(ratio, p_squared, step_squared):
    """The factor that scales a step to the norm of its tensor: `ratio`, or 1 where either norm is 0.

    `ratio` is about ||p|| / ||step||                      You et al., arXiv 1708.03888 (LARS), 1904.00962 (LAMB)
    """
    return where((p_squared > 0) & (step_squared > 0), ratio, 1)
