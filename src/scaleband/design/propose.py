"""Choose the next runs: bundles one after another, each for what it adds to those before it and to what is pending."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.design.candidates import Candidates, Index
from scaleband.design.costs import flops_cost
from scaleband.design.decisions import Decision, setting_decision
from scaleband.design.evsi import Gain, Rule, bundle_features, compressed, evsi_of, rule_without_data, screen
from scaleband.design.outcomes import SEED_SHARE, LawOutcomes, Outcomes, joined, law_outcomes, made_before
from scaleband.design.proposals import Proposal, Proposals
from scaleband.design.verdict import frontier_slope, share_lost, weigh
from scaleband.errors import UserError
from scaleband.laws import Cells, LawDraws
from scaleband.predict import basins

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MOST_DRAWS = 2000
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
    for cell in dict.fromkeys(candidates.cell[pending].tolist() if pending is not None else ()):
        assert pending is not None
        own = pending[candidates.cell[pending] == cell]
        repeats = _repeats(setting, own, taken.runs)
        features = bundle_features(outcomes, candidates, own, repeats, taken.runs[:0], taken.repeats[:0])
        base = compressed(decision, evsi_of(decision, base, features).rule)
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
        own, own_repeats = taken.of_cell(candidates, int(candidates.cell[runs[0]]))
        repeats = _repeats(setting, runs, taken.runs)
        return evsi_of(decision, base, bundle_features(outcomes, candidates, runs, repeats, own, own_repeats))

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
        repeats = _repeats(setting, runs, taken.runs)
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


def _repeats(setting: Sequence[str], runs: Index, before: Index) -> Index:
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


def thinned(draws: LawDraws, most: int = MOST_DRAWS) -> LawDraws:
    """At most `most` draws, evenly spaced."""
    if draws.n_samples <= most:
        return draws
    at = np.linspace(0, draws.n_samples - 1, most).round().astype(int)
    return draws.take(at)


def draws_digest(draws: LawDraws) -> str:
    """SHA-256 of the posterior draws."""
    digest = hashlib.sha256()
    for name in ("law", "scatter", "offset_scale", "state", "sigma", "rho", "nu"):
        digest.update(np.ascontiguousarray(getattr(draws, name), dtype="<f8").tobytes())
    return digest.hexdigest()


def propose(
    draws: LawDraws,
    target: Cells,
    candidates: Candidates,
    *,
    budget_flops: float,
    n_runs: int = 8,
    pending: Candidates | None = None,
    made: pd.DataFrame | None = None,
    price: Array | None = None,
    seed: int = 0,
    target_runs: float = 1.0,
    slope: float | None = None,
    replicates: bool = True,
    thrifty: bool = True,
    seed_share: float = SEED_SHARE,
) -> Proposals:
    """The next runs for the setting at one target, and whether they are worth it.

    Parameters
    ----------
    draws
        A fit.
    target
        One cell: where the setting will be used.
    candidates
        What can be run; see `candidates_from_table`, `grid_candidates`, `with_mini_sweeps`.
    budget_flops
        Most that these runs may cost together, FLOP.
    n_runs
        Most runs.
    pending
        Runs under way; their results are taken as known before anything else is valued.
    made
        Run table behind the fit: a candidate whose setting it has is a replicate, of which only the seed is news.
    price (run,)
        What each candidate costs, its training by default. In FLOP, because the verdict weighs it against FLOPs at the
        target: hours and dollars (`design.costs`) are divided by what a FLOP costs, so that overhead counts.
    seed
        Of the noise in the outcome draws.
    target_runs
        Final runs that the decision will serve.
    slope
        Percent of loss per e-fold of compute at the target; from the fit's level law by default.
    replicates, thrifty
        As in `choose`.
    seed_share
        The seed's share of sigma^2; see `SEED_SHARE`.

    Raises
    ------
    UserError
        A budget, a number of runs or of targets that is not positive.
    """
    for name, given in (("the budget", budget_flops), ("the number of runs", n_runs), ("target runs", target_runs)):
        if not (np.isfinite(given) and given > 0):
            raise UserError(f"{name} is {given:g}; give a positive number")
    if len(target) != 1:
        raise UserError(f"a proposal serves one target, not {len(target)}")
    digest = draws_digest(draws)
    some = thinned(draws)
    under_way = np.zeros(0, np.int64)
    price = candidates.flops if price is None else price
    if pending is not None and len(pending.cell):
        candidates, under_way = joined(candidates, pending)
        price = np.concatenate([price, np.zeros(len(under_way))])  # paid already
    known = made_before(candidates, made)
    outcomes = law_outcomes(some, candidates, seed=seed, seed_share=seed_share, made=known)
    decision = setting_decision(basins(some, target))
    start, chosen = choose(
        decision, outcomes, candidates, budget=budget_flops, n_runs=n_runs, n_samples=some.n_samples, price=price,
        pending=under_way, replicates=replicates, thrifty=thrifty,
    )  # fmt: skip
    slope = frontier_slope(some, target) if slope is None else slope
    target_flops = float(flops_cost(target.n_active, target.n_tokens)[0])
    cheapest = float(candidates.bundle_cost(price).min()) if len(candidates) else np.inf
    why_empty = f"the cheapest candidate costs {cheapest:.2g} and the budget is {budget_flops:.2g}"
    if cheapest <= budget_flops:
        why_empty = f"no bundle that is affordable has at most {n_runs} runs"
    verdict = weigh(
        [(c.gain.evsi, c.gain.error, c.cost) for c in chosen],
        [share_lost(rule, slope) for rule in (start, *(c.gain.rule for c in chosen))],
        evpi=start.risk,
        target_flops=target_flops,
        target_runs=target_runs,
        why_empty=why_empty,
    )
    overhead = price - candidates.flops
    proposals = [
        p for k, c in enumerate(chosen) for p in _runs_of(c, k, outcomes, candidates, overhead, digest, seed, target)
    ]
    return Proposals(
        proposals=tuple(proposals),
        verdict=verdict,
        budget_flops=float(budget_flops),
        budget_left_flops=float(budget_flops - sum(c.cost for c in chosen)),
        draws_digest=digest,
        seed=seed,
        target={
            "decision": "setting", "source": target.source[0], "arch": target.arch[0], "data": target.data[0],
            "n_params": float(target.n_params[0]), "n_active": float(target.n_active[0]),
            "n_tokens": float(target.n_tokens[0]), "flops": target_flops, "percent_per_efold": slope,
            "evpi_flops_per_run": target_flops * share_lost(start, slope),
        },
        pending=tuple(candidates.run_id[i] for i in under_way),
    )  # fmt: skip


def _runs_of(
    choice: Choice, k: int, outcomes: LawOutcomes, candidates: Candidates, overhead: Array, digest: str, seed: int,
    target: Cells,
) -> list[Proposal]:
    """One chosen bundle as rows of the run table."""
    wrecked = outcomes.p_diverged(choice.runs)
    where = f"{target.source[0]}/{target.arch[0]}/{target.data[0]}/{target.n_params[0]:.6g}/{target.n_tokens[0]:.6g}"
    out = []
    for run, repeat, p in zip(choice.runs, choice.repeats, wrecked, strict=True):
        inputs = candidates.inputs(int(run))
        given = candidates.run_id[run] if candidates.run_id else ""
        key = f"{digest} {seed} {where} {k} {sorted(inputs.items())} {repeat}"
        made = f"sb-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        name = (given if not repeat else f"{given}-r{repeat}") if given else made
        out.append(
            Proposal(
                run_id=name,
                inputs=inputs,
                flops=float(candidates.flops[run]),
                evsi=choice.gain.evsi,
                evsi_error=choice.gain.error,
                bundle=f"{digest[:6]}-{seed}-{k + 1}",
                replicate=bool(repeat),
                p_diverged=float(p),
                overhead_flops=float(overhead[run]),
            )
        )
    return out
