"""Runs valued for the choice of a size under a budget, loss laws fitted to cheap runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference"))

from made_losses import simulated_losses, true_loss

from made_laws import made_laws, true_log_loss
from scaleband.design import (
    allocation_from_loss_laws,
    candidates_from_table,
    choose,
    isoflop_cells,
    loss_law_slope,
    loss_outcomes,
    rule_without_data,
)
from scaleband.inference.loss_fit import quick_stack
from scaleband.inference.loss_table import table_from_runs
from scaleband.laws.loss.draws import LossDraws
from scaleband.runs import run_table

FLOPS = 1e22
GROUP = ("sim", "dense", "web")


@pytest.fixture(scope="module")
def fitted() -> LossDraws:
    """Laws of runs of at most 1e19 FLOPs."""
    frame = simulated_losses()
    cheap = frame[6 * frame["n_params"] * frame["n_tokens"] < 1.1e19]
    return quick_stack(table_from_runs(run_table(cheap, purpose="loss").frame), ["chinchilla"])[0]


def test_the_size_for_a_budget(fitted: LossDraws) -> None:
    sizes = np.exp(np.linspace(np.log(3e8), np.log(3e11), 61))
    cells = isoflop_cells(*GROUP, FLOPS, sizes)
    np.testing.assert_allclose(6 * cells.n_active * cells.n_tokens, FLOPS)
    decision = allocation_from_loss_laws(fitted, cells)
    base = rule_without_data(decision, fitted.n_samples)
    truth = true_loss(sizes, cells.n_tokens, "web")
    lost = 100 * np.log(np.interp(base.action[0, 0], np.log(sizes), truth) / truth.min())
    assert 0 < base.risk < 2
    assert lost < max(5 * base.risk, 0.1)


def test_dear_runs_teach_more_than_cheap_ones(fitted: LossDraws) -> None:
    decision = allocation_from_loss_laws(fitted, isoflop_cells(*GROUP, FLOPS, np.exp(np.linspace(20, 26, 41))))
    rows = [
        {"source": "sim", "arch": "dense", "data": "web", "n_params": n, "n_tokens": c / 6 / n, "lr_peak": 1e-3,
         "batch_tokens": 2.0**19}
        for c in (3e18, 3e20)
        for n in np.sqrt(c / 120) * np.array([0.25, 1.0, 4.0])
    ]  # fmt: skip
    candidates = candidates_from_table(pd.DataFrame(rows))
    outcomes = loss_outcomes(fitted, candidates)
    base, chosen = choose(
        decision, outcomes, candidates, budget=4, n_runs=4, n_samples=fitted.n_samples, price=np.ones(6)
    )
    assert chosen
    assert chosen[0].runs[0] >= 3  # of equal price, one of the larger budget
    total = sum(c.gain.evsi for c in chosen)
    assert 2 * chosen[0].gain.error < total < base.risk


@pytest.mark.parametrize("of_cells", [True, False])
def test_repeats_in_a_cell_do_not_average_its_luck_away(of_cells: bool) -> None:
    laws = made_laws(of_cells=of_cells)
    rows = pd.DataFrame({
        "source": "a", "arch": "dense", "data": "web", "n_params": [2e8] * 25 + [6e8], "n_tokens": 8e9,
        "lr_peak": 1e-3 * 1.05 ** np.arange(26), "batch_tokens": 2.0**19,
    })  # fmt: skip
    outcomes = loss_outcomes(laws, candidates_from_table(rows))
    away = outcomes.draws(np.arange(26), np.zeros(26, int)) - outcomes.law[:, outcomes.candidates.cell]
    one, many = away[:, 0].std(), away[:, :25].mean(1).std()
    assert 0.9 * one < many < 1.02 * one
    assert (away[:, 0] - away[:, 1]).std() == pytest.approx(np.sqrt(2 * 0.1) * one, rel=0.2)
    assert abs(np.corrcoef(away[:, 0], away[:, 25])[0, 1]) < 0.2, "another cell has its own"


def test_sizes_have_no_luck_before_they_are_chosen() -> None:
    """Laws of fitted cells know how much models of one size differ: a finer grid of sizes has no more to gain."""
    laws = made_laws()
    risks = []
    for count in (21, 161):
        cells = isoflop_cells("a", "dense", "web", 1e21, np.exp(np.linspace(np.log(3e8), np.log(3e10), count)))
        assert np.ptp(laws.log_loss(cells) - laws.log_loss(cells, size_effects=False), axis=1).min() > 0.005
        decision = allocation_from_loss_laws(laws, cells)
        risks.append(rule_without_data(decision, laws.n_samples).risk)
    assert risks[1] == pytest.approx(risks[0], rel=0.02)
    target = isoflop_cells("a", "dense", "web", 1e20, np.array([np.sqrt(1e20 / 120)]))
    n, d, half = target.n_params, target.n_tokens, np.exp(0.25)
    true = 100 * (true_log_loss(n / half, d / half) - true_log_loss(n * half, d * half))
    assert loss_law_slope(laws, target) == pytest.approx(float(true[0]), rel=0.05)


def test_slope_of_the_frontier(fitted: LossDraws) -> None:
    target = isoflop_cells(*GROUP, 1e20, np.array([np.sqrt(1e20 / 120)]))
    n, d = target.n_params, target.n_tokens
    half = np.exp(0.25)
    true = 100 * np.log(true_loss(n / half, d / half, "web") / true_loss(n * half, d * half, "web"))
    assert loss_law_slope(fitted, target) == pytest.approx(float(true[0]), rel=0.15)
