"""Is the next sweep worth its price? Regret at the target as compute, and compute as the common coin.

A target run that is wasted costs one target run and no more, however far up a wall it ends. So what a regret is worth
is taken draw by draw and averaged then (`share_lost`): the mean regret of a wide posterior is made by its walls, and
what it would be worth if it were certain is several times too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scaleband.design.evsi import Rule
from scaleband.design.proposals import Verdict
from scaleband.labels import flops_label
from scaleband.laws import LEVEL, Cells, LawDraws

Array = NDArray[np.float64]

USUAL_SLOPE = 3.0
"""Percent of loss per e-fold of compute along the frontier: 1 % more compute buys about 0.03 % (Step Law's dense
cells). Used where a fit cannot tell."""

_SANE = (0.3, 15.0)


def an_efold(target: Cells) -> Cells:
    """The target with half an e-fold of compute less, and more: half of it in parameters, half in tokens; (2,)."""
    half = np.exp(0.25 * np.array([-1.0, 1.0]))
    twice = target.take(np.zeros(2, np.int64))
    return replace(
        twice, n_params=twice.n_params * half, n_active=twice.n_active * half, n_tokens=twice.n_tokens * half
    )


def frontier_slope(draws: LawDraws, target: Cells) -> float:
    """Percent of loss that an e-fold of compute buys at the target, half of it in parameters, half in tokens.

    On the compute frontier both halves buy the same, so there this is the frontier's own slope. The fit's law of the
    cells' level gives it; where its draws do not agree on a sane figure (few cells, a group never seen), `USUAL_SLOPE`.

    Returns
    -------
    Percent of loss per e-fold of FLOPs, > 0.
    """
    x = draws.design.matrix(an_efold(target))
    law = np.array([role in ("shared", "exponent") for role in draws.design.roles])
    fall = -(draws.law[:, LEVEL] * law) @ (x[1] - x[0])
    low, middle, high = np.quantile(fall, [0.1, 0.5, 0.9])
    return float(middle) if _SANE[0] < low and high < _SANE[1] else USUAL_SLOPE


def as_flops(regret: float, target_flops: float, slope: float) -> float:
    """FLOPs at the target that `regret` percent of loss is worth: what buying it back with compute would cost.

    A run of C FLOPs whose loss is `regret` percent too high does as well as one of C exp(-regret / slope).
    """
    return target_flops * -float(np.expm1(-max(regret, 0.0) / slope))


def share_lost(rule: Rule, slope: float) -> float:
    """Expected share of one target run that the regret of `rule` costs: mean over draws of 1 - exp(-regret / slope).

    The draws' regrets are scaled to the rule's risk first, which has its optimism taken off.

    Parameters
    ----------
    rule
        What is done at the target, draw by draw.
    slope
        Percent of loss per e-fold of compute.

    Returns
    -------
    0 to 1.
    """
    regret = np.maximum(rule.slopes.value, 0.0)
    mean = float(regret.mean())
    return float(-np.expm1(-regret * max(rule.risk, 0.0) / mean / slope).mean()) if mean > 0 else 0.0


def weigh(
    steps: Sequence[tuple[float, float, float]],
    lost: Sequence[float],
    *,
    evpi: float,
    target_flops: float,
    target_runs: float = 1.0,
    why_empty: str = "no candidate is affordable",
) -> Verdict:
    """The verdict on a path of bundles: continue if some beginning of it is worth more than it costs.

    Parameters
    ----------
    steps
        (EVSI, its error, cost in FLOP) of each bundle in the order chosen; EVSI on top of those before it.
    lost
        Share of a target run that is expected to be lost now, and after each step: one more than `steps`; see
        `share_lost`.
    evpi
        Expected regret now, percent.
    target_flops
        Price of one target run.
    target_runs
        Runs that the decision will serve.
    why_empty
        What to say when there are no steps.
    """
    ceiling = target_runs * target_flops * lost[0]
    runs = "1 target run" if target_runs == 1 else f"{target_runs:g} target runs"
    if not steps:
        why = f"stop: {why_empty}; all that is unknown is worth {flops_label(ceiling)} FLOPs for {runs}"
        return Verdict("stop", why, evpi, 0.0, 0.0, 0.0, 0.0, ceiling, target_runs)
    evsi, variance, cost = (np.cumsum([f(s) for s in steps]) for f in (
        lambda s: s[0], lambda s: s[1] ** 2, lambda s: s[2]))  # fmt: skip
    # Of a wide posterior the share that is lost may seem to grow with what is learned: that is Monte-Carlo error.
    saving = target_runs * target_flops * np.maximum(lost[0] - np.asarray(lost[1:], float), 0.0)
    worth = bool((saving > cost).any())
    k = int(np.argmax(saving - cost)) if worth else int(np.argmax(saving / cost))
    bundles = "the next bundle costs" if k == 0 else f"the next {k + 1} bundles cost"
    saves = f"{flops_label(saving[k])} FLOPs' worth of loss" if saving[k] > 0 else "nothing"
    why = (
        f"{'continue' if worth else 'stop'}: {bundles} {flops_label(cost[k])} FLOPs and "
        f"{'is' if k == 0 else 'are'} expected to save "
        f"{saves} over {runs}"
    )
    if ceiling <= cost[0]:
        why += f"; even knowing everything would save {flops_label(ceiling)}"
    return Verdict(
        "continue" if worth else "stop", why, evpi, float(evsi[k]), float(np.sqrt(variance[k])), float(cost[k]),
        float(saving[k]), ceiling, target_runs,
    )  # fmt: skip
