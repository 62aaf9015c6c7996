"""Which runs to pay for next: candidates, cost, EVSI, a batch under a budget, and when to stop."""

from scaleband.design.proposals import Proposal, Proposals, Verdict, proposals_from_json

__all__ = [
    "Proposal",
    "Proposals",
    "Verdict",
    "proposals_from_json",
]
