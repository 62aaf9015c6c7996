"""Numbers as people write them."""

from __future__ import annotations

import math


def rate(value: float) -> str:
    """A learning rate: 0.00056612 -> "5.66e-4"."""
    if not math.isfinite(value):
        return "unknown"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def tokens(value: float) -> str:
    """A batch in tokens, three digits: 335321 -> "335,000"."""
    return f"{float(f'{value:.3g}'):,.0f}" if math.isfinite(value) else "unknown"


def percent(value: float) -> str:
    """A regret in percent of the loss: two digits, and never "0 %" for a small one."""
    if not math.isfinite(value):
        return "unknown"
    return "< 0.001 %" if 0 <= value < 0.001 else f"{value:.2g} %"


def chance(value: float) -> str:
    """A probability: 0.2735 -> "27 %"; never 0 % or 100 % of a finite number of draws."""
    if value < 0.01:
        return "under 1 %"
    return "over 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def mass(value: float) -> str:
    """An interval's mass: 0.9 -> "90 %"."""
    return f"{100 * value:.4g} %"
