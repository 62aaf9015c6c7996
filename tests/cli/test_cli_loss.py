"""fit, allocate, compare and predict on a table of losses alone."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import Command

from scaleband.inference import fitting, loss_table
from scaleband.inference.gate import Gate


def write_runs(path: Path) -> Path:
    """Two corpora, one with the lower loss, five budgets each; no rate, no batch."""
    rng = np.random.default_rng(0)
    rows = []
    for data, level in (("web", 1.7), ("books", 1.5)):
        for flops in 10 ** np.linspace(18, 20, 5):
            for n in np.sqrt(flops / 120) * np.exp(np.linspace(-1.2, 1.2, 6)):
                d = flops / 6 / n
                loss = (level + 400 / n**0.34 + 1200 / d**0.34) * np.exp(0.002 * rng.standard_normal())
                rows.append({"source": "sim", "data": data, "n_params": n, "n_tokens": d, "loss": loss})
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def loss_fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scaleband.cli import main

    folder = tmp_path_factory.mktemp("loss")
    runs, out = write_runs(folder / "runs.csv"), folder / "fit.nc"
    words = ("--laws", "chinchilla", "--draws", "600", "--tune", "300", "--quiet")
    assert main(["fit", str(runs), "--out", str(out), *words]) == 0
    return out


def test_allocate(scaleband: Command, loss_fit: Path, tmp_path: Path) -> None:
    words = ("allocate", "--fit", loss_fit, "--flops", "1e21", "--data", "web")
    answer = scaleband(*words, "--json").json()
    keys = {"flops", "n_params", "n_tokens", "tokens_per_param", "loss", "recommended", "share_of_form", "interval"}
    keys |= {"interval_kind", "group", "constraints", "extrapolation", "conventions", "gate", "model"}
    assert set(answer) == keys
    assert answer["group"] == "sim/dense/web"
    band = answer["loss"]
    assert band["lower"] < band["median"] < band["upper"]
    chosen = answer["recommended"]
    assert 6 * chosen["n_params"] * chosen["n_tokens"] == pytest.approx(1e21)
    capped = scaleband(*words, "--tokens-max", "5B", "--draws-out", tmp_path / "draws.csv", "--json").json()
    assert capped["n_tokens"]["upper"] <= 5e9 * 1.000001
    assert list(pd.read_csv(tmp_path / "draws.csv")) == ["n_params", "n_tokens", "loss", "law"]
    free = scaleband(*words).out
    assert "best n_params" in free
    assert free.startswith("1e21 FLOP, group sim/dense/web")


def test_a_size_that_is_given_has_no_best_size(scaleband: Command, loss_fit: Path) -> None:
    given = scaleband("allocate", "--fit", loss_fit, "--flops", "1e21", "--data", "web", "--params", "2B").out
    assert "best n_" not in given
    assert "of the size's" not in given
    assert ", as the size is given" in given


def test_compare(scaleband: Command, loss_fit: Path) -> None:
    words = ("compare", "--fit", loss_fit, "--a", "sim/dense/books", "--b", "sim/dense/web", "--flops", "1e20")
    answer = scaleband(*words, "--json").json()
    assert answer["p_a_better"] > 0.99
    assert answer["compute_multiplier"]["median"] > 1
    assert "P(a is better)" in scaleband(*words).out
    other = scaleband(*words[:-3], "sim/dense/code", "--flops", "1e20")
    assert other.code == 1
    assert "was not fitted" in other.err


def test_predict_and_recommend(scaleband: Command, loss_fit: Path, tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("source,data,n_params,n_tokens\nsim,web,1e9,2e10\nsim,web,1e14,2e10\n")
    out = tmp_path / "out.csv"
    done = scaleband("predict", "--fit", loss_fit, "--points", points, "--out", out)
    assert done.code == 0
    assert "1 of 2 points lie outside the fitted cells, 1 of them far" in done.err
    row = pd.read_csv(out).iloc[0]
    truth = 1.7 + 400 / 1e9**0.34 + 1200 / 2e10**0.34
    assert row.loss_lower < truth < row.loss_upper
    done = scaleband("recommend", "--fit", loss_fit, "--params", "1B", "--tokens", "20B")
    assert done.code == 1
    assert "loss laws alone" in done.err


def test_reach_and_repeats_on_a_fit_of_losses_alone(scaleband: Command, loss_fit: Path) -> None:
    words = ("allocate", "--fit", loss_fit, "--flops", "1e21", "--data", "web")
    done = scaleband(*words, "--params", "1B", "--reach", "2.3", "--json")
    found = done.json()["reach"]
    assert set(found) == {
        "loss", "n_params", "probability", "n_tokens", "flops", "first_tokens", "batch_tokens", "steps",
        "critical_batch", "overhead",
    }  # fmt: skip
    truth = (1200 / (2.3 - 1.7 - 400 / 1e9**0.34)) ** (1 / 0.34)
    assert found["n_tokens"]["lower"] < truth < found["n_tokens"]["upper"]
    assert found["steps"] is None  # nothing is known of batches here
    never = scaleband(*words, "--params", "1B", "--reach", "0.9")
    assert "is not reached" in never.out
    repeated = scaleband(*words, "--unique-tokens", "2B", "--json")
    assert "stated belief" in repeated.err
    free = scaleband(*words, "--json").json()
    assert repeated.json()["recommended"]["loss"]["median"] > free["recommended"]["loss"]["median"]
    bad = scaleband(*words, "--batch-tokens", "1M")
    assert (bad.code, bad.out) == (2, "")
    assert "--reach" in bad.err


def test_the_released_model_splits_a_budget(scaleband: Command) -> None:
    words = ("allocate", "--model", "step-law", "--flops", "1e21")
    answer = scaleband(*words, "--json").json()
    assert answer["group"] == "step-law/dense/steplaw_main"
    assert answer["gate"]["passed"] is True
    assert 1e9 < answer["recommended"]["n_params"] < 2e10
    assert answer["loss"]["lower"] < answer["loss"]["median"] < answer["loss"]["upper"] < 2.4
    reach = scaleband(*words, "--params", "1B", "--reach", "2.2", "--json").json()["reach"]
    assert reach["probability"] > 0.9
    assert reach["critical_batch"]["median"] > 1e5
    assert reach["steps"]["median"] > 1000
    fixed = scaleband(*words, "--params", "1B", "--reach", "2.2", "--batch-tokens", "4M", "--json").json()["reach"]
    assert fixed["n_tokens"]["median"] > reach["n_tokens"]["median"]


@pytest.mark.parametrize("batch", [(), ("--batch-tokens", "1M")])
def test_a_loss_that_is_reached_at_once_is_reached_before_the_first_horizon(
    batch: tuple[str, ...], scaleband: Command
) -> None:
    words = ("allocate", "--model", "step-law", "--flops", "1e21", "--params", "2e9", *batch, "--reach")
    done = scaleband(*words, "50")
    assert done.code == 0
    assert "--reach: 50 is outside 0.3 to 12 nats per token; check the unit; perplexity is not loss" in done.err
    assert "loss 50 at 2B parameters: fewer than 1M tokens, fewer than 1.2e16 FLOP; P(it is reached)" in done.out
    assert not {"steps", "critical"} & {line.split(" ")[0] for line in done.out.splitlines()}
    found = scaleband(*words, "50", "--json").json()["reach"]
    assert (found["steps"], found["critical_batch"], found["first_tokens"]) == (None, None, 1e6)
    assert "warning" not in scaleband(*words, "2.3").err


def test_some_draws_reach_a_loss_before_the_first_horizon(scaleband: Command) -> None:
    done = scaleband("allocate", "--model", "step-law", "--flops", "1e21", "--params", "2e9", "--reach", "7")
    assert re.search(r"parameters: fewer than 1M \(fewer than 1M to [0-9.]+M\) tokens", done.out)


@pytest.mark.parametrize(
    ("words", "group", "hint"),
    [
        (("--source", "steplaw"), "steplaw/dense/steplaw_main", "; did you mean step-law?"),
        (("--arch", "moe-1in9"), "step-law/moe-1in9/steplaw_main", "; did you mean moe-1in8"),
        (("--data", "steplaw_man"), "step-law/dense/steplaw_man", "; did you mean steplaw_main?"),
        (("--arch", "mooe"), "step-law/mooe/steplaw_main", ""),
    ],
)
def test_a_group_never_seen_is_named_and_its_nearest_too(
    words: tuple[str, ...], group: str, hint: str, scaleband: Command
) -> None:
    done = scaleband("allocate", "--model", "step-law", "--flops", "1e21", *words, "--json")
    assert done.json()["group"] == group
    assert f"note: answered for {group}, a group never seen" in done.err
    assert hint in done.err


def test_points_of_a_misspelt_group_are_doubted(scaleband: Command, tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("source,data,n_params,n_tokens\nsteplaw,steplaw_main,1e9,2e10\n")
    done = scaleband("predict", "--model", "step-law", "--points", points, "--out", tmp_path / "out.csv")
    assert "note: source not in the fit: steplaw; the fit knows step-law; did you mean step-law?" in done.err


@pytest.mark.parametrize(("group", "says"), [("", "'' was not fitted"), ("step-law/dens/x", "; did you mean step")])
def test_a_comparison_with_no_group_names_it(group: str, says: str, scaleband: Command) -> None:
    words = ("--a", group, "--b", "step-law/dense/steplaw_main", "--flops", "1e21")
    done = scaleband("compare", "--model", "step-law", *words)
    assert (done.code, done.out) == (1, "")
    assert says in done.err


def test_a_mixture_of_experts_is_as_sparse_as_its_cells_unless_said(scaleband: Command) -> None:
    def ask(*words: str) -> dict:
        return scaleband("allocate", "--model", "step-law", "--flops", "1e21", *words, "--json").json()

    own = ask("--arch", "moe-1in8")
    assert own["constraints"]["sparsity"] > 3
    given = ask("--arch", "moe-1in8", "--sparsity", str(own["constraints"]["sparsity"]))
    assert given["recommended"] == own["recommended"]
    assert ask()["constraints"]["sparsity"] == 1
    assert ask("--arch", "moe-1in8", "--sparsity", "1")["constraints"]["sparsity"] == 1


def test_far_below_the_smallest_run_is_not_inside(scaleband: Command) -> None:
    done = scaleband("allocate", "--model", "step-law", "--flops", "1e14")
    assert "decades below the smallest fitted run" in done.out


def test_the_released_model_compares_dense_and_moe(scaleband: Command) -> None:
    groups = ("--a", "step-law/moe-1in8/steplaw_main", "--b", "step-law/dense/steplaw_main")
    answer = scaleband("compare", "--model", "step-law", *groups, "--flops", "2e20", "--json").json()
    assert 0 <= answer["p_a_better"] <= 1
    assert answer["compute_multiplier"]["lower"] <= answer["compute_multiplier"]["upper"]


def test_prediction_by_the_released_model_uses_level_and_basin(scaleband: Command, tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    at = "step-law,steplaw_main,1e9,1e11"
    points.write_text(
        "source,data,n_params,n_tokens,lr_peak,batch_tokens\n"
        f"{at},,\n{at},1.2e-4,8388608\n{at},1.5e-3,1048576\n"
    )  # fmt: skip
    out = tmp_path / "out.csv"
    assert scaleband("predict", "--model", "step-law", "--points", points, "--out", out).code == 0
    best, corner, near = pd.read_csv(out).loss_median
    assert best <= near * 1.001 < corner
    assert near < best * 1.02


def test_rate_sensitivity(scaleband: Command) -> None:
    words = ("regret", "--model", "step-law", "--params", "1B", "--tokens", "20B", "--source", "step-law")
    words = (*words, "--data", "steplaw_main", "--lr", "1e-3", "--batch-tokens", "0.5M")
    answer = scaleband(*words, "--lr-range", "1e-4,1e-2", "--json").json()
    assert answer["lr_sensitivity"]["lr_range"] == [1e-4, 1e-2]
    assert answer["lr_sensitivity"]["regret"]["median"] > answer["regret"]["median"]
    assert "lr_sensitivity" not in scaleband(*words, "--json").json()
    assert "rate sensitivity" in scaleband(*words, "--lr-range", "1e-4,1e-2").out
    bad = scaleband(*words, "--lr-range", "1e-2,1e-4")
    assert bad.code == 2
    assert "does not go up" in bad.err


def write_sweep(path: Path, n_cells: int = 9) -> Path:
    """Cells of three sizes and three token counts, three rates and batches each."""
    rows = [
        {"source": "us", "data": "web", "n_params": n, "n_tokens": d, "lr_peak": lr, "batch_tokens": b,
         "seq_len": 2048, "loss": 3.0 + 0.01 * abs(lr - 1e-3) / 1e-3}
        for n in (1e8, 3e8, 1e9) for d in (2e9, 8e9, 3e10) for lr in (5e-4, 1e-3, 2e-3) for b in (65536, 131072, 262144)
    ]  # fmt: skip
    pd.DataFrame(rows[: 9 * n_cells]).to_csv(path, index=False)
    return path


@pytest.fixture
def fitted_at_once(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """`fitting.fit` that samples nothing and notes its calls; its gate failed."""
    calls: list[Any] = []

    class Tree:
        subtree = ()

        def to_netcdf(self, where: str, **_: object) -> None:
            Path(where).write_text("a fit")

    def fit(frame: Any, **options: Any) -> SimpleNamespace:
        calls.append(frame)
        failed = Gate(False, (1.2, "rho"), (90.0, "rho"), (90.0, "rho"), 0, ("R-hat 1.2 at rho is above 1.01",))
        meta = {"seconds": {"sample": 1.0}, "n_runs": len(frame), "n_cells": 9, "form": "quadratic"}
        return SimpleNamespace(gate=failed, settings=options["settings"], meta=meta, draws=lambda: None)

    monkeypatch.setattr(fitting, "fit", fit)
    monkeypatch.setattr(fitting, "tree_of", lambda *_, **__: Tree())
    monkeypatch.setattr(loss_table, "table_from_basins", lambda draws: range(9))
    return calls


def test_an_interrupt_during_the_loss_laws_leaves_the_fit_and_says_so(
    scaleband: Command, tmp_path: Path, fitted_at_once: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scaleband.inference.loss_fit.fit_loss", interrupted)
    out = tmp_path / "fit.nc"
    done = scaleband("fit", write_sweep(tmp_path / "runs.csv"), "--out", out, "--draws", 200, "--quiet")
    assert (done.code, done.out) == (130, "")
    assert out.read_text() == "a fit"
    assert done.err.endswith(f"interrupted: {out} holds the fit, without loss laws\n")
    assert "nothing was written" not in done.err
    assert "the diagnostic gate failed: R-hat 1.2" in done.err


@pytest.mark.parametrize(
    ("n_cells", "words", "says"),
    [
        (5, ("--loss", "also"), "--loss also: 5 cells are too few for a loss law; give runs of at least 6"),
        (9, ("--laws", "moe"), "the moe law needs a table in which n_active varies"),
        (9, ("--laws", "chinchilla,repetition"), "the repetition law needs a table in which unique_tokens is below"),
    ],
)
def test_loss_laws_that_the_cells_cannot_give_are_refused_before_sampling(
    n_cells: int, words: tuple[str, ...], says: str, scaleband: Command, tmp_path: Path, fitted_at_once: list[Any]
) -> None:
    runs = write_sweep(tmp_path / "runs.csv", n_cells)
    done = scaleband("fit", runs, "--out", tmp_path / "fit.nc", *words)
    assert done.code == 1
    assert says in done.err
    assert not fitted_at_once
    assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


def test_a_table_too_small_for_loss_laws_is_no_table_that_can_be_fitted(scaleband: Command, tmp_path: Path) -> None:
    """Its rows are sound, so `check` calls it valid; but it says what `fit` will."""
    runs, same = write_runs(tmp_path / "runs.csv"), tmp_path / "same.csv"
    table = pd.read_csv(runs)
    assert scaleband("check", "--loss", runs).out.startswith("the table can be fitted")
    table.head(2).to_csv(runs, index=False)
    table.iloc[[0] * 7].to_csv(same, index=False)
    for path, count in ((runs, "2 completed runs"), (same, "1 observations")):
        done = scaleband("check", "--loss", path)
        assert done.code == 0
        assert done.out.startswith("the table cannot be fitted")
        assert f"{count}" in done.err
        assert "too few for a loss law" in done.err
        warning = scaleband("check", "--loss", path, "--json").json()["warnings"][-1]
        assert warning["message"].startswith(count)
        fitted = scaleband("fit", path, "--out", tmp_path / "fit.nc")
        assert fitted.code == 1
        assert warning["message"] in fitted.err


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_table_of_losses_with_one_rate_a_cell_is_told_of_the_losses_alone(
    spread: float, scaleband: Command, tmp_path: Path
) -> None:
    """No optimum is in it, but a loss law is."""
    runs = write_runs(tmp_path / "runs.csv")
    table = pd.read_csv(runs)
    rates = 3e-3 * np.exp(spread * np.arange(len(table)))
    table.assign(lr_peak=rates, batch_tokens=524288).to_csv(runs, index=False)
    for words in (("fit", runs, "--out", tmp_path / "fit.nc"), ("check", runs)):
        done = scaleband(*words)
        assert done.code == 1
        assert "or fit the losses alone, which asks for no rates (fit --loss only)" in done.err
    assert scaleband("check", "--loss", runs).code == 0
