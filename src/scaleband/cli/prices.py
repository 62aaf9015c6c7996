"""Hours and money beside FLOPs: `--device-flops`, `--utilisation`, `--overhead-hours`, `--price-per-hour`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from scaleband.cli.arguments import between, count
from scaleband.cli.verb import UsageError

_DEPENDENT = ("utilisation", "overhead_hours", "price_per_hour")


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
    utilisation: float
    overhead_hours: float
    price_per_hour: float | None

    @property
    def unit(self) -> str:
        """Of `price`."""
        return "device hours" if self.price_per_hour is None else "dollars"

    def price[Number: (float, np.ndarray)](self, flops: Number, *, overhead: bool = True) -> Number:
        """Price of each run, or of `flops` alone."""
        from scaleband.runs import dollars, gpu_hours

        hours = gpu_hours(flops, self.peak_flops_per_s, self.utilisation) + (self.overhead_hours if overhead else 0.0)
        return hours if self.price_per_hour is None else dollars(hours, self.price_per_hour)

    def words(self, value: float) -> str:
        """A price for people."""
        return f"{value:,.3g} h" if self.price_per_hour is None else f"${value:,.2f}"


def add_prices(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    prices = parser.add_argument_group("prices in device hours or dollars: runs are then chosen per hour or dollar")
    prices.add_argument("--device-flops", type=between(1e9, 1e20, "FLOP/s", "an H100 has 989e12 in bfloat16"),
                        metavar="FLOP/S", help="peak of one device; the budget buys as many hours of it")  # fmt: skip
    prices.add_argument("--utilisation", type=between(1e-3, 1.0, "of the peak", "write 0.4 for 40 %"), metavar="0..1",
                        help="share of the peak that training reaches; 0.4")  # fmt: skip
    prices.add_argument("--overhead-hours", type=count, metavar="H",
                        help="device hours of a run beside its training; none")  # fmt: skip
    prices.add_argument("--price-per-hour", type=count, metavar="USD", help="of one device; prices are then dollars")


def device_of(asked: argparse.Namespace) -> Device | None:
    """The device that was named, or None: prices are FLOPs.

    Raises
    ------
    UsageError
        A part of a price without the device.
    """
    if asked.device_flops is None:
        alone = [name for name in _DEPENDENT if getattr(asked, name) is not None]
        if alone:
            raise UsageError(f"--{alone[0].replace('_', '-')} needs --device-flops, e.g. --device-flops 989e12")
        return None
    return Device(asked.device_flops, asked.utilisation or 0.4, asked.overhead_hours or 0.0, asked.price_per_hour)
