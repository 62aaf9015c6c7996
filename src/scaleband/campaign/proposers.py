"""Strategies by name, the simple ones and those that look at the posterior."""

from __future__ import annotations

from scaleband.campaign.strategies import STRATEGIES, Proposer

PROPOSERS: dict[str, Proposer] = dict(STRATEGIES)
