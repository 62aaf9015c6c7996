"""fit, allocate, compare and predict on a table of losses alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Command


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
    assert "best n_params" in scaleband(*words).out


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
    points.write_text("source,data,n_params,n_tokens\nsim,web,1e9,2e10\n")
    out = tmp_path / "out.csv"
    assert scaleband("predict", "--fit", loss_fit, "--points", points, "--out", out).code == 0
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
        "loss", "n_params", "probability", "n_tokens", "flops", "batch_tokens", "steps", "critical_batch", "overhead"
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
