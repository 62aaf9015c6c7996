"""EVSI over the plane and the path of a batch: their numbers, then one drawing of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from scaleband.design import Candidates, Limits, candidates_from_table, grid_candidates, propose
from scaleband.laws import Cells, LawDraws
from scaleband.plots import (
    batch_data,
    campaign_data,
    draw_batch,
    draw_campaign,
    draw_plane,
    plane_data,
    plot_batch,
    save,
)
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


def test_pending_runs_and_prices_are_those_of_a_proposal(
    draws: LawDraws, target: Cells, candidates: Candidates
) -> None:
    some = [candidates.inputs(int(k)) for k in np.flatnonzero(candidates.cell == 0)[::8]]
    pending = candidates_from_table(pd.DataFrame(some))
    made = pd.DataFrame(some[:1]).assign(status="completed", loss=2.9)
    given = {"pending": pending, "made": made, "price": 2 * candidates.flops, "seed": 1}
    found = propose(draws, target, candidates, budget_flops=BUDGET, n_runs=3, **given)
    data = batch_data(draws, target, candidates, budget_flops=BUDGET, n_runs=3, **given)
    assert data.regret[0] == pytest.approx(found.verdict.evpi)
    assert data.flops[-1] == pytest.approx(sum(p.price_flops for p in found.proposals))
    assert data.n_pending == len(some)
    few = batch_data(draws, target, candidates, budget_flops=1.0)
    assert data.regret[0] < few.regret[0]
    assert (data.width[:, 0] < few.width[:, 0]).all()
    plane = plane_data(draws, target, candidates, **given)
    assert (plane.evpi, plane.n_pending) == (pytest.approx(found.verdict.evpi), len(some))
    np.testing.assert_allclose(plane.flops, 2 * plane.n_runs * 6 * plane.n_params * plane.n_tokens)
    assert f"once the {len(some)} pending runs are in" in draw_plane(plane).get_title()
    title = plot_batch(draws, target, candidates, budget_flops=BUDGET, n_runs=3, **given).get_suptitle()
    assert title.endswith(f"once the {len(some)} pending runs are in")


def test_regrets_are_drawn_in_percent_of_the_loss(draws: LawDraws, target: Cells, candidates: Candidates) -> None:
    batch = batch_data(draws, target, candidates, budget_flops=BUDGET, n_runs=3)
    left = draw_batch(replace(batch, regret=batch.regret + 60.0)).axes[0]
    np.testing.assert_allclose(left.lines[-1].get_ydata(), 100 * np.expm1(0.6 + batch.regret / 100))
    plane = draw_plane(replace(plane_data(draws, target, candidates), evpi=60.0))
    assert "expected regret now 82 %" in plane.get_title()
    start = {"run_id": "", "state": "", "spent_flops": 0.0,
             "recommended": {"lr_peak": 1e-3, "batch_tokens": 1e5, "expected_regret": 60.0},
             "lr_peak": {"median": 1e-3, "lower": 1e-4, "upper": 1e-2},
             "batch_tokens": {"median": 1e5, "lower": 1e4, "upper": 1e6}}  # fmt: skip
    axes = draw_campaign(campaign_data([start]))
    np.testing.assert_allclose(axes[2].lines[0].get_ydata(), [100 * np.expm1(0.6)])
    ends = [[y for _, y in line] for ax in axes[:2] for c in ax.collections
            if isinstance(c, LineCollection) for line in c.get_segments()]  # fmt: skip
    assert ends == [[1e-4, 1e-2], [1e4, 1e6]]  # a band that is known at one moment alone is seen too


def test_they_draw(draws: LawDraws, target: Cells, candidates: Candidates, tmp_path: Path) -> None:
    ax = draw_plane(plane_data(draws, target, candidates))
    assert save(ax.figure, tmp_path / "plane.png").stat().st_size > 5_000
    assert {t.get_text() for t in ax.texts} <= {str(n) for n in range(1, 10)}
    figure = plot_batch(draws, target, candidates, budget_flops=BUDGET, n_runs=9)
    assert save(figure, tmp_path / "batch.png").stat().st_size > 5_000
    nothing = plot_batch(draws, target, candidates, budget_flops=1.0)
    assert "no affordable bundle" in nothing.get_supxlabel()


def test_the_path_of_a_batch_keeps_inside_its_frame(draws: LawDraws, target: Cells, candidates: Candidates) -> None:
    data = batch_data(draws, target, candidates, budget_flops=BUDGET, n_runs=9)
    long = replace(data, label="a-team-of-a-very-long-name/dense/" + "text-of-an-even-longer-name-" * 3)
    figure = draw_batch(long)
    assert max(map(len, figure.get_suptitle().splitlines())) < 110
    assert figure.axes[0].get_ylim()[1] > 1.05 * data.regret.max()


def test_the_plane_tells_regrets_in_percent_of_the_loss(draws: LawDraws, target: Cells, candidates: Candidates) -> None:
    """60 units of 100 log loss are a loss 1.82 times as high."""
    data = plane_data(draws, target, candidates)
    wide = replace(data, label="a-team-of-a-very-long-name/dense/" + "text-of-an-even-longer-name-" * 3, evpi=60.0,
                   evsi=np.full(4, 30.0), flops=np.full(4, 2e18))  # fmt: skip
    ax = draw_plane(wide)
    assert "expected regret now 82 %" in ax.get_title()
    assert max(map(len, ax.get_title().splitlines())) <= 72
    assert "most per FLOP: 35 % for 2e18 FLOP" in ax.get_legend_handles_labels()[1]
