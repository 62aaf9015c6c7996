"""EVSI over the plane and the path of a batch: their numbers, then one drawing of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scaleband.design import Candidates, Limits, grid_candidates, propose
from scaleband.laws import Cells, LawDraws
from scaleband.plots import batch_data, draw_plane, plane_data, plot_batch, save
from scaleband.predict import target_cells

BUDGET = 4e19


@pytest.fixture(scope="module")
def target() -> Cells:
    return target_cells(np.array([7e8]), np.array([3e10]), source="us", data="web")


@pytest.fixture(scope="module")
def candidates(draws: LawDraws, target: Cells) -> Candidates:
    limits = Limits(sizes=((1e8, 1e8), (2e8, 2e8)), tokens=(2e9, 8e9), flops_max=1.2e19)
    return grid_candidates(draws, target, limits)


def test_the_plane_shows_every_cell(draws: LawDraws, target: Cells, candidates: Candidates) -> None:
    data = plane_data(draws, target, candidates)
    assert len(data.evsi) == len(candidates.cells) == 4
    assert (data.evsi >= 0).all()
    assert (data.evsi <= data.evpi + 3 * data.error).all()
    np.testing.assert_allclose(data.flops, data.n_runs * 6 * data.n_params * data.n_tokens)
    most = plane_data(draws, target, candidates, per_flop=False)
    assert most.evsi.max() >= data.evsi.max() - 2 * data.error.max()


def test_the_path_of_a_batch(draws: LawDraws, target: Cells, candidates: Candidates) -> None:
    data = batch_data(draws, target, candidates, budget_flops=BUDGET, n_runs=9, seed=1)
    found = propose(draws, target, candidates, budget_flops=BUDGET, n_runs=9, seed=1)
    bundles = {p.bundle: p.evsi for p in found.proposals}
    assert len(data.bundle) == len(bundles) >= 1
    np.testing.assert_allclose(-np.diff(data.regret), list(bundles.values()), atol=1e-9)
    assert data.flops[-1] == pytest.approx(sum(p.flops for p in found.proposals))
    assert data.flops[0] == 0
    assert (np.diff(data.width) <= 1e-12).all()  # knowing more never widens what is expected
    assert data.width[:, -1].max() < data.width[:, 0].max()


def test_they_draw(draws: LawDraws, target: Cells, candidates: Candidates, tmp_path: Path) -> None:
    ax = draw_plane(plane_data(draws, target, candidates))
    assert save(ax.figure, tmp_path / "plane.png").stat().st_size > 5_000
    assert {t.get_text() for t in ax.texts} <= {str(n) for n in range(1, 10)}
    figure = plot_batch(draws, target, candidates, budget_flops=BUDGET, n_runs=9)
    assert save(figure, tmp_path / "batch.png").stat().st_size > 5_000
    nothing = plot_batch(draws, target, candidates, budget_flops=1.0)
    assert "no affordable bundle" in nothing.get_supxlabel()
