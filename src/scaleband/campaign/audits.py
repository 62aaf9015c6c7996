"""Ask again what was asked then: a proposal made anew from what was known when it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scaleband.campaign.offers import table_digest
from scaleband.campaign.proposers import PROPOSERS
from scaleband.campaign.records import Attempt, runs_of
from scaleband.campaign.settings import setting_key
from scaleband.design import Proposals
from scaleband.errors import UserError

if TYPE_CHECKING:
    from scaleband.campaign.campaign import Campaign, Progress


@dataclass(frozen=True)
class Audit:
    """One proposal asked for again.

    Attributes
    ----------
    run_ids
        The runs that this ask wrote down, in their order.
    answer
        What the proposer says to the same request now.
    differences
        What is not as it was recorded, one sentence each; empty if everything came out again.
    """

    run_ids: tuple[str, ...]
    answer: Proposals
    differences: tuple[str, ...]


def audit(campaign: Campaign, run_id: str, *, progress: Progress | None = None) -> Audit:
    """Ask again for the batch that a run was proposed in, with the data, the budget and the seed of that moment.

    The posterior comes from the campaign's folder if it is still there, else it is sampled anew.

    Parameters
    ----------
    campaign
        Open, with one of the named strategies.
    run_id
        Any run of the batch.
    progress
        As in `Campaign.ask`.

    Raises
    ------
    UserError
        No such run.
    """
    attempts = campaign.attempts()
    runs = runs_of(attempts)
    run = next((r for r in runs if r.run_id == run_id), None)
    if run is None:
        raise UserError(f"there is no run {run_id!r} in this campaign; `scaleband campaign status` lists them")
    basis = run.proposal["basis"]
    batch = [r for r in runs if r.proposal["basis"] == basis]
    request = campaign.request(attempts_then(attempts, basis), progress)
    answer = PROPOSERS[campaign.settings.strategy](request, int(basis["n"]))
    then = {
        "the settings": (campaign.settings.digest(), basis["settings"]),
        "the seed": (request.seed, basis["seed"]),
        "the runs told": (table_digest(request.history), basis["history"]),
        "the runs that were out": (_ids(request.pending), basis["pending"]),
        "the budget left": (f"{request.budget_flops:.9g}", f"{basis['budget_left_flops']:.9g}"),
        "the posterior": (answer.draws_digest, basis["draws"]),
    }
    differences = [f"{what}: {now!r} now, {was!r} then" for what, (now, was) in then.items() if now != was]
    proposed = [setting_key(p.inputs) for p in answer.proposals]
    differences += [f"{r.run_id} is not proposed any more" for r in batch if r.key not in proposed]
    return Audit(tuple(r.run_id for r in batch), answer, tuple(differences))


def attempts_then(attempts: Sequence[Attempt], basis: Mapping[str, Any]) -> list[Attempt]:
    """The attempts as they stood when a proposal was made: what was told later is still out."""
    out = []
    then = attempts[: int(basis["attempts"])]
    last = {a.run_id: a.number for a in then}
    for attempt in then:
        later = attempt.result is not None and attempt.result.order > basis["told"]
        # one that had a successor was lost before
        lost_since = attempt.lost and attempt.run_id in basis["pending"] and last[attempt.run_id] == attempt.number
        out.append(replace(attempt, result=None, state="RUNNING") if later or lost_since else attempt)
    return out


def _ids(pending: Any) -> list[str]:
    return [] if pending is None else sorted(pending["run_id"].astype(str))
