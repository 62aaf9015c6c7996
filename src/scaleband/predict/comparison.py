"""Two recipes compared at their own best splits: who wins at a budget, where they cross, what one is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.laws.loss import own_exponents
from scaleband.laws.loss.draws import LossDraws
from scaleband.nearest import did_you_mean
from scaleband.predict.allocation import SMALLEST_BUDGET, Limits, allocate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Recipe a against recipe b, per draw.

    Attributes
    ----------
    loss_a, loss_b (sample,)
        Loss at each recipe's own best split of the budget.
    p_a_better
        Probability that a's is lower.
    crossover (sample,)
        FLOP at which the lower loss changes sides, NaN in draws without one inside `searched`.
    compute_multiplier (sample,)
        b's FLOP over a's for the loss that a reaches at the budget: above 1, a is the better recipe; inf or 0 where b
        reaches it nowhere above the budget, or everywhere below it, inside `searched`.
    searched
        Smallest and largest budget looked at, FLOP.
    """

    loss_a: Array
    loss_b: Array
    p_a_better: float
    crossover: Array
    compute_multiplier: Array
    searched: tuple[float, float]


def own_sparsity(draws: LossDraws, group: str) -> float:
    """n_params / n_active of a group's fitted cells, their median; 1 for a group never seen."""
    c = draws.table.cells
    own = np.array([g == group for g in draws.table.groups()], dtype=bool)
    return float(np.median((c.n_params / c.n_active)[own])) if own.any() else 1.0


def shared_exponents(draws: LossDraws) -> float:
    """Share of the draws whose law gives all groups the same exponents, 0 to 1.

    These know how recipes differ in level and in what of it can be removed, not that one gains more from scale: where
    recipes do differ so, the answer of a comparison beyond the runs is far too sure.
    """
    return float((draws.form_of_sample() != own_exponents.LAW.name).mean())


def frontier(draws: LossDraws, group: str, flops: Array, sparsity: float = 1.0) -> Array:
    """Log loss along the compute-optimal frontier: (sample, budget)."""
    limits = Limits(sparsity=sparsity)
    return np.stack([np.log(allocate(draws, group, float(c), limits).loss) for c in flops], axis=1)


def budget_for(goal: Array, falling: Array, logs: Array, middle: int) -> Array:
    """FLOP for which a frontier comes down to a goal, (sample,): of several, the one nearest the budget at `middle`.

    Parameters
    ----------
    goal (sample,)
        Log loss to reach.
    falling (sample, budget)
        Log loss along the frontier. Far below their runs laws need not fall: what lies there may not answer.
    logs (budget,)
        Log budgets, ascending.

    Returns
    -------
    inf where no larger budget searched reaches the goal, 0 where every smaller one does.
    """
    out = np.empty(len(goal))
    for s, above in enumerate(falling > goal[:, None]):
        if above[middle]:
            there = np.flatnonzero(~above[middle:])
            k = middle + int(there[0]) - 1 if len(there) else None
        else:
            there = np.flatnonzero(above[:middle])
            k = int(there[-1]) if len(there) else None
        if k is None:
            out[s] = np.inf if above[middle] else 0.0
            continue
        share = (falling[s, k] - goal[s]) / (falling[s, k] - falling[s, k + 1])
        out[s] = np.exp(logs[k] + share * (logs[k + 1] - logs[k]))
    return out


def compare(
    draws: LossDraws, a: str, b: str, flops: float, *, sparsity_a: float = 1.0, sparsity_b: float = 1.0,
    decades: float = 4.0, n_budgets: int = 41,
) -> Comparison:
    """Compare two groups at a budget, both at their own optimum.

    Draws are joint: exponents that both groups share (`shared_exponents`) cannot make one of them win.

    Parameters
    ----------
    a, b
        Fitted groups, source/arch/data, of one loss kind.
    flops
        Budget, FLOP.
    decades
        How far on both sides of the budget to look for a crossover.

    Raises
    ------
    UserError
        A group that was not fitted, or losses of two kinds, which cannot be compared.
    """
    known = draws.groups()
    unknown = [g for g in (a, b) if g not in known]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} was not fitted, so its loss level is unknown; choose among {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )
    kind = dict(zip(draws.table.groups(), draws.table.kind, strict=True))
    if kind[a] != kind[b]:
        raise UserError(
            f"{a} states its loss as {kind[a]!r} and {b} as {kind[b]!r}: losses of two kinds cannot be compared"
        )
    budgets = flops * 10 ** np.linspace(-decades, decades, n_budgets)
    budgets = budgets[(budgets > SMALLEST_BUDGET) | (budgets >= flops)]
    losses = [frontier(draws, g, budgets, s) for g, s in ((a, sparsity_a), (b, sparsity_b))]
    middle = int(np.argmin(np.abs(budgets / flops - 1)))
    n_budgets = len(budgets)
    gap, logs = losses[0] - losses[1], np.log(budgets)
    crossover = np.full(draws.n_samples, np.nan)
    flips = np.sign(gap[:, 1:]) != np.sign(gap[:, :-1])
    nearest = np.where(flips, np.abs(np.arange(n_budgets - 1) + 0.5 - middle), np.inf)
    for s in np.flatnonzero(flips.any(axis=1)).tolist():  # of several crossings, the one nearest the budget
        k = int(np.argmin(nearest[s]))
        share = gap[s, k] / (gap[s, k] - gap[s, k + 1])
        crossover[s] = np.exp(logs[k] + share * (logs[k + 1] - logs[k]))
    multiplier = budget_for(losses[0][:, middle], losses[1], logs, middle) / flops
    loss_a, loss_b = np.exp(losses[0][:, middle]), np.exp(losses[1][:, middle])
    return Comparison(
        loss_a, loss_b, float((loss_a < loss_b).mean()), crossover, multiplier, (float(budgets[0]), float(budgets[-1]))
    )
