"""Numbers as people write them."""

from __future__ import annotations

import math

REGRET_UNIT = "100 * natural log of loss over best loss"
"""Of every regret in JSON: in this unit regrets add up. People are told percent of the loss."""


def rate(value: float) -> str:
    """A learning rate: 0.00056612 -> "5.66e-4"."""
    if not math.isfinite(value):
        return "unknown"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def tokens(value: float) -> str:
    """A batch in tokens, three digits: 335321.7 -> "335,000". A whole number is somebody's setting: "131,072"."""
    if not math.isfinite(value):
        return "unknown"
    return f"{value if value == round(value) else float(f'{value:.3g}'):,.0f}"


def chance(value: float) -> str:
    """A probability: 0.2735 -> "27 %"; never 0 % or 100 % of a finite number of draws."""
    if value < 0.01:
        return "under 1 %"
    return "over 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def mass(value: float) -> str:
    """An interval's mass: 0.9 -> "90 %", 0.999999 -> "99.9999 %"."""
    return f"{100 * value:.12g} %"
