"""Pictures of the loss laws: their numbers, then one drawing of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_laws import made_laws
from scaleband.errors import UserError
from scaleband.laws import Cells
from scaleband.laws.loss import LAWS
from scaleband.laws.loss.draws import LawSamples, LossDraws
from scaleband.laws.loss.table import LossTable, Reference
from scaleband.plots import (
    allocation_data,
    draw_allocation,
    draw_frontier,
    draw_isoflop,
    draw_residuals,
    draw_weights,
    frontier_data,
    isoflop_data,
    plot_allocation,
    plot_frontier,
    plot_isoflop,
    plot_residuals,
    plot_weights,
    residual_data,
    save,
    weight_data,
)
from scaleband.predict.allocation import Limits, allocate

GROUP = "sim/dense/web"


@pytest.fixture(scope="module")
def draws() -> LossDraws:
    return made_laws(source="sim")


def test_slices_are_lowest_at_the_best_size(draws: LossDraws) -> None:
    data = isoflop_data(draws, GROUP)
    assert len(data.flops) == 6
    for k in range(6):
        lowest = data.n_active[k][data.band[0, k].argmin()]
        assert data.best[1, k] * 0.8 < lowest < data.best[2, k] * 1.25
        assert (data.band[1, k] <= data.band[0, k]).all()
        assert (data.band[0, k] <= data.band[2, k]).all()
    assert sum(map(len, data.seen)) > 0
    assert (np.diff(data.best_loss) < 0).all()
    with pytest.raises(UserError, match="was not fitted"):
        isoflop_data(draws, "sim/dense/books")


def test_budgets_are_those_of_the_table() -> None:
    from scaleband.plots.isoflop import own_budgets

    exact = np.repeat(10.0 ** np.array([18.0, 18.5, 19.0, 19.5, 20.0, 20.5, 21.0]), 5)
    assert set(np.round(np.log10(own_budgets(exact)), 6)) <= {18.0, 18.5, 19.0, 19.5, 20.0, 20.5, 21.0}
    spread = np.geomspace(1e18, 1e21, 40)
    assert own_budgets(spread)[-1] == pytest.approx(1e21)


def test_dots_lie_off_the_line_by_their_residuals(draws: LossDraws) -> None:
    data = isoflop_data(draws, GROUP)
    for k in range(len(data.flops)):
        for n, loss in data.seen[k]:
            line = np.interp(np.log(n), np.log(data.n_active[k]), data.band[0, k])
            assert abs(loss / line - 1) < 0.02  # sizes of the made table are up to 1.2 % off the law


def law_made(name: str, log_u: np.ndarray, log_b: np.ndarray) -> LossDraws:
    """Runs of two sizes around a law of one more covariate, each 0.1 % above it; every draw the law's own belief."""
    law, ref, count = LAWS[name], Reference(3e8, 6e9, 524_288.0), len(log_u)
    n = np.tile([2e8, 4.5e8], count // 2)
    cells = Cells(("sim",) * count, ("dense",) * count, ("web",) * count, n, n, 1e19 / 6 / n)
    own = [f"{p.name}:{GROUP}" if p.grouped else p.name for p in law.parameters]
    names = (*own, f"level:{GROUP}", "log_sigma:sim", "log_nu_minus_1")
    theta = np.tile([*(p.mean for p in law.parameters), 1.0, np.log(0.001), 1.6], (20, 1))
    table = LossTable(
        cells, ref.batch_tokens * np.exp(log_b), np.asarray(cells.n_tokens) * np.exp(log_u), np.zeros(count),
        np.full(count, 1e-3), ["val"] * count, [""] * count, False,
    )  # fmt: skip
    made = LossDraws((LawSamples(law, names, theta),), table, ref, {"weights": {name: 1.0}})
    law_there = made.log_loss(cells, batch_tokens=table.batch_tokens, unique_tokens=table.unique_tokens)[0]
    return replace(made, table=replace(table, log_loss=law_there + 0.001))


@pytest.mark.parametrize("name", ["repetition", "three-term"])
def test_dots_of_repeated_data_and_poor_batches_lie_off_the_line_by_their_residuals(name: str) -> None:
    far = np.repeat([0.0, -1.5, -3.0], 4)
    made = law_made(name, far, 0 * far) if name == "repetition" else law_made(name, 0 * far, far)
    table = made.table
    assert np.ptp(table.log_loss[::2]) > 0.03, "it matters here"
    data = isoflop_data(made, GROUP, [1e19])
    assert len(data.seen[0]) == 12
    for n, loss in data.seen[0]:
        line = np.exp(np.interp(np.log(n), np.log(data.n_active[0]), np.log(data.band[0, 0])))
        assert loss / line == pytest.approx(1.001, abs=5e-4)


def test_the_frontier_falls_and_kinds_stay_apart(draws: LossDraws) -> None:
    data = frontier_data(draws)
    assert set(data.groups) == set(draws.groups())
    assert (np.diff(data.band[0], axis=1) < 0).all()
    assert data.flops[-1] == pytest.approx(10 * data.fitted)
    table = draws.table
    kinds = ["one" if g == GROUP else "other" for g in table.groups()]
    with pytest.raises(UserError, match="two kinds"):
        frontier_data(replace(draws, table=replace(table, kind=kinds)), draws.groups())


def test_residuals_are_observed_over_expected(draws: LossDraws) -> None:
    data = residual_data(draws)
    told = np.median(draws.log_loss(draws.table.cells), axis=0)
    np.testing.assert_allclose(data.percent, 100 * (draws.table.log_loss - told))
    assert (data.lower < 0).all()
    assert (data.upper > 0).all()
    assert 0.6 < data.inside().mean() <= 1


def trunks_of_sizes(draws: LossDraws) -> LossDraws:
    """The made runs, those of one corpus and size off one trunk, each trunk with its own 3 %, known to a tenth."""
    table, rng = draws.table, np.random.default_rng(1)
    trunk = [f"{d}-{n:.3g}" for d, n in zip(table.cells.data, table.cells.n_params, strict=True)]
    names = sorted(set(trunk))
    effect = rng.standard_normal(len(names))
    parts = []
    for part in draws.parts:
        keep = [k for k, n in enumerate(part.names) if n != "log_size_scale"]
        own = np.column_stack([np.full(len(part.theta), np.log(0.03)), np.tile(effect, (len(part.theta), 1))])
        own[:, 1:] += 0.1 * rng.standard_normal((len(own), len(names)))
        entries = (*(part.names[k] for k in keep), "log_trunk_scale", *(f"trunk:sim/{n}" for n in names))
        parts.append(LawSamples(part.law, entries, np.hstack([part.theta[:, keep], own])))
    law = replace(draws, parts=tuple(parts), table=replace(table, of_cells=False)).log_loss(table.cells)
    moved = 0.03 * effect[[names.index(t) for t in trunk]] + 0.001 * rng.standard_normal(len(trunk))
    seen = replace(table, trunk=trunk, of_cells=False, log_loss=np.median(law, axis=0) + moved)
    return replace(draws, parts=tuple(parts), table=seen)


def test_runs_off_one_trunk_share_its_effect_and_a_new_run_has_a_trunk_of_its_own(draws: LossDraws) -> None:
    off = trunks_of_sizes(draws)
    data = residual_data(off)
    assert np.abs(data.percent).max() < 1.0, "the trunk's 3 % is no residual"
    assert data.inside().mean() > 0.8
    assert np.median(data.upper - data.lower) < 3.0
    law, new = off.log_loss(off.table.cells), off.log_loss(off.table.cells, new_run=True)
    np.testing.assert_allclose((new - law).std(0), 0.03, rtol=0.25)
    np.testing.assert_array_equal(new, off.log_loss(off.table.cells, new_run=True))
    low, high = np.quantile(new, [0.05, 0.95], axis=0)
    assert ((off.table.log_loss > low) & (off.table.log_loss < high)).mean() > 0.75
    among = np.corrcoef((new - law).T)
    assert np.abs(among[np.triu_indices(24, 1)]).max() < 0.3, "points name no trunk: each has its own"


def test_weights_and_what_they_matter(draws: LossDraws) -> None:
    data = weight_data(draws, GROUP)
    assert data.weight.sum() == pytest.approx(1.0)
    assert (np.diff(data.weight) <= 0).all()
    drawn = {p.law.name for p in draws.parts}
    for name, apart in zip(data.laws, data.apart, strict=True):
        assert np.isfinite(apart).all() == (name in drawn)
    assert ((data.share >= 0) & (data.share <= 1)).all()


def test_splits_along_compute(draws: LossDraws) -> None:
    data = allocation_data(draws, GROUP, n_points=5)
    np.testing.assert_allclose(6 * data.chosen[0] * data.chosen[1], data.flops)
    assert (np.diff(data.n_params[0]) > 0).all()
    one = allocate(draws, GROUP, float(data.flops[2]))
    assert data.n_params[0, 2] == pytest.approx(np.median(one.n_params))
    capped = allocation_data(draws, GROUP, n_points=5, limits=Limits(max_tokens=1e9))
    assert capped.n_tokens.max() <= 1e9 * (1 + 1e-9)


def test_mixtures_of_experts_are_as_sparse_as_their_runs(draws: LossDraws) -> None:
    """By a law that knows sparsity, as `allocate` has it on the command line."""
    law, part, cells = LAWS["moe"], draws.parts[0], draws.table.cells
    share = float(next(p for p in law.parameters if p.name == "total_share").unbounded(0.8))
    theta = np.hstack([part.theta, np.full((len(part.theta), 1), share)])
    sparse = replace(
        draws, parts=(LawSamples(law, (*part.names, "total_share"), theta),),
        table=replace(draws.table, cells=replace(cells, n_params=8 * cells.n_params)), meta={"weights": {"moe": 1.0}},
    )  # fmt: skip
    picture = allocation_data(sparse, GROUP, n_points=3)
    slices = isoflop_data(sparse, GROUP, picture.flops)
    line = frontier_data(sparse, [GROUP], n_points=3, decades=2.0)
    for k, c in enumerate(picture.flops):
        found = allocate(sparse, GROUP, float(c), Limits(sparsity=8.0))
        assert picture.n_params[0, k] == pytest.approx(np.median(found.n_params))
        assert slices.best_loss[k] == pytest.approx(np.median(found.loss))
        assert slices.band[0, k].min() == pytest.approx(np.median(found.loss), rel=1e-3)
        assert line.band[0, 0, k] == pytest.approx(np.median(found.loss))
        dense = allocate(sparse, GROUP, float(c))
        assert np.median(dense.loss) > 1.02 * np.median(found.loss), "it matters here"


def test_they_draw(draws: LossDraws, tmp_path: Path) -> None:
    for name, figure in (
        ("isoflop", plot_isoflop(draws, GROUP).figure),
        ("frontier", plot_frontier(draws).figure),
        ("residuals", plot_residuals(draws)),
        ("weights", plot_weights(draws, GROUP)),
        ("allocation", plot_allocation(draws, GROUP)),
    ):
        assert save(figure, tmp_path / f"{name}.png").stat().st_size > 5_000, name


def test_drawing_takes_data_alone(draws: LossDraws) -> None:
    ax = draw_isoflop(isoflop_data(draws, GROUP))
    assert len(ax.get_legend().get_texts()) == 6
    ax = draw_frontier(frontier_data(draws))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == draws.groups()
    assert len(draw_residuals(residual_data(draws)).axes) == 3
    assert len(draw_weights(weight_data(draws, GROUP)).axes) == 2
    assert len(draw_allocation(allocation_data(draws, GROUP, n_points=3)).axes) == 3


def test_pictures_say_their_units_and_what_is_grey_or_dotted(draws: LossDraws) -> None:
    slices = plot_isoflop(draws, GROUP, [1e20])
    assert slices.get_ylabel() == "loss (val)"
    assert [t.get_text() for t in slices.get_legend().get_texts()] == ["1e20 FLOP"]
    assert plot_residuals(draws).get_suptitle().endswith("grey: the median band")
    assert "e+" not in plot_weights(draws, GROUP).axes[1].get_title()
    assert plot_allocation(draws, GROUP).get_suptitle().endswith("dotted: 20 tokens per parameter")


def test_long_names_break_and_one_law_is_a_bar(draws: LossDraws) -> None:
    group = "a-team-of-a-very-long-name/dense/" + "text-of-an-even-longer-name-" * 3
    slices = replace(isoflop_data(draws, GROUP, [1e20]), group=group)
    assert "\n" in draw_isoflop(slices).get_title()
    one = replace(weight_data(draws, GROUP, n_points=2), group=group)
    figure = draw_weights(replace(one, laws=one.laws[:1], weight=np.ones(1), apart=one.apart[:1]))
    assert "\n" in figure.get_suptitle()
    assert np.ptp(figure.axes[0].get_ylim()) > 3
    assert "\n" in draw_allocation(replace(allocation_data(draws, GROUP, n_points=2), group=group)).get_suptitle()
