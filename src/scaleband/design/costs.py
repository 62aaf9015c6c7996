"""What a candidate costs: functions that compose, FLOPs first, then hours, then money.

A cost is any function from (n_active, n_tokens) to a price per run. `then` joins one that prices runs to one that
prices prices:

    hours = then(flops_cost, lambda flops: gpu_hours(flops, 989e12, 0.4))
    money = then(hours, lambda h: dollars(h, 2.5))

FLOPs, hours and dollars of one device are one thing in three units; only what a run costs beside its training changes
the choice. So choices and verdicts are made in FLOP, overhead as the FLOP that the device would have done meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.runs import SECONDS_PER_HOUR, dollars, gpu_hours, training_flops

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


@dataclass(frozen=True)
class Device:
    """What an hour of one device gives and costs.

    Attributes
    ----------
    peak_flops_per_s, utilisation
        Peak at the precision used, and the share of it that training reaches.
    overhead_hours
        Device hours of a run beside its training: waiting, start-up, evaluation.
    price_per_hour
        US dollars, or None.
    """

    peak_flops_per_s: float
    utilisation: float = 0.4
    overhead_hours: float = 0.0
    price_per_hour: float | None = None

    @property
    def unit(self) -> str:
        """Of `price`."""
        return "device hours" if self.price_per_hour is None else "dollars"

    @property
    def overhead_flops(self) -> float:
        """What the device would train in a run's overhead, FLOP."""
        return self.overhead_hours * SECONDS_PER_HOUR * self.peak_flops_per_s * self.utilisation

    def price(self, flops: float) -> float:
        """Of the device's time for so much training, in `unit`."""
        hours = gpu_hours(flops, self.peak_flops_per_s, self.utilisation)
        return hours if self.price_per_hour is None else dollars(hours, self.price_per_hour)

    def words(self, flops: float) -> str:
        """The same for people."""
        value = self.price(flops)
        return f"{value:,.3g} h" if self.price_per_hour is None else f"${value:,.2f}"
