"""Hours and money beside FLOPs: `--device-flops`, `--utilisation`, `--overhead-hours`, `--price-per-hour`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from scaleband.cli.arguments import between, count
from scaleband.cli.verb import UsageError

if TYPE_CHECKING:
    from scaleband.design import Device

_DEPENDENT = ("utilisation", "overhead_hours", "price_per_hour")


def add_prices(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    prices = parser.add_argument_group("prices in device hours or dollars, and what a run costs beside its training")
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
    given = {name: value for name in _DEPENDENT if (value := getattr(asked, name)) is not None}
    if asked.device_flops is None:
        if given:
            first = next(iter(given)).replace("_", "-")
            raise UsageError(f"--{first} needs --device-flops, e.g. --device-flops 989e12")
        return None
    from scaleband.design import Device

    return Device(asked.device_flops, **given)
