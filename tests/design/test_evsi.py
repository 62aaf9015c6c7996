"""EVSI against conjugate algebra: bias, ranks, error bars, what is pending, what is worthless."""

from __future__ import annotations

import numpy as np
import pytest
from made_problems import GaussianProblem, gaussian_problem
from scipy.stats import spearmanr

from scaleband.design.decisions import SettingDecision
from scaleband.design.evsi import bundle_features, compressed, evsi_of, rule_without_data, screen

N = 2000
NONE = np.zeros(0, np.int64)


def zeros(runs: np.ndarray) -> np.ndarray:
    return np.zeros(len(runs), np.int64)


def estimate(problem: GaussianProblem, bundles: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    base = rule_without_data(problem.decision, N)
    gains = [
        evsi_of(problem.decision, base, bundle_features(problem.outcomes, problem.candidates, b, zeros(b), NONE, NONE))
        for b in bundles
    ]
    return np.array([g.evsi for g in gains]), np.array([g.error for g in gains])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_conjugate_algebra(seed: int) -> None:
    problem = gaussian_problem(seed)
    bundles = list(problem.candidates.bundles)
    exact = np.array([problem.exact(b) for b in bundles])
    assert len(bundles) >= 50
    evsi, error = estimate(problem, bundles)
    assert spearmanr(evsi, exact)[0] >= 0.98
    # one set of draws of the decision serves all bundles, so their errors go together
    assert abs(np.mean(evsi - exact)) <= 2 * error.mean()
    assert np.mean(np.abs(evsi - exact) <= 2 * error) >= 0.85
    rough = screen(
        problem.decision, rule_without_data(problem.decision, N), problem.outcomes, problem.candidates,
        range(len(bundles)),
    )  # fmt: skip
    assert spearmanr(rough, exact)[0] >= 0.98
    assert np.abs(rough - evsi).max() < 0.03  # a quadratic regret: one Newton step is all there is


def test_evpi_is_the_regret_now() -> None:
    problem = gaussian_problem(3)
    base = rule_without_data(problem.decision, N)
    exact = 0.5 * np.trace(problem.decision.hessian @ problem.prior)
    spread = base.slopes.value.std() / np.sqrt(N)
    assert base.risk == pytest.approx(exact, abs=3 * spread)


def test_noise_teaches_nothing() -> None:
    problem = gaussian_problem(0)
    rng = np.random.default_rng(9)
    base = rule_without_data(problem.decision, N)
    gains = [evsi_of(problem.decision, base, rng.standard_normal((N, 12))) for _ in range(40)]
    values = np.array([g.evsi for g in gains])
    assert abs(values.mean()) <= 3 * values.std() / np.sqrt(len(values))
    assert np.abs(values).max() < 0.02 * base.risk


def test_what_is_pending_is_not_learned_twice() -> None:
    problem = gaussian_problem(4)
    c = problem.candidates
    sweep, other = np.flatnonzero(c.cell == 11), np.flatnonzero(c.cell == 9)
    base = rule_without_data(problem.decision, N)
    first = evsi_of(problem.decision, base, bundle_features(problem.outcomes, c, sweep, zeros(sweep), NONE, NONE))
    after = compressed(problem.decision, first.rule)
    assert after.risk == pytest.approx(first.rule.risk)
    second = evsi_of(problem.decision, after, bundle_features(problem.outcomes, c, other, zeros(other), NONE, NONE))
    both = problem.exact(np.concatenate([sweep, other]))
    assert second.evsi == pytest.approx(both - problem.exact(sweep), abs=max(3 * second.error, 0.01))
    again = evsi_of(problem.decision, after, bundle_features(problem.outcomes, c, sweep, zeros(sweep), NONE, NONE))
    assert abs(again.evsi) < 0.01 * base.risk  # the very same outcomes


def test_a_run_beside_others_of_its_cell_is_a_contrast() -> None:
    problem = gaussian_problem(5, level_sd=20.0)
    c = problem.candidates
    three, fourth = np.flatnonzero(c.cell == 10)[:3], np.flatnonzero(c.cell == 10)[3:4]
    base = rule_without_data(problem.decision, N)
    lone = evsi_of(problem.decision, base, bundle_features(problem.outcomes, c, fourth, zeros(fourth), NONE, NONE))
    assert lone.evsi < 0.02 * base.risk  # a lone loss in a cell of unknown level
    first = evsi_of(problem.decision, base, bundle_features(problem.outcomes, c, three, zeros(three), NONE, NONE))
    after = compressed(problem.decision, first.rule)
    features = bundle_features(problem.outcomes, c, fourth, zeros(fourth), three, zeros(three))
    gain = evsi_of(problem.decision, after, features)
    exact = problem.exact(np.append(three, fourth)) - problem.exact(three)
    assert gain.evsi == pytest.approx(exact, abs=max(3 * gain.error, 0.01))


def test_screening_does_not_depend_on_what_is_screened_beside() -> None:
    problem = gaussian_problem(6)
    base = rule_without_data(problem.decision, N)
    every = screen(problem.decision, base, problem.outcomes, problem.candidates, range(len(problem.candidates)))
    few = screen(problem.decision, base, problem.outcomes, problem.candidates, [3, 61, 7])
    np.testing.assert_allclose(few, every[[3, 61, 7]], atol=1e-10)


def test_where_a_few_draws_make_the_regret_nothing_is_claimed() -> None:
    """Beliefs carried a thousandfold in size: walls from flat to vertical."""
    rng, n = np.random.default_rng(0), 1000
    angle = np.stack([rng.normal(-1.0, 0.3, n), rng.normal(0.3, 0.3, n)])
    skew, noise = rng.normal(0.5, 0.5, (2, n)), rng.standard_normal((n, 3))
    for width, steepness, told in ((2.0, 1.0, True), (12.0, 6.0, False)):
        optimum, curvature = width * rng.standard_normal((n, 2)), np.exp(rng.normal(0.5, steepness, (2, n)))
        decision = SettingDecision(optimum, angle, curvature, skew, 3.0)
        base = rule_without_data(decision, n)
        news = evsi_of(decision, base, optimum[:, [0]] + width * rng.standard_normal((n, 1)))
        nothing = evsi_of(decision, base, noise)
        assert abs(nothing.evsi) < 2 * nothing.error
        assert (news.evsi > 5 * news.error) is told
        if not told:
            assert news.evsi == 0.0
            assert news.error > 0.25 * base.slopes.value.mean()
            np.testing.assert_array_equal(news.rule.action, base.action)
