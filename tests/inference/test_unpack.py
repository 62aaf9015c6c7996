"""From the sampler's coordinates to names: exact where a map is, and the right Gaussian where draws are taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_fits import as_raw, small_inputs
from scipy import stats

from scaleband.bayes.simulate import prior_draws
from scaleband.inference.unpack import coefficients_given_cells, unpack
from scaleband.laws import LEVEL, RESPONSES

N = 8000


@pytest.fixture(scope="module")
def there_and_back() -> tuple:
    inputs, beliefs = small_inputs(form="quadratic")
    drawn = prior_draws(inputs, beliefs, N, 5)
    return inputs, beliefs, drawn, unpack(as_raw(drawn, inputs, beliefs), inputs, beliefs, seed=1)


def test_everything_but_the_coefficients_comes_back_exactly(there_and_back: tuple) -> None:
    _, _, drawn, back = there_and_back
    assert back.keys() == drawn.keys()
    for name in drawn.keys() - {"law"}:
        np.testing.assert_allclose(back[name], drawn[name], rtol=1e-7, atol=1e-6, err_msg=name)


def test_coefficients_given_prior_states_follow_the_prior_again(there_and_back: tuple) -> None:
    """State from p(state | law), then law from p(law | state): the law must have its own prior once more."""
    inputs, _, drawn, back = there_and_back
    assert not np.allclose(back["law"], drawn["law"])
    for r, response in enumerate(RESPONSES):
        for k, name in enumerate(inputs.design.columns):
            before, after = drawn["law"][0, :, r, k], back["law"][0, :, r, k]
            if before.std() == 0:
                assert (after == before).all(), f"{response}: {name}"
            else:
                # learned scales make heavy tails: compare ranks, not moments
                p = stats.ks_2samp(before, after).pvalue
                assert p > 1e-5, f"{response}: {name}"
        x = inputs.x @ back["law"][0, :, r].T
        scatter = back["scatter_level"][0][:, inputs.cell_source].T if r == LEVEL else back["scatter"][0, :, r]
        if r < 2:
            scatter = scatter * back["scatter_ratio"][0, :, r][:, inputs.cell_source].T
        z = (back["state"][0, :, r].T - x) / scatter
        assert stats.kstest(z.ravel(), "norm").pvalue > 1e-5, f"{response}: cells do not scatter around the new law"


def test_coefficients_agree_with_the_state_jointly(there_and_back: tuple) -> None:
    """Regression of a coefficient on the states is the same before and after."""
    _, _, drawn, back = there_and_back
    for r in (0, 2, 4, 7):
        state = drawn["state"][0, :, r]
        design = np.column_stack([np.ones(N), state])
        slopes = [np.linalg.lstsq(design, d["law"][0, :, r, :3], rcond=None)[0][1:] for d in (drawn, back)]
        error = np.abs(slopes[0] - slopes[1]).max() / np.abs(slopes[0]).max()
        assert error < 0.25, RESPONSES[r]


@pytest.mark.parametrize("columns", [2, 7])
def test_conditional_coefficients_are_those_of_the_joint_gaussian(columns: int) -> None:
    rng = np.random.default_rng(columns)
    w, r, scatter = rng.normal(size=(4, columns)), rng.normal(size=4), np.array([0.7, 0.3, 1.4, 0.7])
    joint = w @ w.T + np.diag(scatter**2)
    mean = w.T @ np.linalg.solve(joint, r)
    covariance = np.eye(columns) - w.T @ np.linalg.solve(joint, w)
    n = 60_000
    draws = coefficients_given_cells(
        np.broadcast_to(r, (n, 4)), np.broadcast_to(w, (n, 4, columns)), np.broadcast_to(scatter, (n, 4)), rng
    )
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.03)


def test_a_released_prior_with_correlated_coefficients_keeps_its_factor(there_and_back: tuple) -> None:
    inputs, beliefs, _, _ = there_and_back
    factor = beliefs.law_factor.copy()
    factor[0, 2, 1], factor[5, 0, 2] = -0.4, 0.2
    correlated = replace(beliefs, law_factor=factor)
    drawn = prior_draws(inputs, correlated, N, 6)
    back = unpack(as_raw(drawn, inputs, correlated), inputs, correlated, seed=2)
    for r, a, b in ((0, 1, 2), (5, 0, 2)):
        before, after = (np.corrcoef(d["law"][0, :, r, a], d["law"][0, :, r, b])[0, 1] for d in (drawn, back))
        assert abs(before) > 0.1
        assert after == pytest.approx(before, abs=0.06)


def test_the_seed_decides_the_coefficients_alone(there_and_back: tuple) -> None:
    inputs, beliefs, drawn, back = there_and_back
    raw = as_raw(drawn, inputs, beliefs)
    again, other = unpack(raw, inputs, beliefs, seed=1), unpack(raw, inputs, beliefs, seed=2)
    np.testing.assert_array_equal(again["law"], back["law"])
    assert not np.array_equal(other["law"], back["law"])
    np.testing.assert_array_equal(other["state"], back["state"])
