"""The greedy batch: inside its budget, not twice the same, near the best set there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from made_problems import gaussian_problem

from scaleband.design import choose

N = 2000


@pytest.mark.parametrize(("budget", "n_runs"), [(5e19, 6), (3e18, 16), (1e22, 16)])
def test_budget_and_count_are_kept(budget: float, n_runs: int) -> None:
    p = gaussian_problem(0)
    _, chosen = choose(p.decision, p.outcomes, p.candidates, budget=budget, n_runs=n_runs, n_samples=N)
    assert chosen
    assert sum(c.cost for c in chosen) <= budget
    assert sum(len(c.runs) for c in chosen) <= n_runs
    assert all(c.cost == pytest.approx(p.candidates.flops[c.runs].sum()) for c in chosen)


def test_nothing_affordable_chooses_nothing() -> None:
    p = gaussian_problem(0)
    base, chosen = choose(p.decision, p.outcomes, p.candidates, budget=1.0, n_runs=5, n_samples=N)
    assert not chosen
    assert base.risk > 0.3


def test_greedy_is_near_the_best_pair_of_sweeps() -> None:
    p = gaussian_problem(2)
    flat = np.ones(len(p.candidates.cell))  # one price for every run: the choice is about value alone
    _, chosen = choose(p.decision, p.outcomes, p.candidates, budget=10.0, n_runs=10, n_samples=N, price=flat)
    reached = p.exact(np.concatenate([c.runs for c in chosen]))
    fives = [b for b in p.candidates.bundles if len(b) == 5]
    best = max(p.exact(np.concatenate(pair)) for pair in itertools.combinations(fives, 2))
    assert reached >= 0.85 * best
    # What it says it will learn is what it learns.
    said, error = sum(c.gain.evsi for c in chosen), np.sqrt(sum(c.gain.error**2 for c in chosen))
    assert said == pytest.approx(reached, abs=3 * error)


def test_replicates_only_where_allowed() -> None:
    p = gaussian_problem(1, level_sd=0.1)
    flat = np.ones(len(p.candidates.cell))
    for allowed in (True, False):
        _, chosen = choose(
            p.decision, p.outcomes, p.candidates, budget=12.0, n_runs=12, n_samples=N, price=flat, replicates=allowed
        )
        runs = np.concatenate([c.runs for c in chosen])
        repeats = np.concatenate([c.repeats for c in chosen])
        pairs = set(zip(runs.tolist(), repeats.tolist(), strict=True))
        assert len(pairs) == len(runs)  # a replicate is another seed, never the same run
        assert repeats.any() == allowed
        assert (len(set(runs.tolist())) < len(runs)) == allowed


def test_pending_runs_lower_what_is_left_to_learn() -> None:
    p = gaussian_problem(3)
    pending = np.flatnonzero(p.candidates.cell == 11)
    base, chosen = choose(p.decision, p.outcomes, p.candidates, budget=1e23, n_runs=5, n_samples=N, pending=pending)
    now = 0.5 * np.trace(p.decision.hessian @ p.prior)
    assert base.risk == pytest.approx(now - p.exact(pending), rel=0.12)
    fresh, _ = choose(p.decision, p.outcomes, p.candidates, budget=1e23, n_runs=5, n_samples=N)
    assert fresh.risk > 2 * base.risk
    assert not set(pending.tolist()) & {int(r) for c in chosen for r in c.runs if not c.repeats.any()}


def test_same_seed_same_choice() -> None:
    def once() -> list[list[int]]:
        p = gaussian_problem(7)
        _, chosen = choose(p.decision, p.outcomes, p.candidates, budget=1e22, n_runs=12, n_samples=N)
        return [c.runs.tolist() for c in chosen]

    assert once() == once()
