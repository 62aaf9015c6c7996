"""Outcome draws: replicates of runs that were made already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from scaleband.design import candidates_from_table, law_outcomes, made_before, propose
from scaleband.laws import LawDraws
from scaleband.predict import basins, recommend, target_cells

RATES = np.array([1.0, 2.0, 0.5])


def table(draws: LawDraws) -> pd.DataFrame:
    cells = target_cells(3e8, 9e9, source="us", data="web")
    best = recommend(basins(draws, cells))
    return pd.DataFrame({
        "source": "us", "arch": "dense", "data": "web", "n_params": 3e8, "n_active": 3e8, "n_tokens": 9e9,
        "lr_peak": best.lr_peak[0] * RATES, "batch_tokens": best.batch_tokens[0],
    })  # fmt: skip


def test_what_was_made_is_found_by_setting(draws: LawDraws) -> None:
    frame = table(draws)
    history = pd.concat([frame.iloc[[1, 1, 2]], frame.iloc[[0]].assign(lr_peak=0.7)], ignore_index=True)
    history = history.assign(loss=[2.9, 3.0, 3.1, 2.5], status=["completed", "completed", "diverged", "completed"])
    found = made_before(candidates_from_table(frame), history)
    np.testing.assert_allclose(found[1], [50 * (np.log(2.9) + np.log(3.0)), 2])
    assert not found[[0, 2]].any()
    assert not made_before(candidates_from_table(frame), None).any()
    # counts are rounded in one table and not in the other: still the same run
    rounded = frame.assign(n_params=frame["n_params"] * 1.0008, n_active=frame["n_active"] * 1.0008,
                           n_tokens=frame["n_tokens"] * 0.996, lr_peak=frame["lr_peak"] * 1.004)  # fmt: skip
    np.testing.assert_allclose(made_before(candidates_from_table(rounded), history), found)
    other = frame.assign(n_tokens=frame["n_tokens"] * 1.02)
    assert not made_before(candidates_from_table(other), history).any()


def test_only_the_seed_of_a_replicate_is_news(draws: LawDraws) -> None:
    candidates = candidates_from_table(table(draws))
    runs, none = np.arange(3), np.zeros(3, int)
    fresh = law_outcomes(draws, candidates, seed=3)
    before = fresh.draws(runs, none)
    for outcome in before[[7, 100, 200], 1]:
        made = np.zeros((3, 2))
        made[1] = outcome + fresh.middle[0], 1
        after = law_outcomes(draws, candidates, seed=3, made=made).draws(runs, none)
        np.testing.assert_array_equal(after[:, [0, 2]], before[:, [0, 2]])
        # The cell is new and its level unknown: what a fresh run shows is wide (its spread is the yardstick, since a
        # replicate is drawn back a little towards the middle), what the replicate shows is not.
        assert after[:, 1].std() < 0.2 * before[:, 1].std()
        assert abs(np.median(after[:, 1]) - outcome) < 0.05 * before[:, 1].std()


def test_what_a_run_has_from_its_trunk_is_noise_too(draws: LawDraws) -> None:
    """And a repeat has the same."""
    candidates = candidates_from_table(table(draws).assign(source=draws.sources[0]))
    trunks = replace(draws, trunk_scale=np.full(draws.n_samples, 3.0), trunked=draws.sources[:1])
    runs, none = np.arange(3), np.zeros(3, int)
    plain, told = (law_outcomes(d, candidates, seed=3) for d in (draws, trunks))
    assert plain.trunk is None
    more = told.draws(runs, none) - plain.draws(runs, none)
    np.testing.assert_allclose(more.std(0), 3.0, rtol=0.2)
    one = np.zeros(2, int)
    first, again = told.draws(one, np.array([0, 1])).T
    np.testing.assert_allclose(again - first, np.subtract(*plain.draws(one, np.array([1, 0])).T), atol=1e-9)
    assert law_outcomes(replace(trunks, trunked=()), candidates).trunk is None


def test_a_proposal_does_not_pay_twice_for_one_misfit(draws: LawDraws) -> None:
    frame = table(draws).assign(bundle="all", run_id=["a", "b", "c"])
    target = target_cells(np.array([7e8]), np.array([3e10]), source="us", data="web")
    candidates = candidates_from_table(frame)
    history = frame.drop(columns=["bundle", "run_id"]).assign(loss=2.7, status="completed")
    new = propose(draws, target, candidates, budget_flops=1e21, n_runs=3)
    old = propose(draws, target, candidates, budget_flops=1e21, n_runs=3, made=history)
    assert new.proposals[0].evsi > 3 * max([p.evsi for p in old.proposals], default=0.0)
