"""How a campaign went: the recommendation and its band against the FLOPs spent, run by run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from scaleband.campaign.proposers import target_of
from scaleband.campaign.records import Attempt, Run, attempt_cost, runs_of, table_of, told_late, told_runs
from scaleband.campaign.refit import Posterior, known_posterior, posterior_for
from scaleband.laws import LawDraws
from scaleband.predict import basins, interval, recommend

if TYPE_CHECKING:
    from scaleband.campaign.campaign import Campaign, Progress

Fill = Literal["known", "latest", "all"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Band:
    """What was known at one moment.

    Attributes
    ----------
    lr_peak, batch_tokens
        Optimum at the target: (median, lower, upper); tokens per step.
    recommended_lr_peak, recommended_batch_tokens
        The setting of least expected regret.
    expected_regret
        Its expected regret, percent of the loss.
    """

    lr_peak: Triple
    batch_tokens: Triple
    recommended_lr_peak: float
    recommended_batch_tokens: float
    expected_regret: float


@dataclass(frozen=True)
class Step:
    """One told run, or the start of the campaign.

    Attributes
    ----------
    run_id, state, loss
        The run; '' and None for the start.
    n_told
        Runs told so far, this one included.
    spent_flops
        Spent when it was told, failures and lost workers included, FLOP; of the last step, by now.
    band
        What was known then; None where that posterior was never sampled.
    """

    run_id: str
    state: str
    loss: float | None
    n_told: int
    spent_flops: float
    band: Band | None


def band_of(draws: LawDraws, target: dict[str, str | float], mass: float) -> Band:
    """The recommendation at the target and the band around its optimum."""
    b = basins(draws, target_of(target))
    setting = recommend(b)

    def triple(values: np.ndarray) -> Triple:
        band = interval(values, mass)
        return float(band.median), float(band.lower), float(band.upper)

    return Band(
        triple(b.lr_peak()[:, 0]), triple(b.batch_tokens()[:, 0]), float(setting.lr_peak[0]),
        float(setting.batch_tokens[0]), float(setting.expected_regret[0]),
    )  # fmt: skip


def history(
    campaign: Campaign, *, mass: float = 0.9, fill: Fill = "known", progress: Progress | None = None
) -> list[Step]:
    """The campaign step by step: its start, then each told run.

    Parameters
    ----------
    campaign
        An open campaign.
    mass
        Of the intervals (equal tails).
    fill
        Which posteriors may be sampled for this (tens of seconds each): none ("known": the start and what asks
        have sampled already), the one after the last told run ("latest"), or every missing one ("all").
    progress
        Called with (stage, done, total) while sampling.
    """
    attempts = campaign.attempts()
    told = told_runs(runs_of(attempts))
    steps = []
    for k in range(len(told) + 1):
        run = told[k - 1] if k else None
        may_sample = fill == "all" or (fill == "latest" and k == len(told))
        found = _posterior(campaign, attempts, k, may_sample, progress)
        steps.append(
            Step(
                run_id="" if run is None else run.run_id,
                state="" if run is None else run.state,
                loss=None if run is None or run.result is None else run.result.loss,
                n_told=k,
                spent_flops=_spent(attempts, run, last=k == len(told)),
                band=None if found is None else band_of(found.draws, dict(campaign.settings.target), mass),
            )
        )
    return steps


def _posterior(
    campaign: Campaign, attempts: list[Attempt], k: int, may_sample: bool, progress: Progress | None
) -> Posterior | None:
    """After the first `k` told runs."""
    table = table_of(told_runs(runs_of(attempts))[:k], campaign.settings)
    if may_sample:
        return posterior_for(campaign.place.folder, table, campaign.settings, progress)
    return known_posterior(campaign.place.folder, table, campaign.settings)


def _spent(attempts: list[Attempt], told: Run | None, *, last: bool) -> float:
    runs = runs_of(attempts)
    if last:
        return sum(r.spent_flops for r in runs)
    if told is None or told.result is None:
        return 0.0
    order = told.result.order
    moment = next((a.ended_at for a in attempts if a.result is not None and a.result.order == order), None)
    spent = sum(attempt_cost(a) for a in attempts if a.result is not None and a.result.order <= order)
    # A lost worker told nothing, so only the clock says whether it was lost before.
    late = {a.trial_id for r in runs for a in told_late([a for a in attempts if a.run_id == r.run_id])}
    lost = [a for a in attempts if a.lost and a.trial_id not in late]
    return spent + sum(attempt_cost(a) for a in lost if a.ended_at and moment and a.ended_at <= moment)
