"""From a run table to the model's arrays: what is one trunk, one batch, one cell, and what a diverged run is beside."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from scaleband.bayes import ModelInputs, cells_of, model_inputs
from scaleband.bayes.loss_model import fitted_log_loss, layout_for, model_arrays, row_log_density
from scaleband.errors import UserError
from scaleband.inference.fitting import fit, prepared
from scaleband.inference.loss_table import table_from_runs
from scaleband.laws import CENSOR_ABOVE, design_for
from scaleband.laws.loss import LAWS
from scaleband.runs import RunTable, cell_table, run_table


def a_cell(source: str = "us", n: float = 1e8, d: float = 2e9, loss: float = 3.0, **other: object) -> pd.DataFrame:
    """A grid of four rates and three batches."""
    grid = [(lr, b) for lr in (5e-4, 1e-3, 2e-3, 4e-3) for b in (131072.0, 262144.0, 524288.0)]
    frame = pd.DataFrame(grid, columns=["lr_peak", "batch_tokens"])
    frame["loss"] = loss + 0.01 * np.arange(len(frame))
    return frame.assign(source=source, data="web", n_params=n, n_tokens=d, seq_len=2048, **other)


def table_of(*cells: pd.DataFrame) -> RunTable:
    return run_table(pd.concat(cells, ignore_index=True))


def inputs_of(*cells: pd.DataFrame) -> ModelInputs:
    frame = table_of(*cells).frame
    return model_inputs(frame, design_for(cells_of(cell_table(frame))))


def test_trunks_of_two_teams_are_two_though_they_have_one_name() -> None:
    trunk = ["1", "1", "2"] + [""] * 9
    inputs = inputs_of(a_cell("team-a", trunk=trunk), a_cell("team-b", trunk=trunk))
    assert inputs.n_trunks == 2
    assert inputs.trunk[:3].tolist() == [0, 0, 2]
    assert inputs.trunk[12:15].tolist() == [1, 1, 2], "2 is one run's in each team, and shared by none"


def test_a_run_alone_on_its_trunk_has_the_error_of_one_where_others_share_theirs() -> None:
    """Named alone or not named: the scatter of branches off one trunk says nothing of how far it is off."""
    trunk = ["1", "1", "2"] + [""] * 9
    status = ["completed"] * 11 + ["diverged"]
    inputs = inputs_of(a_cell("team-a", trunk=trunk, status=status), a_cell("team-b", trunk=["3"] + [""] * 11))
    assert inputs.trunked == ("team-a",)
    assert inputs.alone[:12].tolist() == [False, False] + [True] * 9 + [False], "a diverged run needs none"
    assert not inputs.alone[12:].any(), "no run of team-b shares a trunk"
    np.testing.assert_allclose(inputs.own_se(2.0)[1:4], np.hypot(inputs.y_se[1:4], [0.0, 2.0, 2.0]))
    assert inputs.own_se(np.ones((3, 2))).shape == (3, 2, len(inputs.y))


def test_trunks_of_two_teams_are_two_to_the_loss_laws() -> None:
    """One observation a cell and batch: three and three share a trunk, and not all six."""
    runs = table_of(a_cell("team-a", trunk="1"), a_cell("team-b", trunk="1")).frame
    table = table_from_runs(runs)
    layout = layout_for(table, LAWS["chinchilla"])
    assert layout.trunks == ("team-a/1", "team-b/1")
    assert model_arrays(table, layout)["trunk"].tolist() == [0, 0, 0, 1, 1, 1]


def test_an_observation_alone_on_its_trunk_has_the_error_of_one_where_others_share_theirs() -> None:
    trunk = ["1", "1", "2"] + [""] * 9  # the first three are the best of their batches
    table = table_from_runs(table_of(a_cell("team-a", trunk=trunk), a_cell("team-b", trunk=[""] * 12)).frame)
    layout = layout_for(table, LAWS["chinchilla"])
    a = model_arrays(table, layout)
    assert a["alone"].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    theta = np.zeros(len(layout.names))
    theta[layout.at("log_trunk_scale")], theta[layout.block("log_sigma")] = np.log(0.3), np.log(0.4)
    away = a["y"] - fitted_log_loss(np, theta, layout, a)
    scale = np.where(a["alone"] == 1, 0.5, 0.4)
    np.testing.assert_allclose(row_log_density(np, theta, layout, a), t.logpdf(away, 2.0, scale=scale))


def test_a_frame_that_was_not_checked_is_refused() -> None:
    table = table_of(a_cell())
    with pytest.raises(UserError, match=r"frame of a checked run table, and here run_id, source, arch, data are missi"):
        fit(table)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"here run_id, arch, n_active, loss_se are missing; .* give its \.frame"):
        fit(a_cell())


def test_a_row_outside_the_cells_given_is_refused() -> None:
    frame = table_of(a_cell(), a_cell(d=8e9)).frame
    known = cell_table(frame[frame["n_tokens"] == 2e9])
    with pytest.raises(UserError, match=r"run row-000013 \(.* 8e\+09 tokens, us/dense/web\) and 11 more"):
        model_inputs(frame, design_for(cells_of(known)), cells=known)


def test_a_cell_where_all_diverged_is_censored_beside_the_nearest_of_its_group() -> None:
    other = a_cell("them", loss=1.2)  # another tokenizer: no measure of ours
    small, large = a_cell(loss=4.0), a_cell(n=1e9, d=1.6e10, loss=2.5)
    inputs = inputs_of(small, large, other, a_cell(d=3e9, status="diverged"))
    lost = int(np.flatnonzero(inputs.cells.n_tokens == 3e9)[0])
    assert inputs.censored[inputs.cell == lost].all()
    np.testing.assert_allclose(inputs.y[inputs.cell == lost], 100 * np.log(4.0) + CENSOR_ABOVE)
    assert np.isfinite(inputs.best).all()


def test_a_group_without_a_loss_is_left_out_and_the_table_says_so() -> None:
    ours, theirs = a_cell(), a_cell("them", status="diverged")
    table = table_of(ours, theirs)
    assert [str(w) for w in table.warnings if "every run of them/dense/web diverged" in str(w)]
    frame, cells, _, inputs = prepared(table.frame, "linear", None)
    assert set(frame["source"]) == set(cells["source"]) == {"us"}
    np.testing.assert_array_equal(inputs.y, inputs_of(ours).y)
    both = cell_table(table.frame)
    beside = model_inputs(table.frame, design_for(cells_of(both)), cells=both)
    assert len(beside.cells) == 2
    assert set(beside.cell) == {1}, "a cell without rows follows its law"


@pytest.mark.parametrize(("n_rates", "thin"), [(3, True), (4, False)])
def test_batches_and_rates_within_a_percent_are_one(n_rates: int, thin: bool) -> None:
    """As the checks of the table count them."""
    one = a_cell().iloc[::3].head(n_rates).assign(batch_tokens=[524_288.0, 524_000.0, 523_900.0, 524_100.0][:n_rates])
    again = one.assign(lr_peak=1.005 * one["lr_peak"], loss=one["loss"] + 0.001)
    cell = pd.concat([one, again])
    assert cell_table(table_of(cell).frame)["n_batch"].tolist() == [1]
    inputs = inputs_of(cell)
    assert inputs.some_one_batch
    assert inputs.thin.tolist() == [thin]
    assert len(set(inputs.log_batch)) == 1
    assert len(set(inputs.log_lr)) == 2 * n_rates, "rates stay what they were"
    np.testing.assert_allclose(inputs.one_batch, np.log(523_900 / 524_288), atol=1e-3)
