"""A campaign's budget in print: FLOP, and hours or dollars where it has a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scaleband.labels import flops_label

if TYPE_CHECKING:
    from scaleband.campaign.records import Account
    from scaleband.design import Device


def account_json(a: Account, device: Device | None) -> dict[str, Any]:
    """The budget, FLOP; and in hours or dollars where the campaign has them."""
    parts = {"budget": a.budget, "spent": a.spent, "committed": a.committed, "left": a.left}
    plain: dict[str, Any] = {f"{name}_flops": value for name, value in parts.items()}
    if device is not None:
        plain |= {f"{name}_price": device.price(value) for name, value in parts.items()}
        plain["price_unit"] = device.unit
    return plain


def account_rows(a: Account, device: Device | None) -> list[tuple[str, str]]:
    """The budget for people, (name, words)."""

    def told(words: Callable[[float], str]) -> str:
        return f"{words(a.spent)} spent, {words(a.committed)} out, {words(a.left)} left"

    rows = [("budget", f"{flops_label(a.budget, 3)} FLOP, " + told(lambda flops: flops_label(flops, 3)))]
    if device is not None:
        rows.append((f"in {device.unit}", f"{device.words(a.budget)}, {told(device.words)}; overhead counted"))
    return rows
