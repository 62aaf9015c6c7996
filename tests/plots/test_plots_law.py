"""The law's picture: its numbers, then one drawing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaleband.errors import UserError
from scaleband.laws import REFERENCE, LawDraws, published_optimum
from scaleband.plots import draw_law, law_data, plot_law, save
from scaleband.predict import basins, interval, target_cells

GROUP = {"source": "simulated", "data": "simulated-text"}


def test_lines_cells_and_published(draws: LawDraws) -> None:
    data = law_data(draws, **GROUP)
    assert data.lines.tolist() == [6e7, 1.5e8, 4e8, 1e9]
    assert data.band.shape == (3, 2, 4, 40)
    middle, lower, upper = data.band
    assert (lower < middle).all()
    assert (middle < upper).all()
    for k, n in enumerate(data.lines):
        np.testing.assert_allclose(data.published[:, k], published_optimum(n, data.x))
    assert len(data.cell_x) == 10
    own = interval(REFERENCE["batch_tokens"] * np.exp(draws.state[:, 1, :10]))
    np.testing.assert_allclose(data.cell_band[:, 1], np.stack(own))


def test_band_is_that_of_a_new_cell(draws: LawDraws) -> None:
    data = law_data(draws, **GROUP, n_points=5)
    cells = target_cells(1.5e8, data.x, **GROUP)
    new = np.stack(interval(basins(draws, cells, as_new=True).lr_peak()))
    width = np.log(new[2] / new[1])
    assert np.abs(np.log(data.band[0, 0, 1] / new[0])).max() < 0.2 * width.max()
    np.testing.assert_allclose(np.log(data.band[2, 0, 1] / data.band[1, 0, 1]), width, rtol=0.2)


def test_band_is_that_of_a_new_cell_of_its_source(draws: LawDraws) -> None:
    """Of two sources, whose cells scatter apart."""
    ratio = np.tile([[0.25, 4.0], [1.0, 1.0]], (draws.n_samples, 1, 1))
    two = replace(draws, sources=("other", "simulated"), scatter_ratio=ratio)
    data = law_data(two, **GROUP, n_points=5)
    cells = target_cells(1.5e8, data.x, **GROUP)
    new = np.stack(interval(basins(two, cells, as_new=True).lr_peak()))
    np.testing.assert_allclose(np.log(data.band[2, 0, 1] / data.band[1, 0, 1]), np.log(new[2] / new[1]), rtol=0.2)


def test_band_is_smooth_along_a_line(draws: LawDraws) -> None:
    for along in ("n_tokens", "n_params"):
        edge = np.log(law_data(draws, **GROUP, along=along).band[1])
        assert np.abs(np.diff(edge, 2)).max() < 0.02


def test_along_size_keeps_the_share_of_active_parameters(draws: LawDraws) -> None:
    data = law_data(draws, **GROUP, arch="moe-1in8", along="n_params")
    assert data.lines.tolist() == [4e9, 2e10]
    np.testing.assert_allclose(data.published[0, 0], published_optimum(data.x, 4e9)[0])
    assert len(data.cell_x) == 4
    k = int(np.abs(np.log(data.x / 5e8)).argmin())
    cells = target_cells(data.x[k], 4e9, **GROUP, arch="moe-1in8", n_active=data.x[k] / 4)
    new = np.median(basins(draws, cells, as_new=True).lr_peak())
    assert np.log(data.band[0, 0, 0, k] / new) == pytest.approx(0, abs=0.05)


def test_mistakes_are_named(draws: LawDraws) -> None:
    with pytest.raises(UserError, match="no fitted cell belongs to nobody/dense/x; the fit has simulated/dense"):
        law_data(draws, source="nobody", data="x")
    with pytest.raises(UserError, match="along = 'loss' is no axis"):
        law_data(draws, **GROUP, along="loss")


def test_it_draws(draws: LawDraws, tmp_path: Path) -> None:
    figure = plot_law(draws, **GROUP)
    assert save(figure, tmp_path / "law.pdf").read_bytes().startswith(b"%PDF")
    assert [ax.get_ylabel() for ax in figure.axes] == ["peak learning rate", "batch (tokens per step)"]
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert words[:2] == ["60M parameters", "150M parameters"]


def test_the_title_says_how_many_lines_are_left_out(draws: LawDraws) -> None:
    data = law_data(draws, **GROUP)
    assert data.n_values == len(data.lines) == 4
    title = draw_law(replace(data, n_values=9))[0].figure.legends[0].get_title().get_text()
    assert title.endswith("; 4 of 9 sizes")
    assert draw_law(data)[0].figure.legends[0].get_title().get_text().endswith("/simulated-text")


def test_cells_of_one_size_are_set_apart_by_little_of_a_short_axis(draws: LawDraws) -> None:
    data = law_data(draws, **GROUP, arch="moe-1in8", along="n_params")
    left, _ = draw_law(data)
    drawn = [bars.lines[0].get_xdata() for bars in left.containers]
    for k, x in enumerate(drawn):
        away = np.abs(np.log(x / data.cell_x[data.cell_line == k]))
        assert 0 < away.max() < 0.01 * np.log(data.x[-1] / data.x[0])
