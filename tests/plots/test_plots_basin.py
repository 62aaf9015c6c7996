"""The basin's picture: its numbers, then one drawing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaleband.errors import UserError
from scaleband.laws import LawDraws, published_optimum
from scaleband.plots import basin_data, draw_basin, plot_basin, save
from scaleband.plots.canvas import new_figure
from scaleband.predict import basins, expected_regret, recommend, target_cells
from scaleband.runs import cell_table


def test_map_is_the_expected_regret(draws: LawDraws) -> None:
    data = basin_data(draws, draws.cells, 3, n_grid=9)
    b = basins(draws, target_cells(1.5e8, 2e10, source="simulated", data="simulated-text"))
    for i, j in ((0, 0), (4, 4), (2, 7)):
        assert data.regret[i, j] == pytest.approx(expected_regret(b, data.lr[j], data.batch[i])[0])


def test_plateau_edge_lies_on_its_contour_and_holds_the_recommendation(draws: LawDraws) -> None:
    data = basin_data(draws, draws.cells, 5)
    b = basins(draws, draws.cells)
    on_edge = np.array([expected_regret(b, *point)[5] for point in data.plateau])
    np.testing.assert_allclose(on_edge, data.threshold, atol=1e-6)
    logs = np.log(data.plateau / data.recommended)
    around = np.unwrap(np.arctan2(logs[:, 1], logs[:, 0]))
    assert np.all(np.diff(around) > 0)  # once around the recommended setting
    inside = data.regret <= data.threshold
    rate, batch = np.meshgrid(np.log(data.lr), np.log(data.batch))
    low, high = np.log(data.plateau).min(0), np.log(data.plateau).max(0)
    assert inside.any()
    assert (rate[inside] >= low[0]).all()
    assert (rate[inside] <= high[0]).all()
    assert (batch[inside] >= low[1]).all()
    assert (batch[inside] <= high[1]).all()


def test_cloud_is_the_draws_and_the_ellipse_holds_its_mass(draws: LawDraws) -> None:
    data = basin_data(draws, draws.cells, 2, mass=0.8)
    b = basins(draws, draws.cells)
    np.testing.assert_array_equal(data.optimum[:, 0], b.lr_peak()[:, 2])
    np.testing.assert_array_equal(data.optimum[:, 1], b.batch_tokens()[:, 2])
    logs, edge = np.log(data.optimum), np.log(data.ellipse)
    inverse = np.linalg.inv(np.cov(logs.T))
    radius = np.einsum("pi,ij,pj->p", edge - logs.mean(0), inverse, edge - logs.mean(0))
    np.testing.assert_allclose(radius, radius[0], rtol=1e-4)
    distance = np.einsum("pi,ij,pj->p", logs - logs.mean(0), inverse, logs - logs.mean(0))
    assert (distance <= radius[0]).mean() == pytest.approx(0.8, abs=0.01)


def test_recommendation_constraint_and_published_point(draws: LawDraws) -> None:
    data = basin_data(draws, draws.cells, 4, batch_max=200_000.0)
    setting = recommend(basins(draws, draws.cells), batch_max=200_000.0)
    np.testing.assert_allclose(data.recommended, [setting.lr_peak[4], setting.batch_tokens[4]], rtol=1e-6)
    assert data.recommended[1] == pytest.approx(200_000)
    assert data.batch_limit == 200_000
    np.testing.assert_array_equal(data.plateau, basin_data(draws, draws.cells, 4).plateau)  # no limit moves it
    np.testing.assert_allclose(data.published, published_optimum(draws.cells.n_params[4], draws.cells.n_tokens[4]))


def test_dots_are_the_cells_own_runs(draws: LawDraws, runs: pd.DataFrame) -> None:
    cells = cell_table(runs)
    c = int(cells["n_diverged"].to_numpy().argmax())
    data = basin_data(draws, draws.cells, c, runs=runs)
    assert len(data.runs) == cells["n_runs"][c] == 20
    assert data.runs_diverged.sum() == cells["n_diverged"][c] > 0
    np.testing.assert_array_equal(np.isnan(data.runs_excess), data.runs_diverged)
    level = np.median(draws.state[:, 4, c])
    assert np.nanmin(data.runs_excess) == pytest.approx(100 * np.log(cells["loss_min"][c]) - level)
    outside = runs.assign(n_tokens=runs["n_tokens"] * 1.5)
    assert len(basin_data(draws, draws.cells, c, runs=outside).runs) == 0


def test_target_without_runs_and_without_a_plateau(draws: LawDraws) -> None:
    data = basin_data(draws, target_cells(7e10, 2e12), threshold=1e-3)
    assert np.isnan(data.plateau).all()
    assert len(data.runs) == 0
    assert np.isfinite(data.regret).all()
    ax = draw_basin(data)
    assert "no setting is expected to be within 0.001 %" in ax.get_title()
    assert "run" not in ax.get_legend_handles_labels()[1]


def test_regrets_are_told_in_percent_of_the_loss(draws: LawDraws) -> None:
    """60 units of 100 log loss are a loss 1.82 times as high."""
    ax = draw_basin(replace(basin_data(draws, draws.cells, 0, n_grid=9), expected_regret=60.0))
    assert ax.get_title().endswith("expected regret 82 %")
    ticks = dict(zip((t.get_text() for t in ax.figure.axes[1].get_yticklabels()), ax.figure.axes[1].get_yticks(),
                     strict=True))  # fmt: skip
    assert ticks["20"] == pytest.approx(100 * np.log(1.2))


def test_a_target_that_is_not_there_is_refused(draws: LawDraws) -> None:
    with pytest.raises(UserError, match="there is no target 99: there are 14, counted from 0"):
        plot_basin(draws, draws.cells, 99)
    assert basin_data(draws, draws.cells, -1, n_grid=3).label == basin_data(draws, draws.cells, 13, n_grid=3).label


def test_a_wild_run_does_not_stretch_the_picture(draws: LawDraws, runs: pd.DataFrame) -> None:
    wild = runs.assign(lr_peak=runs["lr_peak"].where(runs["run_id"] != "sim-000", 1e3))
    data = basin_data(draws, draws.cells, 0, runs=wild)
    assert data.lr[-1] < 1.0
    draw_basin(data)


def test_it_draws(draws: LawDraws, runs: pd.DataFrame, tmp_path: Path) -> None:
    figure = plot_basin(draws, draws.cells, 12, runs=runs, batch_max=300_000.0)
    path = save(figure, tmp_path / "basin.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    words = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"recommended", "published Step Law", "run", "diverged run", "limit on the batch"} <= words


def test_it_draws_into_given_axes_and_starts_no_pyplot(draws: LawDraws, tmp_path: Path) -> None:
    ax = new_figure(5, 4).add_subplot()
    assert draw_basin(basin_data(draws, draws.cells, 0, statistic="median"), ax) is ax
    save(ax.figure, tmp_path / "given.svg")


def test_the_optimum_is_in_the_picture_however_wide_its_band(draws: LawDraws) -> None:
    wide = replace(draws, law=draws.law + 3.0 * np.random.default_rng(1).standard_normal(draws.law.shape))
    data = basin_data(wide, target_cells(5e8, 2e10, source="simulated", data="simulated-text"), n_grid=9)
    assert np.ptp(np.log(data.ellipse[:, 0])) > 2 * np.log(30)
    low, high = np.log(data.ellipse).min(0), np.log(data.ellipse).max(0)
    assert (np.log([data.lr[0], data.batch[0]]) <= low).all()
    assert (np.log([data.lr[-1], data.batch[-1]]) >= high).all()


def test_a_setting_far_from_the_optimum_does_not_push_it_out(draws: LawDraws) -> None:
    data = basin_data(draws, draws.cells, 0, batch_tokens=1e9, n_grid=9)
    assert data.batch[0] < data.plateau[:, 1].min()
    assert data.batch[-1] > 1e9
    assert data.recommended[1] == pytest.approx(1e9)


def test_where_little_is_known_the_colours_go_higher(draws: LawDraws) -> None:
    data = basin_data(draws, draws.cells, 0, n_grid=9)
    bar = draw_basin(replace(data, regret=data.regret + 60.0)).figure.axes[1]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["2", "5", "10", "20", "50", "100", "200", "400", "900"]
    assert bar.get_yticks()[4] == pytest.approx(100 * np.log(1.5))
    draw_basin(replace(data, regret=data.regret + 1e4))  # above every level: no warning
    bar = draw_basin(data).figure.axes[1]
    assert bar.get_yticklabels()[0].get_text() == "0.05"


def test_the_recommended_batch_is_whole_tokens(draws: LawDraws) -> None:
    data = replace(basin_data(draws, draws.cells, 0, n_grid=9), recommended=np.array([1e-3, 39.9]))
    assert "at 40 tokens a step" in draw_basin(data).get_title()
