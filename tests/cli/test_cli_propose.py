"""`scaleband propose`: its JSON, its words, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from command import Command
from synthetic import made_up_cells

from scaleband.cli.propose import candidate_frame
from scaleband.errors import UserError
from scaleband.inference.kept_runs import kept_runs
from scaleband.inference.released import model_path

Capsys = pytest.CaptureFixture[str]
ASK = ("propose", "--model", "step-law", "--params", "700M", "--tokens", "30B", "--source", "us", "--data", "web")
GRID = ("--sizes", "100M,200M", "--lengths", "2B,8B")
COMMON = {"group", "target", "extrapolation", "conventions", "gate", "model", "regret_unit"}
RUN = {
    "run_id", "source", "arch", "data", "n_params", "n_active", "n_tokens", "lr_peak", "batch_tokens", "flops", "evsi",
    "evsi_error", "bundle", "replicate", "p_diverged", "worth_its_price",
}  # fmt: skip
VERDICT = {
    "action", "why", "evpi", "evsi", "evsi_error", "cost_flops", "saving_flops", "evpi_flops", "target_runs",
}  # fmt: skip


@pytest.fixture
def candidates_csv(tmp_path: Path) -> Path:
    """Twelve runs of one cell, priced and named."""
    rows = [
        {"run_id": f"mine-{i}{j}", "n_params": 1e8, "n_tokens": 2e9, "lr_peak": lr, "batch_tokens": b, "flops": 1e18}
        for i, lr in enumerate((1e-3, 2e-3, 4e-3, 8e-3))
        for j, b in enumerate((65536, 131072, 262144))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "candidates.csv", index=False)
    return tmp_path / "candidates.csv"


def test_json(scaleband: Command) -> None:
    done = scaleband(*ASK, *GRID, "--budget", "4e19", "-n", "6", "--target-runs", "5", "--json")
    answer = done.json()
    assert done.code == 0
    assert set(answer) == COMMON | {
        "proposals", "verdict", "budget", "pending", "seed", "draws_digest", "decision"
    }  # fmt: skip
    assert set(answer["verdict"]) == VERDICT
    assert answer["verdict"]["target_runs"] == 5
    assert answer["verdict"]["action"] in ("continue", "stop")
    assert 1 <= len(answer["proposals"]) <= 6
    for row in answer["proposals"]:
        assert set(row) == RUN
        assert (row["source"], row["data"]) == ("us", "web")
        assert row["n_params"] in (1e8, 2e8)
        assert row["n_tokens"] in (2e9, 8e9)
        assert row["evsi"] > 0
    spent = sum(row["flops"] for row in answer["proposals"])
    assert answer["budget"]["flops"] == 4e19
    assert answer["budget"]["left_flops"] == pytest.approx(4e19 - spent)


def test_the_same_question_has_the_same_answer(scaleband: Command) -> None:
    words = (*ASK, *GRID, "--budget", "2e19", "-n", "3", "--json")
    assert scaleband(*words).json() == scaleband(*words).json()


def test_for_people(scaleband: Command) -> None:
    done = scaleband(*ASK, *GRID, "--budget", "4e19", "-n", "4")
    assert done.out.splitlines()[0].startswith("700M parameters, 30B tokens, group us/dense/web")
    for word in ("verdict", "continue: ", "regret now", "EVSI", "conventions", "lr_peak", "sb-"):
        assert word in done.out


def test_the_bundles_that_are_worth_their_price_are_marked(scaleband: Command) -> None:
    words = ("propose", "--model", "step-law", "--params", "1e9", "--tokens", "2e10", "--budget", "1e20", "-n", "8")
    new = (*words, "--source", "my", "--data", "web")
    answer, shown = scaleband(*new, "--json").json(), scaleband(*new).out
    runs = answer["proposals"]
    marked = [row["worth_its_price"] for row in runs]
    worth = [r for r in runs if r["worth_its_price"]]
    n_bundles, n_worth = (len({r["bundle"] for r in rows}) for rows in (runs, worth))
    assert 1 < n_worth < n_bundles
    assert marked == sorted(marked, reverse=True), "a beginning"
    assert sum(r["flops"] for r in worth) == pytest.approx(answer["verdict"]["cost_flops"])
    assert sum({r["bundle"]: r["evsi"] for r in worth}.values()) == pytest.approx(answer["verdict"]["evsi"])
    assert f"the first {n_worth} bundles are worth their price and lower it by" in shown
    assert f"; all {n_bundles} by " in shown
    assert "left after all of them" in shown
    known = scaleband(*words, "--source", "step-law", "--data", "steplaw_main")
    assert "verdict            stop" in known.out
    assert "none is worth its price" in known.out


def test_a_table_of_candidates_keeps_its_names_and_prices(scaleband: Command, candidates_csv: Path) -> None:
    answer = scaleband(*ASK, "--candidates", candidates_csv, "--budget", "5.5e18", "--json").json()
    assert 3 <= len(answer["proposals"]) <= 5
    for row in answer["proposals"]:
        assert row["run_id"].startswith("mine-")
        assert row["flops"] == 1e18
        assert (row["source"], row["arch"], row["data"]) == ("us", "dense", "web")  # the target's, where none is given


def test_a_sparse_target_makes_its_candidates_sparse(scaleband: Command, candidates_csv: Path) -> None:
    pd.read_csv(candidates_csv).assign(n_active=2.5e7).to_csv(candidates_csv, index=False)
    words = (*ASK, "--candidates", candidates_csv, "--budget", "5.5e18", "--json")
    assert "is smaller than n_params, and dense uses all" in scaleband(*words).err
    sparse = scaleband(*words, "--arch", "moe-1in8", "--active-params", "175M").json()
    assert {(row["arch"], row["n_active"]) for row in sparse["proposals"]} == {("moe-1in8", 2.5e7)}


def test_candidates_without_n_active_are_as_sparse_as_they_were_fitted(tmp_path: Path, capsys: Capsys) -> None:
    rows = "n_params,n_tokens,lr_peak,batch_tokens,arch,n_active\n1e9,2e10,1e-3,5e5,moe-1in8,\n1e9,2e10,1e-3,5e5,,\n"
    (tmp_path / "c.csv").write_text(f"{rows}1e9,2e10,1e-3,5e5,moe-1in8,5e8\n")
    group = {"source": "step-law", "arch": "dense", "data": "web"}
    found = candidate_frame(tmp_path / "c.csv", group, [made_up_cells()])
    assert found["n_active"].tolist() == [2.5e8, 1e9, 5e8]
    assert capsys.readouterr().err.count("as in the fitted cells of step-law/moe-1in8/web") == 1
    assert candidate_frame(tmp_path / "c.csv", group)["n_active"].tolist() == [1e9, 1e9, 5e8]
    assert "taken as if every parameter" in capsys.readouterr().err


def test_pending_runs_are_told_apart(scaleband: Command, candidates_csv: Path, tmp_path: Path) -> None:
    under_way = pd.read_csv(candidates_csv).iloc[[0, 4, 7, 10]]
    under_way.to_csv(tmp_path / "pending.csv", index=False)
    words = (*ASK, "--candidates", candidates_csv, "--budget", "1e19", "--json")
    fresh = scaleband(*words).json()
    after = scaleband(*words, "--pending", tmp_path / "pending.csv").json()
    assert after["pending"] == under_way["run_id"].tolist()
    assert after["verdict"]["evpi"] < fresh["verdict"]["evpi"]
    assert after["proposals"]
    assert not {row["run_id"] for row in after["proposals"]} & set(after["pending"])
    # Where nothing but these can be run, what is proposed is one of them again, under a name of its own.
    alone = (*ASK, "--candidates", tmp_path / "pending.csv", "--pending", tmp_path / "pending.csv")
    again = scaleband(*alone, "--budget", "1e19", "--json").json()["proposals"]
    assert again
    for row in again:
        assert row["replicate"]
        assert row["run_id"].removesuffix("-r1") in after["pending"]
        assert row["run_id"].endswith("-r1")


def test_nothing_affordable_is_an_answer(scaleband: Command, candidates_csv: Path) -> None:
    done = scaleband(*ASK, "--candidates", candidates_csv, "--budget", "1e15", "--json")
    assert done.code == 0
    assert done.json()["proposals"] == []
    assert done.json()["verdict"]["action"] == "stop"


def test_failed_gate_is_repeated(scaleband: Command, failed_fit: Path) -> None:
    words = ("--params", "1B", "--tokens", "20B", "--source", "us", "--data", "code", "--budget", "1e20", "-n", "3")
    done = scaleband("propose", "--fit", failed_fit, *words, "--json")
    assert done.code == 3
    assert not done.json()["gate"]["passed"]
    assert "R-hat 1.2" in done.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr_peak": ""}, "row 1"),
        ({"lr_peak": -1.0}, "lr_peak"),
        ({"flops": -3.0}, "flops = -3"),
        ({"flops": "cheap"}, "flops = cheap"),
        ({"run_id": "mine-01"}, "'mine-01'"),
        ({"batch_tokens": 1e11}, "larger than n_tokens"),
    ],
)
def test_bad_candidates(scaleband: Command, candidates_csv: Path, change: dict[str, object], says: str) -> None:
    frame = pd.read_csv(candidates_csv).astype(object)
    for name, value in change.items():
        frame.loc[0, name] = value
    frame.to_csv(candidates_csv, index=False)
    done = scaleband(*ASK, "--candidates", candidates_csv, "--budget", "1e19")
    assert (done.code, done.out) == (1, "")
    assert says in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "--budget"),
        (("--budget", "0"), 2, "must be positive"),
        (("--budget", "5"), 2, "outside"),
        (("--budget", "1e19", "-n", "0"), 2, "whole number"),
        (("--budget", "1e19", "--target-runs", "0"), 2, "positive"),
        (("--budget", "1e19", "--candidates", "none.csv"), 1, "none.csv"),
        (("--budget", "1e19", "--candidates", "a.csv", "--sizes", "1B"), 2, "leave one of them out"),
        (("--budget", "1e12"), 1, "no run lies inside the limits"),
        (("--budget", "1e19", "--device-memory", "1000"), 1, "the device's memory"),
        (("--budget", "1e19", "--device-memory", "1000"), 1, "or more memory (--device-memory)"),
    ],
)
def test_bad_questions(scaleband: Command, words: tuple[str, ...], code: int, says: str) -> None:
    done = scaleband(*ASK, *words)
    assert done.code == code
    assert says in done.err
    assert "defect" not in done.err


def test_prices_in_dollars_count_the_overhead_of_every_run(scaleband: Command, candidates_csv: Path) -> None:
    words = (*ASK, "--candidates", candidates_csv, "--budget", "5.5e18", "--json")
    device = ("--device-flops", "1e15", "--utilisation", "0.5", "--price-per-hour", "2")
    plain, same = scaleband(*words).json(), scaleband(*words, *device).json()
    assert [r["run_id"] for r in same["proposals"]] == [r["run_id"] for r in plain["proposals"]]
    hours = 1e18 / 0.5e15 / 3600
    assert {round(r["price"], 9) for r in same["proposals"]} == {round(2 * hours, 9)}
    assert same["budget"]["price_unit"] == "dollars"
    assert same["budget"]["price"] == pytest.approx(5.5 * 2 * hours)
    slow = scaleband(*words, *device, "--overhead-hours", "0.5").json()
    assert {round(r["price"], 9) for r in slow["proposals"]} == {round(2 * hours + 1, 9)}
    assert len(slow["proposals"]) == 2, "half an hour of overhead each leaves the budget for two"
    assert slow["budget"]["left_price"] == pytest.approx(slow["budget"]["price"] - 2 * (2 * hours + 1))
    done = scaleband(*words[:-1], "--device-flops", "1e15")
    assert "device hours" in done.out
    assert " h" in done.out


def test_a_price_without_a_device_is_refused(scaleband: Command) -> None:
    done = scaleband(*ASK, *GRID, "--budget", "4e19", "--price-per-hour", "2")
    assert done.code == 2
    assert "--device-flops" in done.err


def fit_with_runs(folder: Path) -> Path:
    """The made-up fit, with three runs in its second cell (200M, 50B), one of them censored, as `fit` keeps them."""
    from synthetic import write_fit

    path = write_fit(folder / "fit.nc")
    rate, batch = np.log([1.0, 2.0, 8.0]), np.log([0.5, 0.5, 0.5])
    with h5py.File(path, "a") as file:
        seen = file.create_group("observed_data")
        for name, value in {
            "log_loss": [90.5, 90.6, 131.0], "censored": [0, 0, 1], "log_lr": rate, "log_batch": batch,
            "run_cell": [1, 1, 1],
        }.items():  # fmt: skip
            seen[name] = np.asarray(value)
    return path


def test_a_setting_that_the_fit_has_seen_is_a_replicate(scaleband: Command, tmp_path: Path) -> None:
    path = fit_with_runs(tmp_path)
    # The candidates' token count is the cell's within 0.5 %; one rate is new, the last one's loss was not known.
    rows = [{"run_id": f"r{lr:g}", "n_params": 2e8, "n_tokens": 5.01e10, "lr_peak": lr, "batch_tokens": 262144}
            for lr in (1e-3, 2e-3, 4e-3, 8e-3)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "c.csv", index=False)
    where = ("--params", "1B", "--tokens", "20B", "--source", "step-law", "--data", "web", "--budget", "1e22")
    done = scaleband("propose", "--fit", path, *where, "--candidates", tmp_path / "c.csv", "-n", "8", "--json")
    assert done.code == 0, done.err
    marks = {row["run_id"]: row["replicate"] for row in done.json()["proposals"] if not row["run_id"].endswith("-r1")}
    assert marks
    assert all(replicate == (name in ("r0.001", "r0.002")) for name, replicate in marks.items())


def test_the_runs_of_a_fit_are_read_back(tmp_path: Path) -> None:
    frame = kept_runs(fit_with_runs(tmp_path))
    assert frame is not None
    np.testing.assert_allclose(frame["lr_peak"], [1e-3, 2e-3])
    np.testing.assert_allclose(frame["batch_tokens"], 262144)
    np.testing.assert_allclose(100 * np.log(frame["loss"]), [90.5, 90.6])
    assert set(zip(frame["source"], frame["n_params"], frame["n_tokens"], strict=True)) == {("step-law", 2e8, 5e10)}
    assert kept_runs(model_path("step-law")) is None
    with h5py.File(tmp_path / "fit.nc", "a") as file:
        file["observed_data/run_cell"][:] = 99
    with pytest.raises(UserError, match="cells that it does not have"):
        kept_runs(tmp_path / "fit.nc")


def test_pending_runs_are_said_and_drawn(scaleband: Command, candidates_csv: Path, tmp_path: Path) -> None:
    pd.read_csv(candidates_csv).iloc[[0, 4]].to_csv(tmp_path / "pending.csv", index=False)
    words = (*ASK, "--candidates", candidates_csv, "--budget", "3.5e18", "--pending", tmp_path / "pending.csv")
    done = scaleband(*words, "--plot", tmp_path / "batch.svg")
    assert done.code == 0, done.err
    assert "2 runs, paid, taken as known before any other: mine-00, mine-11" in done.out
    assert "once the 2 pending runs are in" in done.out
    assert "regret now" not in done.out
    assert (tmp_path / "batch.svg").stat().st_size > 5_000
    refused = scaleband(*words, "--plot", tmp_path / "batch.gif")
    assert (refused.code, refused.out) == (1, "")
    assert "--plot" in refused.err
