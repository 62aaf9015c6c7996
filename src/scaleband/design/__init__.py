"""Which runs to pay for next: candidates, cost, EVSI, a batch under a budget, and when to stop.

EVSI is computed from draws alone: of what a run would show (`Outcomes`) and of the regret of an action (`Decision`).
"""

from scaleband.design.allocation import (
    LossOutcomes,
    allocation_from_loss_laws,
    isoflop_cells,
    loss_law_slope,
    loss_outcomes,
)
from scaleband.design.candidates import Candidates, candidates_from_table, with_mini_sweeps
from scaleband.design.choose import Choice, choose, repeats_of, settings_of
from scaleband.design.costs import Device, dollars_cost, flops_cost, gpu_hours_cost, then, with_overhead
from scaleband.design.decisions import (
    CurveDecision,
    Decision,
    SettingDecision,
    Slopes,
    allocation_decision,
    allocation_from_levels,
    setting_decision,
)
from scaleband.design.evsi import Gain, Rule, bundle_features, evsi_of, gain_of, rule_without_data, screen
from scaleband.design.grid import Limits, grid_candidates, limits_from
from scaleband.design.outcomes import SEED_SHARE, LawOutcomes, Outcomes, joined, law_outcomes, made_before
from scaleband.design.proposals import Proposal, Proposals, Verdict, proposals_from_json
from scaleband.design.propose import Batch, draws_digest, greedy_batch, propose, thinned
from scaleband.design.verdict import USUAL_SLOPE, as_flops, frontier_slope, share_lost, weigh

__all__ = [
    "SEED_SHARE",
    "USUAL_SLOPE",
    "Batch",
    "Candidates",
    "Choice",
    "CurveDecision",
    "Decision",
    "Device",
    "Gain",
    "LawOutcomes",
    "Limits",
    "LossOutcomes",
    "Outcomes",
    "Proposal",
    "Proposals",
    "Rule",
    "SettingDecision",
    "Slopes",
    "Verdict",
    "allocation_decision",
    "allocation_from_levels",
    "allocation_from_loss_laws",
    "as_flops",
    "bundle_features",
    "candidates_from_table",
    "choose",
    "dollars_cost",
    "draws_digest",
    "evsi_of",
    "flops_cost",
    "frontier_slope",
    "gain_of",
    "gpu_hours_cost",
    "greedy_batch",
    "grid_candidates",
    "isoflop_cells",
    "joined",
    "law_outcomes",
    "limits_from",
    "loss_law_slope",
    "loss_outcomes",
    "made_before",
    "proposals_from_json",
    "propose",
    "repeats_of",
    "rule_without_data",
    "screen",
    "setting_decision",
    "settings_of",
    "share_lost",
    "then",
    "thinned",
    "weigh",
    "with_mini_sweeps",
    "with_overhead",
]
