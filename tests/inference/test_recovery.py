"""Simulated sweeps whose truth is known, fitted: the truth lies inside the bands. One compilation for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_fits import small_sweep

from scaleband.bayes.simulate import prior_draws
from scaleband.errors import UserError
from scaleband.inference import fitting
from scaleband.inference.fitting import Fit, fit
from scaleband.inference.gate import Gate, diagnose
from scaleband.inference.sampler import SamplerSettings
from scaleband.predict import interval
from scaleband.runs import cell_table

SHORT = SamplerSettings(draws=250, tune=250, chains=2, seed=3)
SEEDS = (11, 12, 13)


def sweep(seed: int) -> tuple:
    return small_sweep(seed, n_lr=5, n_batch=3, span=2.0, sane=True)


@pytest.fixture(scope="module")
def fits() -> list[tuple[Fit, dict[str, np.ndarray]]]:
    """Three sweeps of the same design; the second and third use the first one's compiled model."""
    done: list[tuple[Fit, dict[str, np.ndarray]]] = []
    said: list[str] = []
    for seed in SEEDS:
        frame, truth = sweep(seed)
        fitted = fit(
            frame, settings=SHORT, reuse=done[0][0] if done else None,
            progress=lambda stage, *_: said.append(stage),
        )  # fmt: skip
        done.append((fitted, truth))
    assert said.count("compiling") == 1
    assert "sampling" in said
    return done


def told_and_true(fitted: Fit, truth: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Quantity -> (draws, truth), both with the same trailing dims."""
    draws, columns = fitted.draws(), fitted.inputs.design.columns
    x = fitted.inputs.x.copy()
    x[:, [c for c, role in enumerate(fitted.inputs.design.roles) if role == "shared"]] = 0.0
    exponents = [columns.index("n"), columns.index("d")]
    return {
        "exponents": (draws.law[:, :2][:, :, exponents], truth["law"][:2][:, exponents]),
        "offsets of every cell": (draws.law[:, :2] @ x.T, truth["law"][:2] @ x.T),
        "optima": (draws.state[:, :2], truth["state"][:2]),
        "basins": (draws.state[:, 2:], truth["state"][2:]),
        "noise": (np.log(draws.sigma), np.log(truth["sigma"])),
        "scatter": (np.log(draws.scatter), np.log(truth["scatter"])),
    }


@pytest.mark.parametrize(
    "quantity", ["exponents", "offsets of every cell", "optima", "basins", "noise", "scatter"]
)
def test_the_truth_is_inside_its_intervals(fits: list, quantity: str) -> None:
    inside = []
    for fitted, truth in fits:
        draws, true = told_and_true(fitted, truth)[quantity]
        band = interval(draws, 0.98)
        inside.append(((band.lower <= true) & (true <= band.upper)).ravel())
    assert np.concatenate(inside).mean() >= 0.85


def test_the_runs_have_sharpened_the_optima(fits: list) -> None:
    """Bands from the prior would hold the truth too: these are far narrower."""
    for fitted, truth in fits:
        own = fitted.draws().state[:, :2]
        before = prior_draws(fitted.inputs, fitted.beliefs, 1000, 1)["state"][0, :, :2]
        assert np.median(own.std(0) / before.std(0)) < 0.5  # one truth has runs whose noise is half of their excess
        assert np.median(np.abs(own.mean(0) - truth["state"][:2])) < 0.5


def test_labels_of_the_gate_name_real_cells(fits: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell whose state is worst, whatever else a gate looks at."""

    def of_states(posterior: dict, diverging: np.ndarray, *, names: dict) -> Gate:
        return diagnose({"state": posterior["state"]}, diverging, names=names)

    monkeypatch.setattr(fitting, "diagnose", of_states)
    frame, brief = small_sweep(1, n_lr=5, n_batch=3)[0], SamplerSettings(draws=20, tune=40, chains=2, seed=5)
    fitted, cells = fit(frame, settings=brief, reuse=fits[0][0]), cell_table(frame)["cell"].tolist()
    state = fitted.posterior["state"]
    for worst, where in (fitted.gate.rhat, fitted.gate.ess_bulk, fitted.gate.ess_tail):
        response, cell = where.removeprefix("state[").removesuffix("]").split(", ", 1)
        alone = diagnose({"state": state[..., [int(response)], :][..., [cells.index(cell)]]}, fitted.stats["diverging"])
        assert worst in (alone.rhat[0], alone.ess_bulk[0], alone.ess_tail[0])


def test_a_refit_is_the_fit_of_its_own_table(fits: list) -> None:
    """Levels of a refit are those of its own runs, not of the table that was compiled."""
    for fitted, truth in fits:
        level = fitted.draws().state[:, 4].mean(0)
        np.testing.assert_allclose(level, truth["state"][4], atol=4.0)
        assert fitted.compiled is fits[0][0].compiled
    levels = [truth["state"][4] for _, truth in fits]
    assert np.abs(levels[0] - levels[1]).max() > 10


def test_the_same_seed_gives_the_same_fit(fits: list) -> None:
    frame, brief = small_sweep(1, n_lr=5, n_batch=3)[0], SamplerSettings(draws=20, tune=40, chains=2, seed=5)
    one, two = (fit(frame, settings=brief, reuse=fits[0][0]) for _ in range(2))
    for name, value in one.posterior.items():
        np.testing.assert_allclose(two.posterior[name], value, rtol=1e-6, atol=1e-8, err_msg=name)
    other = fit(frame, settings=replace(brief, seed=6), reuse=fits[0][0])
    assert not np.allclose(other.posterior["state"], one.posterior["state"])


def test_what_cannot_be_fitted_is_refused() -> None:
    frame = sweep(SEEDS[0])[0]
    with pytest.raises(UserError, match="unknown form 'cubic'; choose one of linear"):
        fit(frame, form="cubic")
    with pytest.raises(UserError, match="no completed run"):
        fit(frame.assign(status="failed"))


def test_a_draw_of_nuts_is_kept_four_times_and_its_record_with_it(fits: list) -> None:
    fitted = fits[0][0]
    assert fitted.posterior["rho"].shape == fitted.stats["diverging"].shape == (2, SHORT.draws)
    energy, state, moved = fitted.stats["energy"], fitted.posterior["state"], []
    for k in range(4, 248, 4):
        assert (energy[:, k] == energy[:, k + 3]).all()
        assert (energy[:, k] != energy[:, k - 1]).all()
        moved.append((state[:, k] != state[:, k + 3]).mean())  # of ten cells: Metropolis, each may stay
    assert min(moved) > 0.2
    assert np.mean(moved) > 0.6
    assert not fitted.stats["diverging"][:, np.arange(SHORT.draws) % 4 != 0].any()
    assert (fitted.stats["moved"] > 0).mean() > 0.1, "five cells told badly, and proposals out of 63 draws"
