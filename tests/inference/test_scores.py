"""Leave-one-cell-out scores and stacking, against brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from made_fits import as_raw, small_inputs
from scipy.integrate import trapezoid
from scipy.special import logsumexp

from scaleband.bayes import ModelInputs
from scaleband.bayes.beliefs import role_index
from scaleband.bayes.coordinates import coordinates
from scaleband.bayes.simulate import prior_draws
from scaleband.inference import scores
from scaleband.inference.scores import BASIN, LawGivenOthers, cell_log_density, law_given_others, thin
from scaleband.inference.stacking import mix, stacking_weights
from scaleband.inference.unpack import unpack
from scaleband.laws import LEVEL, excess, run_log_density


def with_thin_cells(inputs: ModelInputs) -> ModelInputs:
    """Two cells with three rates at one batch."""
    one, rates = np.isin(inputs.cell, [0, 3]), np.unique(inputs.log_lr)
    inputs = replace(
        inputs, log_batch=np.where(one, 1.5, inputs.log_batch),
        log_lr=np.where(one, np.minimum(inputs.log_lr, rates[2]), inputs.log_lr),
    )  # fmt: skip
    assert inputs.thin.sum() == 2
    return inputs


@pytest.mark.parametrize("some_thin", [False, True])
def test_a_cell_given_the_others_is_the_conditional_of_the_joint_gaussian(some_thin: bool) -> None:
    inputs, beliefs = small_inputs(0)
    inputs = with_thin_cells(inputs) if some_thin else inputs
    flat = {name: value[0] for name, value in prior_draws(inputs, beliefs, 3, 2).items()}
    law = law_given_others(flat, inputs, beliefs)
    mean, design, role = inputs.prior_mean(beliefs), inputs.scaled_design(beliefs), role_index(inputs.design)
    for s in range(3):
        for k, r in enumerate(BASIN):
            scale = np.where(beliefs.pooled, flat["offset_scale"][s, r][role], 1.0) if r < 2 else 1.0
            w = design[r] * scale
            scatter = flat["scatter"][s, r] * np.where(inputs.thin & (r > 1), 0.1, 1.0)
            if r < 2:
                scatter = scatter * flat["scatter_ratio"][s, r, inputs.cell_source]
            joint = w @ w.T + np.diag(scatter**2)
            for c in range(len(inputs.cells)):
                rest = np.arange(len(inputs.cells)) != c
                gain = joint[c, rest] @ np.linalg.inv(joint[np.ix_(rest, rest)])
                expected = mean[r, c] + gain @ (flat["state"][s, r, rest] - mean[r, rest])
                assert law.mean[s, k, c] == pytest.approx(expected, rel=1e-6, abs=1e-6)
                assert law.variance[s, k, c] == pytest.approx(joint[c, c] - gain @ joint[rest, c], rel=1e-6)


def with_one_batch(inputs: ModelInputs) -> ModelInputs:
    """Two cells with four rates at one batch: too many rates to be thin."""
    inputs = replace(inputs, log_batch=np.where(np.isin(inputs.cell, [0, 3]), 1.5, inputs.log_batch))
    assert np.isfinite(inputs.one_batch).sum() == 2
    assert not inputs.thin.any()
    return inputs


@pytest.mark.parametrize("changed", [with_thin_cells, with_one_batch])
def test_states_of_cells_with_one_batch_are_the_models_again(
    changed: Callable[[ModelInputs], ModelInputs],
) -> None:
    """`unpack` moves rate and level to the optimum; laws and runs are asked about where the model had them."""
    inputs, beliefs = small_inputs(0)
    inputs = changed(inputs)
    raw = as_raw(prior_draws(inputs, beliefs, 20, 2), inputs, beliefs)
    raw = replace(raw, reference=coordinates(inputs, beliefs).reference)
    posterior = unpack(raw, inputs, beliefs, seed=1)
    moved = np.abs(posterior["state"] - raw.values["state"]).max(axis=(0, 1))
    assert (moved[0] > 1e-3).tolist() == inputs.thin.tolist()
    assert (moved[LEVEL] > 1e-3).tolist() == np.isfinite(inputs.one_batch).tolist()
    back = scores.states_of_the_model(posterior, inputs, beliefs)
    np.testing.assert_allclose(back["state"], raw.values["state"], atol=1e-9)


def test_the_density_of_a_cells_contrasts_is_the_integral() -> None:
    """Against plain Monte Carlo over the law's conditional and a sum over the level."""
    inputs, _ = small_inputs(0)
    rows = np.flatnonzero(inputs.cell == 1)[[0, 4, 7, 11]]
    names = ("log_lr", "log_batch", "y", "censored", "y_se", "cell", "source", "trunk", "alone")
    few = replace(inputs, **{name: getattr(inputs, name)[rows] for name in names}, n_trunks=0)
    few = replace(few, y=np.array([101.0, 100.2, 100.0, 100.9]), censored=np.array([False] * 3 + [True]))
    rng = np.random.default_rng(0)
    mean = np.array([0.2, -0.1, 0.3, 0.2, -1.0, 0.3, 0.5, 0.5])
    sd = np.array([0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.2, 0.2])
    law = LawGivenOthers(np.tile(mean[None, :, None], (1, 1, 5)), np.tile(sd[None, :, None] ** 2, (1, 1, 5)))
    flat = {"rho": np.array([0.2]), "nu": np.array([4.0]), "sigma": np.array([[0.5, 0.5]])}

    z = mean + sd * rng.standard_normal((4000, 8))
    angle, h, skew = z[:, 4:6].T[..., None], np.exp(z[:, 2:4]).T[..., None], z[:, 6:].T[..., None]
    e = excess(few.log_lr - z[:, :1], few.log_batch - z[:, 1:2], angle, h, skew)
    levels = np.linspace(85, 110, 501)

    def density(level: float) -> float:
        return np.exp(run_log_density(few.y, level, e, 0.5, 0.2, 4.0, few.censored, few.y_se).sum(1)).mean()

    expected = np.log(trapezoid([density(level) for level in levels], levels))

    # around what a fit that saw the cell would say: here the law itself, and a level near the runs
    own = np.insert(mean + sd * rng.standard_normal((4000, 8)), 4, 99.5 + rng.standard_normal(4000), axis=1)
    got = cell_log_density(flat, law, few, 1, own, n_points=20_000, seed=1)
    assert got[0] == pytest.approx(expected, abs=0.1)


def test_thinning_takes_draws_of_every_chain() -> None:
    draws = {"rho": np.arange(20.0).reshape(2, 10), "state": np.arange(40.0).reshape(2, 10, 2)}
    few = thin(draws, 5)
    np.testing.assert_array_equal(few["rho"], [0, 5, 10, 14, 19])
    np.testing.assert_array_equal(few["state"][:, 0], 2 * few["rho"])
    assert len(thin(draws, 99)["rho"]) == 20


def test_stacking_maximises_the_score_of_the_mixture() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(-5, 1.5, (40, 2))
    weights = stacking_weights(scores)
    grid = np.linspace(0, 1, 2001)
    value = [logsumexp(scores + np.log(np.array([w, 1 - w]) + 1e-300), axis=1).mean() for w in grid]
    assert weights[0] == pytest.approx(grid[int(np.argmax(value))], abs=2e-3)
    np.testing.assert_allclose(weights.sum(), 1.0)


def test_a_form_that_is_always_worse_gets_nothing() -> None:
    scores = np.array([-1.0, -3.0, -2.0])[None] + np.zeros((20, 3))
    np.testing.assert_allclose(stacking_weights(scores), [1, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(stacking_weights(scores[:, :1]), [1.0])


def test_a_mixture_holds_each_form_by_its_weight() -> None:
    posteriors = {
        name: {"rho": np.full((2, 50), value), "state": np.full((2, 50, 3), value)}
        for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))
    }
    mixed = mix(posteriors, {"a": 0.61, "b": 0.39, "c": 0.0}, 20)
    assert mixed["rho"].shape == (2, 20)
    assert mixed["state"].shape == (2, 20, 3)
    for chain in mixed["rho"]:
        assert sorted(set(chain)) == [1.0, 2.0]
        assert (chain == 1.0).sum() == 12
    np.testing.assert_array_equal(mixed["state"][..., 0], mixed["rho"])


def test_a_draw_that_likes_the_cell_weighs_less_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, beliefs = small_inputs(0)
    draws = prior_draws(inputs, beliefs, 80, 3)
    log_p = np.random.default_rng(1).normal(size=40) * 0.3
    monkeypatch.setattr(scores, "cell_log_density", lambda *args, **kwargs: log_p)
    got = scores.leave_one_cell_out(draws, inputs, beliefs, n_draws=40)
    for c in range(len(inputs.cells)):
        assert np.corrcoef(got.log_weight[c], -log_p)[0, 1] > 0.99
    # the harmonic mean, up to the smoothing of the largest weights
    np.testing.assert_allclose(got.log_density, np.log(40) - logsumexp(-log_p), atol=0.05)
