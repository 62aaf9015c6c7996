"""What a candidate costs: functions that compose, FLOPs first, then hours, then money.

A cost is any function from (n_active, n_tokens) to a price per run. `then` joins one that prices runs to one that
prices prices:

    hours = then(flops_cost, lambda flops: gpu_hours(flops, 989e12, 0.4))
    money = then(hours, lambda h: dollars(h, 2.5))
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scaleband.runs import dollars, gpu_hours, training_flops

Array = NDArray[np.float64]
Cost = Callable[[Array, Array], Array]
"""From (n_active, n_tokens) of the runs to their prices, all (run,)."""


def flops_cost(n_active: Array, n_tokens: Array) -> Array:
    """FLOP of each run, 6 per active parameter and token: (run,)."""
    return training_flops(np.asarray(n_active, float), np.asarray(n_tokens, float))


def then(cost: Cost, price: Callable[[Array], Array]) -> Cost:
    """The cost that prices what `cost` gives."""

    def composed(n_active: Array, n_tokens: Array) -> Array:
        return price(cost(n_active, n_tokens))

    return composed


def gpu_hours_cost(peak_flops_per_s: float, utilisation: float) -> Cost:
    """Device hours of each run; see `runs.gpu_hours`."""
    return then(flops_cost, lambda flops: gpu_hours(flops, peak_flops_per_s, utilisation))


def dollars_cost(peak_flops_per_s: float, utilisation: float, price_per_hour: float) -> Cost:
    """US dollars of each run."""
    return then(gpu_hours_cost(peak_flops_per_s, utilisation), lambda hours: dollars(hours, price_per_hour))


def with_overhead(cost: Cost, per_run: float) -> Cost:
    """`cost` plus a fixed price per run (queueing, start-up, evaluation), in the unit of `cost`."""
    return then(cost, lambda price: price + per_run)
