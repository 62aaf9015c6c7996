"""Cells, their labels and edges, and what a run costs."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from malformed import good

from scaleband.labels import quantity
from scaleband.runs import (
    arch_family,
    cell_index,
    cell_table,
    dollars,
    gpu_hours,
    group_label,
    run_table,
    training_flops,
    usable,
)

KEY = ["source", "arch", "data", "n_params", "n_tokens"]


def loaded(*parts: pd.DataFrame) -> pd.DataFrame:
    joined = pd.concat(parts, ignore_index=True).drop(columns="run_id")
    return run_table(joined).frame


def test_one_row_per_cell_in_a_fixed_order() -> None:
    frame = loaded(
        good().assign(n_tokens=4e9), good(), good().assign(source="a"), good().assign(n_params=5e7)
    )
    cells = cell_table(frame)
    assert len(cells) == 4
    assert list(cells["source"]) == ["a", "us", "us", "us"]
    assert list(cells["n_params"]) == [1e8, 5e7, 1e8, 1e8]
    assert cells["cell"].iloc[1] == "us/dense/web 50M/2B"
    pd.testing.assert_frame_equal(cell_table(frame.sample(frac=1, random_state=1)), cells)


def test_best_run_and_counts() -> None:
    frame = loaded(good())
    frame.loc[8, "status"] = "diverged"
    frame.loc[0, "status"] = "failed"
    cell = cell_table(frame).iloc[0]
    assert (cell["n_runs"], cell["n_diverged"], cell["n_lr"], cell["n_batch"]) == (8, 1, 3, 3)
    assert (cell["loss_min"], cell["lr_peak_best"], cell["batch_tokens_best"]) == (3.0, 2e-3, 131072)
    assert not cell["best_on_edge"]
    assert len(usable(frame)) == 8


@pytest.mark.parametrize(
    ("row", "lr", "batch"), [(1, True, False), (3, False, True), (8, True, True), (4, False, False)]
)
def test_best_on_edge(row: int, lr: bool, batch: bool) -> None:
    frame = loaded(good())
    frame.loc[row, "loss"] = 2.0
    cell = cell_table(frame).iloc[0]
    assert (cell["lr_on_edge"], cell["batch_on_edge"], cell["best_on_edge"]) == (lr, batch, lr or batch)


def test_rates_within_one_percent_are_one_grid_value() -> None:
    frame = loaded(good())
    frame.loc[4, "lr_peak"] = frame["lr_peak"].max() * 0.995
    cell = cell_table(frame).iloc[0]
    assert cell["n_lr"] == 3
    assert cell["lr_on_edge"]


def test_a_diverged_run_brackets_the_optimum() -> None:
    frame = loaded(good())
    frame.loc[frame["lr_peak"] == frame["lr_peak"].max(), "status"] = "diverged"
    assert not cell_table(frame).iloc[0]["lr_on_edge"]


def test_one_value_has_only_ends() -> None:
    cell = cell_table(loaded(good(n_batches=1))).iloc[0]
    assert cell["batch_on_edge"]
    assert not cell["lr_on_edge"]


def test_a_cell_where_nothing_completed() -> None:
    frame = loaded(good(), good().assign(n_tokens=4e9, status="diverged", loss=np.nan))
    cell = cell_table(frame).iloc[1]
    assert np.isnan(cell["loss_min"])
    assert cell["best_on_edge"]
    assert cell["n_diverged"] == cell["n_runs"] == 9


def test_rounding_noise_does_not_split_a_cell_and_a_dense_sweep_is_not_merged() -> None:
    noisy = good()
    noisy["n_params"] *= 1 + 1e-4 * np.arange(9) / 9
    noisy["n_tokens"] *= 1 + 4e-3 * np.arange(9)[::-1] / 9
    assert len(cell_table(loaded(noisy))) == 1
    dense = pd.concat([good(n_rates=1, n_batches=1)] * 1000, ignore_index=True)
    dense["lr_peak"] = np.geomspace(1e-4, 1e-2, 1000)
    cells = cell_table(run_table(dense.drop(columns="run_id")).frame)
    assert 300 < cells["n_lr"].iloc[0] < 1000


def test_labels_stay_unique_when_three_digits_do_not_suffice() -> None:
    cells = cell_table(loaded(good(), good().assign(n_params=1.002e8)))
    assert cells["cell"].is_unique
    assert cells["cell"].iloc[1] == "us/dense/web 100.2M/2B"


def test_variants_with_other_active_counts_are_pointed_out() -> None:
    frame = pd.concat([good(), good().assign(n_active=5e7)]).drop(columns="run_id")
    table = run_table(frame)
    assert any("different n_active" in str(problem) for problem in table.warnings)
    assert cell_table(table.frame)["n_active_varies"].all()


def test_sparse_models_without_n_active_are_doubted() -> None:
    part = good().assign(arch="moe-1in8", run_id=lambda f: "moe-" + f["run_id"])
    says = "9 runs of us/moe-1in8/web are taken to use every parameter for every token; give n_active"
    for frame, doubted in ((part, True), (part.assign(n_active=1e8), True), (part.assign(n_active=4e7), False)):
        assert any(says in str(w) for w in run_table(pd.concat([good(), frame])).warnings) is doubted


def test_cell_index_of_points() -> None:
    cells = cell_table(loaded(good(), good().assign(n_tokens=4e9), good().assign(source="a")))
    points = cells[KEY].iloc[[2, 0, 1, 0]].reset_index(drop=True)
    points.loc[3, "source"] = "nobody"
    assert list(cell_index(points, cells)) == [2, 0, 1, -1]
    near = cells[KEY].assign(n_params=cells["n_params"] * 0.9995, n_tokens=cells["n_tokens"] * 0.996)
    assert list(cell_index(near, cells)) == [0, 1, 2]
    far = cells[KEY].assign(n_tokens=cells["n_tokens"] * 1.01)
    assert list(cell_index(far, cells)) == [-1, -1, -1]
    assert list(cell_index(points.head(0), cells)) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.floats(1e8, 1.02e8), st.floats(1e9, 1.05e9), st.floats(1e-4, 1e-2)),
        min_size=3, max_size=40,
    )
)  # fmt: skip
def test_every_run_finds_the_cell_it_is_counted_in(rows: list[tuple[str, float, float, float]]) -> None:
    frame = pd.DataFrame(rows, columns=["source", "n_params", "n_tokens", "lr_peak"])
    frame = run_table(frame.assign(batch_tokens=1e5, loss=3.0), purpose="loss").frame
    cells = cell_table(frame)
    index = cell_index(frame, cells)
    assert (np.bincount(index, minlength=len(cells)) == cells["n_runs"]).all()
    spread = frame.groupby(index)[["n_params", "n_tokens"]].agg(lambda x: x.max() / x.min() - 1)
    assert (spread["n_params"] < 1.1e-3).all()
    assert (spread["n_tokens"] < 5.1e-3).all()


def test_names() -> None:
    assert group_label("step-law", "moe-1in89", "web") == "step-law/moe-1in89/web"
    assert [arch_family(arch) for arch in ("dense", "moe-1in89", "moe-a-b")] == ["dense", "moe", "moe"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0737e9, "1.07B"),
        (56.9e9, "56.9B"),
        (429260800, "429M"),
        (999.96e6, "1B"),
        (2e12, "2T"),
        (512, "512"),
        (1.5e4, "15k"),
    ],
)
def test_quantities_for_reading(value: float, text: str) -> None:
    assert quantity(value) == text


def test_costs_compose() -> None:
    flops = training_flops(1e9, 2e10)
    assert flops == 1.2e20
    hours = gpu_hours(flops, peak_flops_per_s=1e15, utilisation=0.4)
    assert hours == pytest.approx(1.2e20 / 4e14 / 3600)
    assert dollars(hours, 2.0) == pytest.approx(2 * hours)
    np.testing.assert_allclose(training_flops(np.array([1.0, 2.0]), np.array([3.0, 3.0])), [18, 36])


def test_costs_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="utilisation must lie in"):
        gpu_hours(1e20, 1e15, 40)
    with pytest.raises(ValueError, match="peak_flops_per_s must be positive"):
        gpu_hours(1e20, 0, 0.4)
    with pytest.raises(ValueError, match="must not be negative"):
        dollars(1.0, -1)
