"""Numbers and groups as people write them, for every room."""

from __future__ import annotations

import math


def group_label(source: str, arch: str, data: str) -> str:
    """A group as written everywhere: ``source/arch/data``."""
    return f"{source}/{arch}/{data}"


def arch_family(arch: str) -> str:
    """The family a variant is pooled under: the text before the first "-" ("moe-1in89" -> "moe")."""
    return arch.split("-", 1)[0]


def quantity(value: float, digits: int = 3) -> str:
    """A count: 1.07e9 -> "1.07B"."""
    for unit, mark in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999.96M rounds to 1e+03M: take the next unit instead
        if float(f"{value:.{digits}g}") >= unit:
            return f"{float(f'{value / unit:.{digits}g}'):,.12g}{mark}"
    return f"{value:.{digits}g}"


def counted(number: int, noun: str) -> str:
    """A number of things: "1 run", "1,546 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def flops_label(value: float, digits: int = 2) -> str:
    """Compute in FLOP: 3.1e18."""
    return f"{value:.{digits}g}".replace("e+", "e")


def percent(value: float) -> str:
    """A regret, 100 log units, in percent of the loss: two digits, and never "0 %" for a small one.

    60 units are a loss 1.82 times as high: "82 %". JSON keeps the units.
    """
    if not math.isfinite(value):
        return "unknown"
    if value >= 100 * math.log(10):
        return "over 900 %"
    shown = 100 * math.expm1(value / 100)
    return "< 0.001 %" if 0 <= shown < 0.001 else f"{float(f'{shown:.2g}'):g} %"
