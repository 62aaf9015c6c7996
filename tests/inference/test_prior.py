"""A released posterior as a prior: its moments, what trust does to them, overlap and conflict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_fits import made_fit, small_frame, small_inputs, small_sweep

from scaleband.bayes import SHARED, cells_of, default_beliefs, model_inputs
from scaleband.bayes.simulate import prior_draws, simulate_losses
from scaleband.errors import UserError
from scaleband.inference.fitting import Fit, facts, fit, prepared, well_told
from scaleband.inference.prior import beliefs_from, overlapping_runs, prior_data_conflict, prior_of
from scaleband.inference.released import model_path
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.store import read_draws
from scaleband.laws import CENSOR_ABOVE, DRAWN, FORMS, LEVEL, RESPONSES, Cells, design_for, simulated_sweep
from scaleband.predict.dataset import contrast_draws
from scaleband.runs import cell_table, run_table


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return made_fit(400)


def new_design() -> tuple:
    """A table of team-a again and of a new team with a new size: some columns known, some not."""
    n = np.array([1e8, 7e9])
    return design_for(Cells(("team-a", "team-c"), ("dense", "dense"), ("web", "web"), n, n, np.array([5e9, 2e11])))


def spread(factor: np.ndarray) -> np.ndarray:
    return np.sqrt((factor**2).sum(-1))


def _nearer(draws: np.ndarray) -> np.ndarray:
    return draws.mean(0) + 0.3 * (draws - draws.mean(0))


def test_full_trust_takes_the_posterior_at_its_word(fitted: Fit) -> None:
    draws, design = fitted.draws(), new_design()
    beliefs = beliefs_from(draws, design, FORMS["linear"])
    np.testing.assert_allclose(beliefs.shared_mean, draws.shared.mean(0))
    np.testing.assert_allclose(
        beliefs.shared_factor @ beliefs.shared_factor.T, np.cov(draws.shared.T), atol=1e-9
    )
    for name in ("n", "d", "source:team-a", "family:dense", "data:web"):
        here, there = design.columns.index(name), draws.design.columns.index(name)
        assert not beliefs.pooled[here]
        for r in range(len(RESPONSES)):
            if r != LEVEL:
                assert beliefs.law_mean[r, here] == pytest.approx(draws.law[:, r, there].mean())
                own = draws.law[:, r, there].std(ddof=1)
                assert spread(beliefs.law_factor[r])[here] == pytest.approx(own, rel=1e-3)
    n, d = (draws.design.columns.index(k) for k in "nd")
    covariance = beliefs.law_factor[0] @ beliefs.law_factor[0].T
    assert covariance[1, 2] == pytest.approx(np.cov(draws.law[:, 0, [n, d]].T)[0, 1], abs=1e-9)


def test_what_the_model_does_not_know_keeps_the_stated_beliefs(fitted: Fit) -> None:
    design = new_design()
    stated = default_beliefs(design, FORMS["linear"])
    beliefs = beliefs_from(fitted.draws(), design, FORMS["linear"])
    for name in ("source:team-c", "size:team-c/dense/7e+09", "size:team-a/dense/1e+08"):
        k = design.columns.index(name)
        assert beliefs.pooled[k]
        np.testing.assert_array_equal(beliefs.law_factor[:, k], stated.law_factor[:, k])
    np.testing.assert_array_equal(beliefs.law_mean[LEVEL], stated.law_mean[LEVEL])
    np.testing.assert_array_equal(beliefs.law_factor[LEVEL], stated.law_factor[LEVEL])


def test_a_team_that_the_model_does_not_know_may_have_other_exponents(fitted: Fit) -> None:
    """Whatever the form; known teams and families keep the model's."""
    design = new_design()
    beliefs = beliefs_from(fitted.draws(), design, FORMS["linear"])
    own = [k for k, name in enumerate(design.columns) if name.startswith("exponent") and name.endswith("team-c")]
    known = [k for k, role in enumerate(design.roles) if role == "exponent" and k not in own]
    assert len(own) == 2
    assert known
    for r in (0, 1):
        np.testing.assert_array_equal(spread(beliefs.law_factor[r])[own], 1.0)  # times the learned scale
        assert beliefs.pooled[own].all()
        assert (spread(beliefs.law_factor[r])[known] < 1e-5).all()


def test_trust_weighs_what_the_runs_said_and_zero_trust_is_no_trust(fitted: Fit) -> None:
    """A power prior: precisions of posterior and stated beliefs are weighed; never wider than the wider of the two."""
    draws, design = fitted.draws(), new_design()
    draws = replace(draws, shared=_nearer(draws.shared), law=_nearer(draws.law))  # made from the prior, then told more
    stated = default_beliefs(design, FORMS["linear"])
    full, quarter, little = (beliefs_from(draws, design, FORMS["linear"], trust) for trust in (1.0, 0.25, 1e-6))
    told, own = (np.linalg.inv(b.shared_factor @ b.shared_factor.T) for b in (full, stated))
    mixed = np.linalg.inv(0.25 * told + 0.75 * own)
    np.testing.assert_allclose(quarter.shared_factor @ quarter.shared_factor.T, mixed, rtol=1e-6, atol=1e-12)
    mean = mixed @ (0.25 * told @ full.shared_mean + 0.75 * own @ stated.shared_mean)
    np.testing.assert_allclose(quarter.shared_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(little.shared_mean, stated.shared_mean, atol=1e-4)
    np.testing.assert_allclose(spread(little.shared_factor), spread(stated.shared_factor), rtol=1e-3)
    for k in (design.columns.index(name) for name in ("intercept", "n", "d")):
        for r in (r for r in range(len(RESPONSES)) if r != LEVEL):
            sd = [spread(b.law_factor[r])[k] for b in (full, quarter, little, stated)]
            assert sd[0] < sd[1] < sd[2] == pytest.approx(sd[3], rel=0.02)
            assert sd[1] <= 2 * sd[0]  # the covariance divided by the trust, at most
    # An offset has no stated width of its own: its scale is learned, and has a stated median.
    k = design.columns.index("source:team-a")
    assert spread(little.law_factor[0])[k] == pytest.approx(0.40, rel=0.05)
    none = beliefs_from(draws, design, FORMS["linear"], 0.0)
    np.testing.assert_array_equal(none.shared_factor, stated.shared_factor)
    assert none.origin == "stated beliefs"
    assert quarter.origin.endswith("trust 0.25")
    with pytest.raises(UserError, match="outside 0 to 1"):
        beliefs_from(draws, design, FORMS["linear"], 1.5)


def test_what_the_form_leaves_out_and_the_model_knows_is_weighed_as_in_a_form_that_has_it(fitted: Fit) -> None:
    draws, design = fitted.draws(), new_design()
    law = draws.law.copy()
    here, there = design.columns.index("n2"), draws.design.columns.index("n2")
    assert not law[:, :2, there].any(), "linear, before"
    law[:, :2, there] = np.random.default_rng(0).normal(0.02, 0.04, (len(law), 2))
    draws = replace(draws, law=law, meta=draws.meta | {"form": "curved-size"})
    for trust in (1.0, 0.5, 0.1, 1e-6):
        linear, quadratic = (beliefs_from(draws, design, FORMS[form], trust) for form in ("linear", "quadratic"))
        assert linear.form == quadratic.form == "curved-size", "what is fitted is the model's"
        sd = spread(linear.law_factor[0])[here]
        assert sd == pytest.approx(spread(quadratic.law_factor[0])[here], rel=1e-6)
        assert sd == pytest.approx((trust / 0.04**2 + (1 - trust) / 0.1**2) ** -0.5, rel=0.1)
    assert beliefs_from(draws, design, FORMS["linear"], 0.0).form == ""
    frame = small_frame()
    meta = facts(frame, cell_table(frame), fitted.gate, linear, SamplerSettings(), "linear")
    assert meta["form"] == "curved-size", "and the fit says so"


@pytest.mark.parametrize("model", ["public-sweeps", "step-law"])
def test_another_teams_cells_scatter_as_another_teams(model: str) -> None:
    """What a team's cells scatter by is shared, times its own ratio: the ratio of a new team is not known."""
    draws = read_draws(model_path(model))

    def told(*sources: str) -> tuple[np.ndarray, np.ndarray]:
        n = np.full(len(sources), 1e8)
        cells = Cells(sources, ("dense",) * len(sources), ("web",) * len(sources), n, n, 20 * n)
        beliefs = beliefs_from(draws, design_for(cells), FORMS["quadratic"])
        at = [list(SHARED).index(f"log_scatter_{name}") for name in ("log_lr", "log_batch")]
        return beliefs.shared_mean[at], spread(beliefs.shared_factor)[at]

    one = len(draws.sources) == 1
    shared = np.log(draws.scatter[:, :2])
    mean, sd = told("another")
    np.testing.assert_allclose(mean, shared.mean(0), atol=1e-6)
    np.testing.assert_allclose(sd**2, shared.var(0, ddof=1) + 0.09 * (2 if one else 1), rtol=1e-4)
    mean, sd = told("another", "and-another")  # their fit has ratios itself
    np.testing.assert_allclose(sd**2, shared.var(0, ddof=1) + 0.09 * one, rtol=1e-4)
    own = np.log(draws.cell_scatter("step-law")[:, :2])
    mean, sd = told("step-law")
    np.testing.assert_allclose(mean, own.mean(0), atol=1e-6)
    np.testing.assert_allclose(sd, own.std(0, ddof=1), rtol=1e-4)


def test_a_prior_from_a_fit_draws_what_the_fit_says(fitted: Fit) -> None:
    """Round trip: prior draws under the fit's beliefs have the fit's own means and spreads."""
    inputs, _ = small_inputs(0)
    beliefs = beliefs_from(fitted.draws(), inputs.design, FORMS["linear"])
    law = prior_draws(inputs, beliefs, 20_000, 1)["law"][0]
    own = fitted.draws().law
    for r in (0, 1, 2, 5, 8):
        for name in ("n", "d", "family:moe", "source:team-b"):
            k = inputs.design.columns.index(name)
            assert law[:, r, k].std() == pytest.approx(own[:, r, k].std(), rel=0.05)
            assert law[:, r, k].mean() == pytest.approx(own[:, r, k].mean(), abs=0.05 * own[:, r, k].std())


def test_runs_that_the_model_saw_are_found(fitted: Fit) -> None:
    known = list(fitted.inputs.run_ids[:2])
    assert overlapping_runs(fitted.draws(), [*known, "another"]) == known
    assert overlapping_runs(replace(fitted.draws(), meta={}), known) == []


def test_a_conflict_is_named_and_agreement_is_silent(fitted: Fit) -> None:
    beliefs, rng = fitted.beliefs, np.random.default_rng(0)
    mean, sd = beliefs.shared_mean, spread(beliefs.shared_factor)
    shape = (2, 500)

    def sharpened(moved: float) -> Fit:
        """A posterior a tenth as wide as the prior; rho moved by so many prior sds."""
        shared = mean + 0.1 * sd * rng.standard_normal((*shape, len(SHARED)))
        shared[..., list(SHARED).index("log_rho")] += moved * sd[list(SHARED).index("log_rho")]
        law = np.broadcast_to(beliefs.law_mean, (*shape, *beliefs.law_mean.shape)) + 0.0
        factors = np.stack([spread(f) for f in beliefs.law_factor])
        law = law + 0.1 * factors * rng.standard_normal(law.shape)
        return replace(fitted, posterior=fitted.posterior | {"shared": shared, "law": law})

    assert prior_data_conflict(sharpened(0.0)) == []
    said = prior_data_conflict(sharpened(6.0))
    assert len(said) == 1
    assert said[0].startswith("log_rho: the prior (stated beliefs) says -2.3")


def test_which_tables_have_cells_that_their_runs_tell() -> None:
    frame, _ = small_sweep()
    for rows, told in ((frame, True), (frame.groupby(["source", "arch", "n_params", "n_tokens"]).head(5), False)):
        inputs = model_inputs(rows, design_for(cells_of(cell_table(rows))))
        assert well_told(inputs) is told
    rates = frame[frame["batch_tokens"] == frame["batch_tokens"].iloc[0]]  # four rates at one batch, four numbers
    assert well_told(model_inputs(rates, design_for(cells_of(cell_table(rates)))))


def test_a_dozen_runs_of_a_new_team_start_from_a_released_model() -> None:
    """What few runs leave open goes together in all cells of the team: every kept draw is then one of NUTS."""
    frame = run_table(pd.DataFrame(simulated_sweep(seed=3).columns)).frame
    some = frame[(frame["n_params"] < 5e8) & (frame["status"] == "completed")].sample(12, random_state=1)
    prior, short = read_draws(model_path("step-law")), SamplerSettings(draws=600, tune=200)
    fitted = fit(some, beliefs=lambda design: beliefs_from(prior, design, FORMS["quadratic"], 1.0), settings=short)
    assert (fitted.settings.copies, fitted.settings.target_accept) == (1, 0.9)
    assert len(np.unique(fitted.stats["energy"])) == 2 * 600
    assert fitted.gate.rhat[0] < 1.05
    assert fitted.gate.divergences == 0


def test_the_prior_of_a_table_is_what_its_fit_would_start_from(fitted: Fit) -> None:
    frame = small_frame(1)
    known = fitted.draws()
    for beliefs, origin in (
        (None, "stated beliefs"),
        (lambda design: beliefs_from(known, design, FORMS["linear"], 0.5), "own fit, trust 0.5"),
    ):
        _, table, stated, inputs = prepared(frame, "linear", beliefs)
        prior = prior_of(frame, form="linear", beliefs=beliefs, n_draws=20, seed=3)
        for name, value in prior_draws(inputs, stated, 20, 3).items():
            if name in DRAWN:
                np.testing.assert_array_equal(getattr(prior, name), value[0])
        assert prior.meta["prior"] == origin
        assert prior.meta["gate"]["passed"]
        np.testing.assert_array_equal(prior.cells.n_tokens, table["n_tokens"])
    with pytest.raises(UserError, match="unknown form"):
        prior_of(frame, form="no such form")


def test_what_the_prior_expects_of_runs_is_what_its_simulation_gives() -> None:
    """Two tellings, noise aside: losses simulated truth by truth, and the contrasts drawn all at once."""
    frame = small_frame(1)
    prior = prior_of(frame, n_draws=40, seed=5)
    assert prior.trunk_scale is not None
    rough = replace(prior, sigma=0 * prior.sigma, rho=0 * prior.rho)
    still = replace(rough, trunk_scale=0 * prior.trunk_scale)
    _, _, stated, inputs = prepared(frame, "quadratic", None)
    flat = {name: v[0] for name, v in prior_draws(inputs, stated, 40, 5).items()}
    flat |= {name: 0 * flat[name] for name in ("sigma", "rho", "trunk_effect", "trunk_scale")}
    truths = [{name: v[s] for name, v in flat.items()} for s in range(40)]
    y = np.stack([simulate_losses(inputs, truth, np.random.default_rng(0)) for truth in truths])
    for c in range(len(inputs.cells)):
        y[:, inputs.cell == c] -= y[:, inputs.cell == c].min(axis=1, keepdims=True)
    expected = contrast_draws(still, frame).sel(run=list(inputs.run_ids))["contrast"]
    np.testing.assert_allclose(expected, np.minimum(y, CENSOR_ABOVE), rtol=1e-6, atol=1e-6)
    told = contrast_draws(rough, frame).sel(run=list(inputs.run_ids))["contrast"]
    moved = np.abs(told - expected).max("sample").to_numpy()
    touched = np.isin(inputs.cell, inputs.cell[inputs.alone])  # a lone run may be the best of its cell
    assert (moved[inputs.alone] > 0).all()
    assert not moved[~touched].any()
    noisy = contrast_draws(prior, frame).sel(run=list(inputs.run_ids))["contrast"]
    assert 0.01 < float(np.abs(noisy - expected).median()) < 1.0
