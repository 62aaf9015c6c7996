"""Candidates, their limits and prices, and the draws of what they would show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaleband.design import (
    Limits,
    candidates_from_table,
    dollars_cost,
    flops_cost,
    gpu_hours_cost,
    grid_candidates,
    joined,
    law_outcomes,
    limits_from,
    then,
    with_mini_sweeps,
    with_overhead,
)
from scaleband.errors import UserError
from scaleband.laws import Cells, LawDraws
from scaleband.predict import basins, predict_log_loss, target_cells

LIMITS = Limits(sizes=((1e8, 1e8), (4e8, 4e8)), tokens=(2e9, 1e10), flops_max=1e19)


def table(**columns: object) -> pd.DataFrame:
    base = {
        "source": "us", "arch": "dense", "data": "web", "n_params": [1e8] * 4 + [2e8] * 2, "n_tokens": 2e9,
        "lr_peak": [1e-3, 2e-3, 4e-3, 2e-3, 1e-3, 2e-3], "batch_tokens": [2.0**17] * 3 + [2.0**18] + [2.0**17] * 2,
    }  # fmt: skip
    return pd.DataFrame(base | columns)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"flops_max": 1e18}, r"the price of a run\); .* dearer runs \(--run-max, and a budget that pays for them\)"),
        ({"tokens": (2e7,)}, r"fewest steps\); a run has 1000 steps .* longer trainings or smaller batches"),
        ({"device_memory_bytes": 1e9}, r"memory\); the smallest size needs 1.6e\+09 bytes: allow smaller sizes or"),
    ],
)
def test_limits_that_leave_no_run_say_what_would(draws: LawDraws, limits: dict[str, Any], says: str) -> None:
    target = target_cells(1e9, 2e10, source="us", data="web")
    with pytest.raises(UserError, match=says):
        grid_candidates(draws, target, replace(LIMITS, **limits))


def test_costs_compose() -> None:
    n, d = np.array([1e9, 2e9]), np.array([2e10, 2e10])
    np.testing.assert_allclose(flops_cost(n, d), [1.2e20, 2.4e20])
    hours = gpu_hours_cost(989e12, 0.4)(n, d)
    np.testing.assert_allclose(hours, flops_cost(n, d) / (989e12 * 0.4 * 3600))
    np.testing.assert_allclose(dollars_cost(989e12, 0.4, 2.5)(n, d), 2.5 * hours)
    np.testing.assert_allclose(with_overhead(gpu_hours_cost(989e12, 0.4), 0.5)(n, d), hours + 0.5)
    np.testing.assert_allclose(then(flops_cost, np.sqrt)(n, d), np.sqrt(flops_cost(n, d)))


def test_a_table_of_candidates() -> None:
    c = candidates_from_table(table(run_id=list("abcdef"), flops=[np.nan] * 5 + [7.0]))
    assert len(c.cells) == 2
    assert [b.tolist() for b in c.bundles] == [[i] for i in range(6)]
    np.testing.assert_allclose(c.flops, [6 * 1e8 * 2e9] * 4 + [6 * 2e8 * 2e9, 7.0])
    assert c.inputs(3) == {
        "source": "us", "arch": "dense", "data": "web", "n_params": 1e8, "n_active": 1e8, "n_tokens": 2e9,
        "lr_peak": 2e-3, "batch_tokens": 2.0**18,
    }  # fmt: skip


def test_bundles_of_a_table_are_bought_together() -> None:
    c = candidates_from_table(table(bundle=["x", "x", "x", "", "", ""]))
    assert [b.tolist() for b in c.bundles] == [[0, 1, 2], [3], [4], [5]]
    np.testing.assert_allclose(c.bundle_cost(np.arange(6.0)), [3, 3, 4, 5])


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (table().iloc[:0], "no candidates"),
        (table(run_id=list("abcdea")), "'a'"),
        (table(bundle=["x"] * 6), "several cells"),
    ],
)
def test_bad_tables_are_refused(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(UserError, match=says):
        candidates_from_table(frame)


def test_mini_sweeps_stay_in_their_cell(draws: LawDraws) -> None:
    single = candidates_from_table(table())
    c = with_mini_sweeps(single, basins(draws, single.cells))
    assert [b.tolist() for b in c.bundles[:6]] == [[i] for i in range(6)]
    sweeps = c.bundles[6:]
    assert sweeps, "the first cell has four runs"
    for b in sweeps:
        assert len(b) == len(set(b.tolist())) >= 3
        assert set(c.cell[b].tolist()) == {0}
    assert len({tuple(b.tolist()) for b in sweeps}) == len(sweeps)


def test_the_grid_keeps_its_limits(draws: LawDraws, stranger: Cells) -> None:
    memory = replace(LIMITS, device_memory_bytes=1e8 * 16, batch_multiple=24_576, batch_min=5e4, batch_max=1e6)
    c = grid_candidates(draws, stranger, memory)
    assert set(c.cells.n_params) == {1e8}
    assert (c.flops <= LIMITS.flops_max).all()
    assert (c.batch_tokens % 24_576 == 0).all()
    assert ((c.batch_tokens >= 5e4) & (c.batch_tokens <= 1e6)).all()
    assert (c.cells.n_tokens[c.cell] / c.batch_tokens >= LIMITS.steps_min).all()
    assert {len(b) for b in c.bundles} >= {1, 3, 5}
    assert c.cells.source[0] == "us"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (replace(LIMITS, flops_max=1e10), "the price of a run"),
        (replace(LIMITS, device_memory_bytes=1e3), "the device's memory"),
        (replace(LIMITS, steps_min=1e12), "the fewest steps"),
        (replace(LIMITS, tokens=(1e8,), batch_multiple=524_288.0, batch_min=4096.0), "the fewest steps"),
        (replace(LIMITS, batch_multiple=3000.0, batch_min=4e3, batch_max=5e3), "power of two"),
        (replace(LIMITS, batch_multiple=1.0, batch_min=1e11, batch_max=2e11), "power of two"),
    ],
)
def test_an_empty_grid_says_why(draws: LawDraws, stranger: Cells, limits: Limits, says: str) -> None:
    with pytest.raises(UserError, match=says):
        grid_candidates(draws, stranger, limits)


def test_limits_come_from_the_fit(draws: LawDraws, known: Cells, stranger: Cells) -> None:
    own = limits_from(draws, known, flops_max=1e20)
    dense = {n for n, a in zip(draws.cells.n_params, draws.cells.arch, strict=True) if a == "dense"}
    assert {n for n, _ in own.sizes} <= dense
    assert limits_from(draws, stranger, flops_max=1e20).sizes
    assert set(own.tokens) <= set(draws.cells.n_tokens)
    cells = grid_candidates(draws, known, own, mini_sweeps=False).cells
    assert any(draws.matching_cell(cells, c) is not None for c in range(len(cells)))  # fitted cells are met again


def test_tokens_in_whole_steps_are_one_cell() -> None:
    """As in a run table: what a batch leaves over of the tokens does not make another cell of it."""
    batch = 2.0 ** np.arange(17, 21)
    rows = pd.DataFrame({"source": "us", "arch": "dense", "data": "web", "n_params": 1e8, "lr_peak": 1e-3,
                         "batch_tokens": batch, "n_tokens": batch * (2e9 // batch), "bundle": "all"})  # fmt: skip
    assert rows["n_tokens"].nunique() > 1
    c = candidates_from_table(rows)
    assert len(c.cells) == len(c.bundles) == 1
    assert c.cells.n_tokens[0] == rows["n_tokens"].min()
    assert [c.inputs(k)["n_tokens"] for k in range(4)] == rows["n_tokens"].tolist()
    both, at = joined(c, candidates_from_table(rows.assign(n_tokens=8e9, bundle="")))
    assert len(both.cells) == 2
    assert [both.inputs(int(k))["n_tokens"] for k in (0, at[0])] == [rows["n_tokens"][0], 8e9]


def test_models_of_one_size_and_other_active_parameters_stay_apart() -> None:
    rows = table(arch="moe", n_params=1e9, n_active=[1e8, 4e8] * 3)
    c = candidates_from_table(rows)
    assert c.cells.n_active.tolist() == [1e8, 4e8]
    np.testing.assert_allclose(c.flops, 6 * rows["n_active"] * rows["n_tokens"])
    both, at = joined(c, candidates_from_table(rows.iloc[[1]]))
    assert len(both.cells) == 2
    assert both.inputs(int(at[0])) == c.inputs(1)


def test_sizes_that_differ_by_rounding_are_proposed_as_they_were_given() -> None:
    rows = table(n_params=[1.0008e8, 1e8] * 3)
    c = candidates_from_table(rows)
    assert len(c.cells) == 1
    assert c.cells.n_active[0] == c.cells.n_params[0] == 1e8
    assert [(r["n_params"], r["n_active"]) for r in map(c.inputs, range(2))] == [(1.0008e8, 1.0008e8), (1e8, 1e8)]


def test_outcomes_are_the_runs_that_predict_foretells(draws: LawDraws, stranger: Cells) -> None:
    c = grid_candidates(draws, stranger, LIMITS, mini_sweeps=False)
    out = law_outcomes(draws, c, seed=1)
    middle = [int(np.flatnonzero(c.cell == k)[len(np.flatnonzero(c.cell == k)) // 2]) for k in range(len(c.cells))]
    y = out.draws(np.array(middle), np.zeros(len(middle), int)) + out.middle
    b = basins(draws, c.cells)
    told = 100 * predict_log_loss(draws, b, c.lr_peak[middle], c.batch_tokens[middle], mean=True)
    low = told - b.level < 10  # further up the noise is as large as the wall is high
    assert low.mean() > 0.5
    assert np.median(np.abs(y - told)[low]) < 0.5
    assert np.corrcoef(y[low], told[low])[0, 1] > 0.99


def test_replicates_share_their_setting_and_not_their_seed(draws: LawDraws, known: Cells) -> None:
    c = grid_candidates(draws, known, LIMITS, mini_sweeps=False)
    run = np.array([len(c.cell) // 2] * 3)
    out = law_outcomes(draws, c, seed=3, seed_share=0.5)
    first, again, same = out.draws(run, np.array([0, 1, 0])).T
    np.testing.assert_array_equal(first, same)
    other = law_outcomes(draws, c, seed=3, seed_share=0.01)
    small = np.subtract(*other.draws(run[:2], np.array([0, 1])).T)
    assert 0 < small.std() < 0.35 * (first - again).std()


def test_runs_that_would_diverge_are_known_as_such(draws: LawDraws, stranger: Cells) -> None:
    frame = table(lr_peak=[1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 3.0])
    c = candidates_from_table(frame)
    out = law_outcomes(draws, c)
    p = out.p_diverged(np.arange(6))
    assert p[5] > 0.9
    assert p[0] < 0.2
    wall = out.draws(np.array([5]), np.array([0]))
    assert np.quantile(wall + out.middle[1] - out.state[:, 4, [1]], 0.99) < 60  # a threshold, not a wall of a million


def test_pending_runs_join_the_cells_they_lie_in() -> None:
    a, b = candidates_from_table(table()), candidates_from_table(table(n_tokens=4e9).iloc[[0, 4]])
    both, where = joined(a, b)
    assert where.tolist() == [6, 7]
    assert len(both.cells) == 4
    assert len(both.bundles) == len(a.bundles)
    same, at = joined(a, candidates_from_table(table().iloc[[0]]))
    assert len(same.cells) == 2
    assert same.cell[at].tolist() == [0]
