"""The greedy choice of runs: the bundle that adds the most per price to what is known, again and again."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.design.candidates import Candidates, Index
from scaleband.design.decisions import Decision
from scaleband.design.evsi import Gain, Rule, compressed, gain_of, rule_without_data, screen
from scaleband.design.outcomes import Outcomes

Array = NDArray[np.float64]

WORTHWHILE = 0.02
"""A bundle is chosen for its EVSI per FLOP only if it removes at least this share of the regret that is left: per FLOP
alone, the cheapest run always looks good."""
_SHORTLIST = 96
_BESIDE = 32
_EVALUATIONS = 32


@dataclass(frozen=True)
class Choice:
    """A bundle that was chosen: its runs, how often their settings were there before, what it adds, what it costs."""

    bundle: int
    runs: Index
    repeats: Index
    gain: Gain
    cost: float


@dataclass(frozen=True)
class _Taken:
    """Runs that are pending or chosen, in order."""

    runs: Index
    repeats: Index

    def of_cell(self, candidates: Candidates, cell: int) -> tuple[Index, Index]:
        here = candidates.cell[self.runs] == cell if len(self.runs) else np.zeros(0, bool)
        return self.runs[here], self.repeats[here]


def settings_of(candidates: Candidates) -> tuple[str, ...]:
    """Cell and setting of each run, as text: equal for replicates."""
    return tuple(
        f"{c} {lr:.6g} {batch:.6g}"
        for c, lr, batch in zip(candidates.cell, candidates.lr_peak, candidates.batch_tokens, strict=True)
    )


def choose(
    decision: Decision,
    outcomes: Outcomes,
    candidates: Candidates,
    *,
    budget: float,
    n_runs: int,
    n_samples: int,
    price: Array | None = None,
    pending: Index | None = None,
    replicates: bool = True,
    thrifty: bool = True,
) -> tuple[Rule, list[Choice]]:
    """The greedy batch: the bundle with the most EVSI per price, again and again.

    Every bundle is screened to second order; the most promising are evaluated in full, and again when something was
    chosen (lazily: a value only falls as more is known, nearly always).

    Parameters
    ----------
    decision, outcomes, candidates
        Draws of the decision and of the candidates' outcomes, joint.
    budget
        Most that may be spent, in the unit of `price`.
    n_runs
        Most runs.
    n_samples
        Number of draws.
    price (run,)
        Price of each run; FLOPs by default.
    pending
        Runs under way (indices): known before any choice, and paid.
    replicates
        Whether a setting may be run again.
    thrifty
        False: the most EVSI whatever the price, inside the budget. For money that is there to be spent.

    Returns
    -------
    The rule before any choice (pending runs seen); its risk is the EVPI. The choices, in order.
    """
    cost = candidates.bundle_cost(price)
    setting = settings_of(candidates)
    base = rule_without_data(decision, n_samples)
    taken = _Taken(np.zeros(0, np.int64), np.zeros(0, np.int64))
    waiting = dict.fromkeys(candidates.cell[pending].tolist() if pending is not None else ())
    for cell in waiting:
        assert pending is not None
        own = pending[candidates.cell[pending] == cell]
        repeats = repeats_of(setting, own, taken.runs)
        none = taken.runs[:0]
        gain = gain_of(decision, base, outcomes, candidates, own, repeats, none, none, summaries=True)
        base = compressed(decision, gain.rule)
        taken = _Taken(np.append(taken.runs, own), np.append(taken.repeats, repeats))
    start = base
    size = np.array([len(b) for b in candidates.bundles])
    open_ = np.flatnonzero((cost <= budget * (1 + 1e-12)) & (size <= n_runs))
    if not len(open_):
        return start, []
    rough = np.full(len(candidates), -np.inf)
    rough[open_] = screen(decision, base, outcomes, candidates, open_.tolist())
    half = _SHORTLIST // 2
    per_price = np.argsort(-rough / cost)
    solid = per_price[rough[per_price] > WORTHWHILE * base.risk]
    alive = set(np.argsort(-rough)[:half].tolist()) | set(solid[:half].tolist())
    alive |= {b for c in dict.fromkeys(candidates.cell[taken.runs].tolist()) for b in _beside(candidates, open_, c)}
    alive &= set(open_.tolist())

    def value(b: int) -> Gain:
        runs = candidates.bundles[b]
        cell = int(candidates.cell[runs[0]])
        own, own_repeats = taken.of_cell(candidates, cell)
        repeats = repeats_of(setting, runs, taken.runs)
        return gain_of(
            decision, base, outcomes, candidates, runs, repeats, own, own_repeats, summaries=cell in waiting
        )

    def merit(gain: Gain, b: int) -> tuple[bool, float]:
        sure = gain.evsi - gain.error
        good = gain.evsi > max(WORTHWHILE * base.risk, 2 * gain.error)
        return good, sure / cost[b] if good and thrifty else sure

    known = {b: value(b) for b in sorted(alive)}
    left, runs_left = budget, n_runs
    chosen: list[Choice] = []
    stale: set[int] = set()
    while runs_left > 0:
        fits = [b for b in sorted(known) if cost[b] <= left * (1 + 1e-12) and size[b] <= runs_left]
        fits = [b for b in fits if _allowed(setting, candidates.bundles[b], taken.runs, replicates)]
        order = [(tuple(-float(v) for v in merit(known[b], b)), b) for b in fits]
        heapq.heapify(order)
        for _ in range(_EVALUATIONS):
            if not order or order[0][1] not in stale:
                break
            b = heapq.heappop(order)[1]
            known[b] = value(b)
            stale.discard(b)
            heapq.heappush(order, (tuple(-float(v) for v in merit(known[b], b)), b))
        fresh = [entry for entry in order if entry[1] not in stale]
        if not fresh:
            break
        best = min(fresh)[1]
        gain = known[best]
        if gain.evsi <= 2 * gain.error and chosen:
            break
        runs = candidates.bundles[best]
        repeats = repeats_of(setting, runs, taken.runs)
        chosen.append(Choice(best, runs, repeats, gain, float(cost[best])))
        taken = _Taken(np.append(taken.runs, runs), np.append(taken.repeats, repeats))
        left, runs_left = left - cost[best], runs_left - len(runs)
        base = compressed(decision, gain.rule)
        stale = set(known)
        for b in _beside(candidates, open_, int(candidates.cell[runs[0]])):
            if cost[b] <= left and size[b] <= runs_left:
                known[b] = value(b)
                stale.discard(b)
    return start, chosen


def repeats_of(setting: Sequence[str], runs: Index, before: Index) -> Index:
    """How often each run's setting was there before it."""
    seen = [setting[i] for i in before]
    out = []
    for run in runs:
        out.append(seen.count(setting[run]))
        seen.append(setting[run])
    return np.array(out, dtype=np.int64)


def _allowed(setting: Sequence[str], runs: Index, before: Index, replicates: bool) -> bool:
    """Whether a bundle may follow: a sweep never repeats runs, a single run only where that is allowed."""
    again = bool({setting[i] for i in runs} & {setting[i] for i in before})
    return not again or (replicates and len(runs) == 1)


def _beside(candidates: Candidates, open_: Index, cell: int) -> list[int]:
    """Single runs of a cell, at most a few dozen of them, evenly spread."""
    first = {int(b): candidates.bundles[b] for b in open_}
    lone = [b for b, runs in first.items() if len(runs) == 1 and candidates.cell[runs[0]] == cell]
    return lone[:: max(1, -(-len(lone) // _BESIDE))]
