"""Losses that stand at two settings of one cell, and runs that stand there twice."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from malformed import good

from scaleband.runs import repeated_losses, run_table, without_repeated_losses


def with_rows(*rows: dict[str, object]) -> pd.DataFrame:
    """A good table whose first run is there again, each time a little different."""
    frame = good()
    frame["loss"] = frame["loss"].to_numpy() + np.linspace(1e-3, 2e-3, len(frame)) ** 2 + 1.234e-8
    again = [frame.iloc[0].to_dict() | {"run_id": f"again-{k}"} | row for k, row in enumerate(rows)]
    return pd.concat([frame, pd.DataFrame(again)], ignore_index=True)


def test_one_loss_at_two_rates_is_doubted_on_both_rows_and_nothing_else() -> None:
    frame = with_rows({"lr_peak": good()["lr_peak"].iloc[0] * 2})
    table = run_table(frame)
    conflicting, copied = repeated_losses(table.frame)
    assert np.flatnonzero(conflicting).tolist() == [0, len(frame) - 1]
    assert not copied.any()
    (said,) = [str(p) for p in table.warnings if "another setting" in str(p)]
    assert "2 runs" in said
    assert "again-0" in said
    assert "remove" in said


def test_the_same_run_twice_is_a_copy_and_the_first_stays() -> None:
    table = run_table(with_rows({}, {}))
    conflicting, copied = repeated_losses(table.frame)
    assert not conflicting.any()
    assert table.frame.loc[copied, "run_id"].tolist() == ["again-0", "again-1"]
    assert any("repeat another's setting and loss" in str(p) for p in table.warnings)


def test_without_them_no_loss_stands_twice() -> None:
    frame = run_table(with_rows({}, {"lr_peak": good()["lr_peak"].iloc[0] * 2})).frame
    left = without_repeated_losses(frame)
    assert left["run_id"].tolist() == frame["run_id"].tolist()[1:-2]  # both settings' runs go, and the copy
    copied = run_table(with_rows({})).frame
    assert len(without_repeated_losses(copied)) == len(copied) - 1
    assert not np.any(repeated_losses(left))


def test_other_cells_rounded_losses_and_diverged_runs_may_agree() -> None:
    first = good().iloc[0]
    rate = first["lr_peak"] * 2
    frame = with_rows(
        {"lr_peak": rate, "n_tokens": first["n_tokens"] * 2},
        {"lr_peak": rate, "loss": 3.21},
        {"lr_peak": rate * 2, "loss": 3.21},
        {"lr_peak": rate * 4, "status": "diverged"},
    )
    table = run_table(frame)
    assert not np.any(repeated_losses(table.frame))
    assert not any("another" in str(p) for p in table.warnings)


def test_a_million_rows_take_seconds() -> None:
    n = 1_000_000
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({name: ["x"] * n for name in ("source", "arch", "data")})
    frame["status"] = "completed"
    frame["n_params"] = frame["n_active"] = rng.choice([1e8, 2e8, 4e8], n)
    frame["n_tokens"] = rng.choice([1e9, 2e9], n)
    frame["lr_peak"], frame["batch_tokens"] = rng.choice([1e-3, 2e-3], n), 2.0**18
    frame["loss"] = 3 + rng.random(n)
    started = time.perf_counter()
    repeated_losses(frame)
    assert time.perf_counter() - started < 10


def test_a_row_pasted_twice_is_doubted_however_short_its_loss() -> None:
    frame = good()
    frame["loss"] = frame["loss"].round(3)
    pasted = pd.concat([frame, frame.head(3)], ignore_index=True).drop(columns="run_id")
    (said,) = [str(p) for p in run_table(pasted).warnings if "repeat another's setting and loss" in str(p)]
    assert "3 runs" in said
    seeds = pasted.assign(seed=np.r_[np.zeros(len(frame)), np.ones(3)])  # another seed may end at the same digits
    for sound in (frame, seeds):
        assert not any("repeat another's" in str(p) for p in run_table(sound).warnings)
    assert len(without_repeated_losses(run_table(pasted).frame)) == len(pasted)  # and nothing is thrown away
