"""Proposals for a real target, and the verdict's arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scaleband.design import (
    USUAL_SLOPE,
    Candidates,
    Limits,
    Rule,
    Slopes,
    Verdict,
    as_flops,
    candidates_from_table,
    draws_digest,
    frontier_slope,
    grid_candidates,
    proposals_from_json,
    propose,
    share_lost,
    weigh,
)
from scaleband.errors import UserError
from scaleband.laws import Cells, LawDraws

LIMITS = Limits(sizes=((1e8, 1e8), (2e8, 2e8)), tokens=(2e9, 8e9), flops_max=2e19)
BUDGET = 4e19


def test_a_batch_for_a_new_team(draws: LawDraws, stranger: Cells) -> None:
    c = grid_candidates(draws, stranger, LIMITS)
    found = propose(draws, stranger, c, budget_flops=BUDGET, n_runs=8, seed=2, target_runs=3)
    ids = [p.run_id for p in found.proposals]
    assert len(set(ids)) == len(ids) <= 8
    spent = sum(p.flops for p in found.proposals)
    assert spent <= BUDGET
    assert found.budget_left_flops == pytest.approx(BUDGET - spent)
    assert found.verdict.action == "continue"  # nothing is known yet
    assert 0 < found.verdict.evsi <= found.verdict.evpi * 1.01
    first = [p for p in found.proposals if p.bundle == found.proposals[0].bundle]
    assert len(first) >= 3  # a lone run in a new cell teaches little
    assert len({(p.inputs["n_params"], p.inputs["n_tokens"]) for p in first}) == 1
    assert all(p.evsi == first[0].evsi > 2 * p.evsi_error for p in first)
    assert proposals_from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.draws_digest == draws_digest(draws)
    again = propose(draws, stranger, c, budget_flops=BUDGET, n_runs=8, seed=2, target_runs=3)
    assert again == found


def test_the_verdict_counts_the_overhead(draws: LawDraws, stranger: Cells) -> None:
    c = grid_candidates(draws, stranger, LIMITS)
    found = propose(draws, stranger, c, budget_flops=BUDGET, n_runs=6, price=c.flops + 1e18)
    assert all(p.overhead_flops == pytest.approx(1e18) for p in found.proposals)
    assert found.budget_left_flops == pytest.approx(BUDGET - sum(p.price_flops for p in found.proposals))
    assert sum(p.price_flops for p in found.worthwhile()) == pytest.approx(found.verdict.cost_flops)
    dear = propose(draws, stranger, c, budget_flops=1e24, n_runs=6, price=c.flops + 1e22)
    assert dear.verdict.stop
    assert dear.verdict.cost_flops > 1e22


def test_pending_runs_are_conditioned_on(draws: LawDraws, stranger: Cells) -> None:
    c = grid_candidates(draws, stranger, LIMITS)
    first = propose(draws, stranger, c, budget_flops=BUDGET, n_runs=5)
    waiting = candidates_from_table(pd.DataFrame([dict(p.inputs) | {"run_id": p.run_id} for p in first.proposals]))
    after = propose(draws, stranger, c, budget_flops=BUDGET, n_runs=5, pending=waiting)
    assert after.pending == tuple(p.run_id for p in first.proposals)
    gain = sum({p.bundle: p.evsi for p in first.proposals}.values())
    assert after.verdict.evpi == pytest.approx(first.verdict.evpi - gain, rel=0.15)
    again = [p for p in after.proposals if any(p.inputs == q.inputs for q in first.proposals)]
    assert all(p.replicate for p in again)
    assert not {p.run_id for p in after.proposals} & {p.run_id for p in first.proposals}


def test_many_pending_runs_of_a_cell_count_with_few_draws_too(
    draws: LawDraws, stranger: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, batches = (v.ravel() for v in np.meshgrid(np.geomspace(2.5e-4, 1.6e-2, 6), np.geomspace(6e4, 1e6, 6)))
    pending = candidates_from_table(pd.DataFrame({
        "source": "us", "arch": "dense", "data": "web", "n_params": 2e8, "n_tokens": 4e9, "lr_peak": rates,
        "batch_tokens": batches,
    }))  # fmt: skip
    one = candidates_from_table(pd.DataFrame([pending.inputs(0) | {"n_tokens": 8e9}]))

    def verdict(n_draws: int, pending: Candidates | None) -> Verdict:
        some = draws.take(np.linspace(0, draws.n_samples - 1, n_draws).astype(int))
        return propose(some, stranger, one, budget_flops=BUDGET, pending=pending).verdict

    then = verdict(100, pending)
    assert then.evpi < 0.8 * verdict(100, None).evpi
    assert "pending" not in then.why
    monkeypatch.setattr("scaleband.design.evsi._MOST_OPTIMISM", 0.0)  # draws that tell nothing
    assert "what the pending runs will show is not counted in, because the 100 draws" in verdict(100, pending).why


def test_a_well_known_target_is_left_alone(draws: LawDraws, known: Cells) -> None:
    c = grid_candidates(draws, known, replace(LIMITS, sizes=((6e7, 6e7), (2e8, 2e8))))
    found = propose(draws, known, c, budget_flops=1e20, n_runs=6)
    assert found.verdict.stop
    assert found.verdict.saving_flops < found.verdict.cost_flops
    assert found.verdict.why.startswith("stop: the next bundle")


def test_budget_too_small_for_anything(draws: LawDraws, stranger: Cells) -> None:
    found = propose(draws, stranger, grid_candidates(draws, stranger, LIMITS), budget_flops=1e9)
    assert found.proposals == ()
    assert found.verdict.stop
    assert "the budget is 1e+09" in found.verdict.why
    assert found.verdict.evpi > 0.1


def test_only_bundles_that_are_too_large(draws: LawDraws, stranger: Cells) -> None:
    frame = pd.DataFrame({
        "source": "us", "arch": "dense", "data": "web", "n_params": 1e8, "n_tokens": 2e9,
        "lr_peak": [1e-3, 2e-3, 4e-3], "batch_tokens": 131_072.0, "bundle": "all",
    })  # fmt: skip
    found = propose(draws, stranger, candidates_from_table(frame), budget_flops=1e20, n_runs=2)
    assert found.proposals == ()
    assert "at most 2 runs" in found.verdict.why


def test_ids_of_a_table_are_kept(draws: LawDraws, stranger: Cells) -> None:
    rates = np.exp(np.linspace(np.log(5e-4), np.log(2e-2), 9))
    frame = pd.DataFrame({
        "source": "us", "arch": "dense", "data": "web", "n_params": 1e8, "n_tokens": 2e9,
        "lr_peak": np.tile(rates, 3), "batch_tokens": np.repeat([65_536.0, 131_072.0, 262_144.0], 9),
        "run_id": [f"mine-{k}" for k in range(27)], "bundle": np.repeat(["a", "b", "c"], 9),
    })  # fmt: skip
    found = propose(
        draws, stranger, candidates_from_table(frame), budget_flops=1e20, n_runs=9, replicates=False
    )
    assert [p.run_id for p in found.proposals] == [p.run_id for p in found.proposals if p.run_id.startswith("mine-")]
    assert len(found.proposals) == 9


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"budget_flops": 0.0}, "the budget is 0"),
        ({"budget_flops": np.nan}, "the budget is nan"),
        ({"budget_flops": 1e19, "n_runs": 0}, "the number of runs is 0"),
        ({"budget_flops": 1e19, "target_runs": -1}, "target runs is -1"),
    ],
)
def test_senseless_numbers_are_refused(draws: LawDraws, stranger: Cells, words: dict, says: str) -> None:
    row = {"source": "us", "arch": "dense", "data": "web", "n_params": 1e8, "n_tokens": 2e9, "lr_peak": 1e-3}
    c = candidates_from_table(pd.DataFrame([row | {"batch_tokens": 1e5}]))
    with pytest.raises(UserError, match=says):
        propose(draws, stranger, c, **words)


def test_regret_as_compute() -> None:
    assert as_flops(0.02, 1e21, 3.0) == pytest.approx(1e21 * 0.02 / 3, rel=0.01)  # 0.02 % is 0.7 % of a run
    assert as_flops(-0.1, 1e21, 3.0) == 0
    assert as_flops(50.0, 1e21, 3.0) < 1e21  # never more than the run


def test_slope_from_the_level_law(draws: LawDraws, known: Cells) -> None:
    slope = frontier_slope(draws, known)
    assert 1.5 < slope < 6
    law = draws.law.copy()
    law[:, 4, :] = 0  # a fit that knows nothing of levels
    assert frontier_slope(replace(draws, law=law), known) == USUAL_SLOPE


def test_the_verdict_weighs_beginnings_of_the_path() -> None:
    # a target of 100 FLOP, of which 70 are expected to be lost
    go = weigh([(0.1, 0.01, 20.0), (0.9, 0.01, 20.0)], [0.7, 0.6, 0.2], evpi=1.2, target_flops=100.0)
    assert go.action == "continue"  # the first alone would not pay
    assert go.cost_flops == 40
    assert go.saving_flops == pytest.approx(50)
    assert go.evsi == pytest.approx(1.0)
    assert "the next 2 bundles cost 40 FLOPs" in go.why
    halt = weigh([(0.1, 0.01, 20.0)], [0.1, 0.0], evpi=0.1, target_flops=100.0)
    assert halt.stop
    assert "even knowing everything would save 10" in halt.why
    wide = weigh([(0.1, 0.2, 20.0)], [0.1, 0.3], evpi=9.0, target_flops=100.0)
    assert wide.saving_flops == 0.0, "what is learned takes nothing away"
    assert "is expected to save nothing over 1 target run" in wide.why
    many = weigh([(0.1, 0.01, 20.0)], [0.1, 0.0], evpi=0.1, target_flops=100.0, target_runs=10)
    assert many.action == "continue"
    assert many.saving_flops == pytest.approx(100)
    assert "over 10 target runs" in many.why


def test_a_wasted_run_costs_one_run() -> None:
    """Half of the draws end far up a wall: half a run is lost, whatever the mean regret says."""
    n = 1000
    slopes = Slopes(np.where(np.arange(n) < n // 2, 0.0, 400.0), np.zeros((n, 2)), np.zeros((n, 2, 2)))
    rule = Rule(np.ones((n, 1)), np.zeros((1, 2)), slopes, 200.0)
    assert share_lost(rule, 3.0) == pytest.approx(0.5)
    assert as_flops(200.0, 1.0, 3.0) == pytest.approx(1.0)  # what a certain regret of that mean would be worth
    certain = replace(rule, slopes=slopes._replace(value=np.full(n, 0.5)), risk=0.5)
    assert share_lost(certain, 3.0) == pytest.approx(as_flops(0.5, 1.0, 3.0))
    assert share_lost(replace(certain, risk=0.6), 3.0) == pytest.approx(as_flops(0.6, 1.0, 3.0))  # optimism taken off
    assert share_lost(replace(certain, slopes=slopes._replace(value=np.zeros(n)), risk=0.0), 3.0) == 0.0
