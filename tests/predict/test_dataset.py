"""Labelled draws: the same numbers as the NumPy functions, with dims, units and a label per target."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from made_basins import made_basins

from scaleband.errors import UserError
from scaleband.laws import RESPONSES, ROLES, Cells, LawDraws, design_for, excess_gradient
from scaleband.predict import (
    basins,
    optimum_given_batch,
    plateau,
    recommend,
    regret,
    round_to_grid,
)
from scaleband.predict.dataset import bands, optimum_draws, recommendations, regret_draws

RATES, BATCHES = [3e-4, 1e-3, 4e-3], [2e5, 8e5]


def draws_of(n: int = 200) -> LawDraws:
    """Draws whose fitted cells have the basins of `made_basins`; the third cell is sparse."""
    b = made_basins(n)
    sparse = b.cells.n_params * [1.0, 1.0, 0.25]
    cells = Cells(("a",) * 3, ("dense", "dense", "moe"), ("web",) * 3, b.cells.n_params, sparse, b.cells.n_tokens)
    design, none = design_for(cells), np.zeros((n, len(RESPONSES), len(ROLES)))
    state = np.concatenate([b.optimum, np.log(b.curvature), b.level[:, None], b.angle, b.skew], axis=1)
    return LawDraws(
        design=design, cells=cells, law=np.zeros((n, len(RESPONSES), len(design.columns))), scatter=none[:, :, 0],
        offset_scale=none, state=state, angle=b.angle[..., 0], skew=b.skew[..., 0], sigma=np.full((n, 1), 0.1),
        rho=np.full(n, 0.1), nu=np.full(n, 5.0), sources=("a",), shared=np.zeros((n, 1)),
    )  # fmt: skip


def same(labelled: xr.DataArray, expected: np.ndarray, dims: tuple[str, ...]) -> None:
    assert labelled.dims == dims
    np.testing.assert_allclose(labelled.to_numpy(), expected, rtol=1e-12)


def test_the_optimum_is_labelled_and_has_units() -> None:
    draws = draws_of()
    data, b = optimum_draws(draws, draws.cells), basins(draws, draws.cells)
    setting = recommend(b)
    same(data["lr_peak"], b.lr_peak(), ("sample", "target"))
    same(data["batch_tokens"], b.batch_tokens(), ("sample", "target"))
    same(data["loss"], np.exp(b.level / 100), ("sample", "target"))
    same(data["regret"], regret(b, setting.lr_peak, setting.batch_tokens), ("sample", "target"))
    same(data["recommended_lr_peak"], setting.lr_peak, ("target",))
    bottom = excess_gradient(0.0, 0.0, *b.shape)[1]  # (2, 2, sample, target)
    for h, name in enumerate(("log_lr", "log_batch")):
        same(data["curvature"].sel(hyperparameter=name), bottom[h, h], ("sample", "target"))
    for made in (data, recommendations(draws, draws.cells), regret_draws(draws, draws.cells, 1e-3, 5e5)):
        numbers = [name for name, v in made.variables.items() if v.dtype.kind == "f"]
        assert [name for name in numbers if "units" not in made[name].attrs] == []


def test_targets_that_differ_in_active_parameters_alone_have_their_own_labels() -> None:
    draws = draws_of()
    n, d = np.full(2, 6e9), np.full(2, 1e11)
    sparse = Cells(("a",) * 2, ("moe",) * 2, ("web",) * 2, n, np.array([1e9, 3e9]), d)
    data = optimum_draws(draws, sparse, as_new=True)
    assert list(data["target"].to_numpy()) == ["a/moe/web 6e+09/1e+09/1e+11", "a/moe/web 6e+09/3e+09/1e+11"]
    assert list(data["n_active"].to_numpy()) == [1e9, 3e9]
    assert list(data["arch"].to_numpy()) == ["moe", "moe"]


@pytest.mark.parametrize("constraint", [{"batch_tokens": 3e5}, {"batch_max": np.array([4e5, 3e5, 1e9])}])
def test_under_a_constraint_the_optimum_is_each_draws_own(constraint: dict[str, float]) -> None:
    draws = draws_of()
    b = basins(draws, draws.cells)
    data, summary = optimum_draws(draws, draws.cells, **constraint), recommendations(draws, draws.cells, **constraint)
    batch = np.minimum(b.batch_tokens(), constraint["batch_max"]) if "batch_max" in constraint else np.full(
        b.level.shape, 3e5
    )  # fmt: skip
    same(data["batch_tokens"], batch, ("sample", "target"))
    same(data["lr_peak"], optimum_given_batch(b, batch), ("sample", "target"))
    for s in (0, 17):
        for t in range(3):  # what the batch costs, draw by draw
            cost = regret(b, float(data["lr_peak"][s, t]), float(batch[s, t]))[s, t]
            assert float(data["loss"][s, t]) == pytest.approx(np.exp((b.level[s, t] + cost) / 100), rel=1e-12)
    setting = recommend(b, **constraint)
    same(data["recommended_batch_tokens"], setting.batch_tokens, ("target",))
    same(summary["expected_regret"], setting.expected_regret, ("target",))
    assert list(summary["at_batch_bound"].to_numpy()) == list(setting.at_batch_bound)


def test_regret_has_a_dim_for_the_settings() -> None:
    draws = draws_of()
    data = regret_draws(draws, draws.cells, RATES, 5e5)
    cost = regret(basins(draws, draws.cells), np.array(RATES)[:, None], 5e5)
    same(data["regret"], cost, ("sample", "setting", "target"))
    assert list(data["lr_peak"].to_numpy()) == RATES
    assert list(data["batch_tokens"].to_numpy()) == [5e5] * 3
    assert bands(data, 0.5)["regret"].dims == ("bound", "setting", "target")
    with pytest.raises(UserError, match="3 rates and 2 batches"):
        regret_draws(draws, draws.cells, RATES, BATCHES)


def test_recommendations_are_the_settings_and_their_plateau() -> None:
    draws = draws_of()
    b = basins(draws, draws.cells)
    setting = recommend(b, threshold=1.0)
    data = recommendations(draws, draws.cells, threshold=1.0, n_points=12)
    edge = plateau(b, setting, threshold=1.0, n_points=12)
    for name in ("lr_peak", "batch_tokens", "expected_regret", "p_within_plateau"):
        same(data[name], getattr(setting, name), ("target",))
    same(data["plateau_lr_peak"], edge[..., 0], ("target", "point"))
    same(data["plateau_batch_tokens"], edge[..., 1], ("target", "point"))
    # A batch far from the best leaves its setting outside the plateau, which stays where it is.
    far = recommendations(draws, draws.cells, threshold=1.0, n_points=12, batch_tokens=1e4)
    assert (far["expected_regret"] > 1.0).all()
    same(far["plateau_lr_peak"], edge[..., 0], ("target", "point"))


def test_a_grid_is_chosen_from() -> None:
    draws = draws_of()
    b = basins(draws, draws.cells)
    chosen = round_to_grid(b, RATES, BATCHES)
    data = optimum_draws(draws, draws.cells, lr_grid=RATES, batch_grid=BATCHES)
    same(data["recommended_lr_peak"], chosen.lr_peak, ("target",))
    same(data["recommended_batch_tokens"], chosen.batch_tokens, ("target",))
    same(data["lr_peak"], b.lr_peak(), ("sample", "target"))
    capped = recommendations(draws, draws.cells, lr_grid=RATES, batch_grid=BATCHES, batch_max=5e5)
    assert set(capped["batch_tokens"].to_numpy()) == {2e5}
    fixed = recommendations(draws, draws.cells, lr_grid=RATES, batch_tokens=3e5)
    same(fixed["lr_peak"], round_to_grid(b, RATES, [3e5]).lr_peak, ("target",))
    assert fixed["at_batch_bound"].all()
    for wrong, match in (
        ({"batch_grid": BATCHES, "batch_max": 1e5}, "above the cap"),
        ({"batch_grid": BATCHES, "batch_tokens": 2e5}, "not both"),
        ({"lr_grid": RATES, "batch_max": [1e5, 2e5, 3e5]}, "one batch"),
        ({"batch_max": 1e5, "batch_tokens": 2e5}, "not both"),
    ):
        with pytest.raises(UserError, match=match):
            optimum_draws(draws, draws.cells, **wrong)
