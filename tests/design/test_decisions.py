"""Decisions: slopes are slopes, regrets are never negative, a second decision plugs in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_problems import ArrayOutcomes, made_candidates

from scaleband.design import (
    CurveDecision,
    Decision,
    SettingDecision,
    allocation_decision,
    allocation_from_levels,
    bundle_features,
    candidates_from_table,
    choose,
    evsi_of,
    law_outcomes,
    rule_without_data,
    setting_decision,
)
from scaleband.design.decisions import WASTED
from scaleband.errors import UserError
from scaleband.laws import REFERENCE, Cells, LawDraws, excess
from scaleband.predict import Basins, basins, recommend, target_cells

N = 1500


def setting(seed: int = 0, n: int = N, spread: float = 0.3) -> SettingDecision:
    rng = np.random.default_rng(seed)
    return SettingDecision(
        optimum=spread * rng.standard_normal((n, 2)),
        angle=np.array([[-0.97], [0.29]]) + 0.05 * rng.standard_normal((2, n)),
        curvature=np.exp(0.5 + 0.3 * rng.standard_normal((2, n))),
        skew=np.array([[0.5], [0.9]]) + 0.1 * rng.standard_normal((2, n)),
    )


def curve(n: int = N, seed: int = 0) -> CurveDecision:
    rng = np.random.default_rng(seed)
    grid = np.linspace(-2, 2, 41)
    best, bend = 0.4 * rng.standard_normal(n), np.exp(0.2 * rng.standard_normal(n))
    return allocation_decision(grid, 100 + bend[:, None] * (np.cosh(grid - best[:, None]) - 1))


@pytest.mark.parametrize("decision", [setting(), replace(setting(), straight_above=0.3), curve()])
def test_slopes_are_the_derivatives_of_the_regret(decision: Decision) -> None:
    k = len(decision.start)
    rng = np.random.default_rng(1)
    at = 0.5 * rng.standard_normal((N, k))
    found, step = decision.slopes(at), 1e-5
    assert (decision.regret(at) >= 0).all()
    np.testing.assert_allclose(found.value, decision.regret(at))
    for i in range(k):
        move = step * np.eye(k)[i]
        numeric = (decision.regret(at + move) - decision.regret(at - move)) / (2 * step)
        close = np.isclose(found.gradient[:, i], numeric, atol=2e-3, rtol=2e-3)
        assert close.mean() > 0.995  # a curve's pieces meet somewhere
    assert (np.linalg.eigvalsh(found.hessian) >= -1e-9).all()


def test_rule_without_data_is_the_recommended_setting() -> None:
    d = setting(2)
    b = basins_of(d)
    known = recommend(b)
    rule = rule_without_data(d, N)
    assert REFERENCE["lr_peak"] * np.exp(rule.action[0, 0]) == pytest.approx(known.lr_peak[0], rel=1e-3)
    assert REFERENCE["batch_tokens"] * np.exp(rule.action[0, 1]) == pytest.approx(known.batch_tokens[0], rel=1e-3)
    assert rule.slopes.value.mean() == pytest.approx(known.expected_regret[0], rel=1e-5)


def test_walls_go_on_straight_where_a_run_is_wasted() -> None:
    d, walls = setting(5), replace(setting(5), straight_above=3.0)
    near, far = d.optimum + 0.3, d.optimum + np.array([8.0, -4.0])
    away = (near - d.optimum).T
    np.testing.assert_allclose(d.regret(near), excess(*away, d.angle, d.curvature, d.skew), rtol=1e-4)
    np.testing.assert_allclose(walls.regret(near), d.regret(near), rtol=1e-9)  # nothing changes inside
    assert (walls.regret(far) < d.regret(far)).all()
    assert (walls.regret(far) > 3.0).all()
    step = np.array([0.5, -0.25])
    line = walls.regret(far + step) - walls.regret(far), walls.regret(far + 2 * step) - walls.regret(far + step)
    np.testing.assert_allclose(*line, rtol=1e-6)
    assert setting_decision(basins_of(d)).straight_above == WASTED


def basins_of(d: SettingDecision) -> Basins:
    one = np.ones(1)
    cells = Cells(("a",), ("dense",), ("w",), one, one, one)
    return Basins(
        cells, d.optimum[:, :, None], d.curvature.T[:, :, None], np.zeros((N, 1)), d.angle.T[:, :, None],
        d.skew.T[:, :, None],
    )  # fmt: skip


def test_seeing_the_optimum_leaves_almost_no_regret() -> None:
    d = setting(3)
    base = rule_without_data(d, N)
    gain = evsi_of(d, base, d.optimum)
    assert gain.evsi == pytest.approx(base.risk, rel=0.02)


def test_an_allocation_is_a_decision_too() -> None:
    """Runs that show the best size with noise, valued for the choice of a size under a budget."""
    decision = curve(2000, seed=4)
    best = decision.grid[decision.curve.argmin(1)]
    x, cell = np.zeros((3, 2)), np.arange(3)
    outcomes = ArrayOutcomes(best[:, None] * np.ones(3), np.array([2.0, 0.5, 0.1]))
    candidates = made_candidates(x, cell, [[0], [1], [2]])
    base, chosen = choose(
        decision, outcomes, candidates, budget=1.0, n_runs=1, n_samples=2000, price=np.ones(3), replicates=False
    )
    assert [c.runs.tolist() for c in chosen] == [[2]]
    none = np.zeros(0, int)
    values = [
        evsi_of(decision, base, bundle_features(outcomes, candidates, np.array([i]), np.zeros(1, int), none, none)).evsi
        for i in range(3)
    ]
    # Gaussian best size with variance v seen with noise s: v / (v + s^2) of the regret goes, to second order.
    shares = 0.16 / (0.16 + np.array([2.0, 0.5, 0.1]) ** 2)
    np.testing.assert_allclose(np.array(values) / base.risk, shares, atol=0.06)


@pytest.mark.parametrize("grid", [[0.0, 1.0, 2.0], [0, 1, 2, 4, 5, 6], [0, -1, -2, -3, -4]])
def test_an_allocation_wants_an_even_grid(grid: list[float]) -> None:
    with pytest.raises(UserError, match="evenly spaced"):
        allocation_decision(np.array(grid), np.zeros((5, len(grid))))


def test_runs_are_valued_for_an_allocation(draws: LawDraws) -> None:
    """The same candidates, the same chooser, another decision: n_params for 1e21 FLOPs."""
    group = {"source": "step-law", "data": "steplaw_main"}
    sizes = np.exp(np.linspace(np.log(1e8), np.log(1.5e10), 41))
    decision = allocation_from_levels(draws, target_cells(sizes, 1e21 / 6 / sizes, **group))
    near = target_cells(np.array([2e8, 6e8, 6e8, 2e9]), np.array([2e10, 2e10, 6e10, 6e10]), **group)
    best = recommend(basins(draws, near))
    frame = pd.DataFrame(
        {"source": near.source, "arch": near.arch, "data": near.data, "n_params": near.n_params,
         "n_tokens": near.n_tokens, "lr_peak": best.lr_peak, "batch_tokens": best.batch_tokens}
    )  # fmt: skip
    candidates = candidates_from_table(frame)
    outcomes = law_outcomes(draws, candidates, seed=1)
    price = np.ones(4)
    base, chosen = choose(
        decision, outcomes, candidates, budget=3, n_runs=3, n_samples=draws.n_samples, price=price, replicates=False
    )
    assert base.risk > 0.05
    assert 1 <= len(chosen) <= 3
    gains = np.array([c.gain.evsi for c in chosen])
    assert gains[0] > 2 * chosen[0].gain.error
    assert gains.sum() < base.risk
    # A lone loss is news of the level law: here one run alone teaches, as it does not of an optimum.
    assert len(chosen[0].runs) == 1
