"""Choose the next runs: bundles one after another, each for what it adds to those before it and to what is pending."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.design.candidates import Candidates, Index
from scaleband.design.choose import Choice, choose
from scaleband.design.costs import flops_cost
from scaleband.design.decisions import SettingDecision, setting_decision
from scaleband.design.evsi import Rule
from scaleband.design.outcomes import SEED_SHARE, LawOutcomes, joined, law_outcomes, made_before
from scaleband.design.proposals import Proposal, Proposals
from scaleband.design.verdict import frontier_slope, share_lost, weigh
from scaleband.errors import UserError
from scaleband.laws import Cells, LawDraws
from scaleband.predict import basins

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MOST_DRAWS = 2000


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


@dataclass(frozen=True)
class Batch:
    """A greedy batch for one target, and what it was chosen from.

    Attributes
    ----------
    candidates
        With the pending runs joined to them.
    outcomes, decision
        Joint draws.
    price (run,)
        FLOP; 0 for what is pending.
    pending
        Indices of the pending runs.
    start
        The rule before any choice, pending runs seen.
    choices
        In order.
    """

    candidates: Candidates
    outcomes: LawOutcomes
    decision: SettingDecision
    price: Array
    pending: Index
    start: Rule
    choices: tuple[Choice, ...]


def greedy_batch(
    draws: LawDraws,
    target: Cells,
    candidates: Candidates,
    *,
    budget_flops: float,
    n_runs: int,
    pending: Candidates | None = None,
    made: pd.DataFrame | None = None,
    price: Array | None = None,
    seed: int = 0,
    replicates: bool = True,
    thrifty: bool = True,
    seed_share: float = SEED_SHARE,
) -> Batch:
    """The runs of `propose` without its verdict; parameters as there. A budget of 0 only takes in what is pending."""
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
    return Batch(candidates, outcomes, decision, price, under_way, start, tuple(chosen))


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
    batch = greedy_batch(
        draws, target, candidates, budget_flops=budget_flops, n_runs=n_runs, pending=pending, made=made, price=price,
        seed=seed, replicates=replicates, thrifty=thrifty, seed_share=seed_share,
    )  # fmt: skip
    candidates, price, start, chosen = batch.candidates, batch.price, batch.start, batch.choices
    some = thinned(draws)
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
    if len(batch.pending) and start.features.shape[1] == 1:  # no feature of theirs was let in
        verdict = replace(verdict, why=f"{verdict.why}; what the pending runs will show is not counted in, because the "
                          f"{some.n_samples} draws do not tell it: fit with more draws")  # fmt: skip
    overhead = price - candidates.flops
    proposals = [
        p
        for k, c in enumerate(chosen)
        for p in _runs_of(c, k, batch.outcomes, candidates, overhead, digest, seed, target)
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
        pending=tuple(candidates.run_id[i] for i in batch.pending),
    )  # fmt: skip


def _runs_of(
    choice: Choice, k: int, outcomes: LawOutcomes, candidates: Candidates, overhead: Array, digest: str, seed: int,
    target: Cells,
) -> list[Proposal]:
    """One chosen bundle as rows of the run table."""
    wrecked = outcomes.p_diverged(choice.runs)
    seen = np.zeros(len(candidates.cell), bool) if outcomes.made is None else outcomes.made[:, 1] > 0
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
                replicate=bool(repeat or seen[run]),
                p_diverged=float(p),
                overhead_flops=float(overhead[run]),
            )
        )
    return out
