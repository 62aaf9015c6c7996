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
