"""A campaign: ask for the next runs, tell what became of them, survive whatever happens in between.

Built on Optuna's storage: a file in the campaign's folder, or PostgreSQL for a cluster. Optuna is
imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaleband.campaign.audits import Audit, audit
    from scaleband.campaign.campaign import Asked, Campaign
    from scaleband.campaign.records import Account, Result, Run
    from scaleband.campaign.refit import Posterior
    from scaleband.campaign.settings import Settings
    from scaleband.campaign.strategies import Proposer, Request

_HOME = {
    "Account": "records",
    "Asked": "campaign",
    "Audit": "audits",
    "Campaign": "campaign",
    "Posterior": "refit",
    "Proposer": "strategies",
    "Request": "strategies",
    "Result": "records",
    "Run": "records",
    "Settings": "settings",
    "audit": "audits",
}

__all__ = [
    "Account",
    "Asked",
    "Audit",
    "Campaign",
    "Posterior",
    "Proposer",
    "Request",
    "Result",
    "Run",
    "Settings",
    "audit",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
