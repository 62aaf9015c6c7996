"""What the verbs answer, over a made-up fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Command
from synthetic import GROUPS, write_fit

from scaleband.inference import released
from scaleband.inference.store import read_draws
from scaleband.predict import PLATEAU, basins, interval, predict_log_loss, target_cells
from scaleband.runs import COLUMNS

CELL = ("--params", "1B", "--tokens", "20B")
KNOWN = (*CELL, "--source", "step-law", "--data", "web")


def test_text_says_everything(scaleband: Command, fit_file: Path) -> None:
    done = scaleband("recommend", "--fit", fit_file, *KNOWN)
    assert done.err == ""
    lines = dict(line.split("  ", 1) for line in done.out.splitlines()[1:])
    assert done.out.startswith("1B parameters, 20B tokens, group step-law/dense/web\n")
    labels = [
        "recommended",
        "expected regret",
        "optimum",
        "plateau",
        "extrapolation",
        "conventions",
        "gate",
        "model",
    ]
    assert list(lines) == labels
    assert "90 % intervals" in lines["optimum"]
    assert "not stated: optimizer" in lines["conventions"]
    assert "cosine" in lines["conventions"]
    assert "70 runs in 7 cells" in lines["model"]


def test_numbers_are_those_of_predict(scaleband: Command, fit_file: Path) -> None:
    draws = read_draws(fit_file)
    b = basins(draws, target_cells(1e9, 2e10, source="step-law", data="web"))
    answer = scaleband("recommend", "--fit", fit_file, *KNOWN, "--interval", "0.5", "--json").json()
    band = interval(b.lr_peak()[:, 0], 0.5)
    assert answer["lr_peak"] == pytest.approx(
        {"median": band.median, "lower": band.lower, "upper": band.upper}
    )
    setting = answer["recommended"]
    words = ("--lr", setting["lr_peak"], "--batch-tokens", setting["batch_tokens"], "--json")
    cost = scaleband("regret", "--fit", fit_file, *KNOWN, *words).json()
    assert cost["expected_regret"] == pytest.approx(setting["expected_regret"])
    assert cost["recommended"] == pytest.approx(setting)
    edge = np.array(answer["plateau"]["polygon"])
    assert answer["plateau"]["lr_peak"] == {"lower": edge[:, 0].min(), "upper": edge[:, 0].max()}


def test_group_left_out_is_one_never_seen(scaleband: Command, fit_file: Path) -> None:
    known = scaleband("recommend", "--fit", fit_file, *KNOWN, "--json").json()
    done = scaleband("recommend", "--fit", fit_file, *CELL, "--json")
    answer = done.json()
    assert answer["group"] == "unseen/dense/unseen"
    assert answer["extrapolation"]["unseen"] == ["source", "data"]
    assert set(answer["conventions"]) == set(GROUPS)
    assert "--source left out" in done.err
    assert "step-law, us" in done.err

    def width(a: dict) -> float:
        return np.log(a["lr_peak"]["upper"] / a["lr_peak"]["lower"])

    assert width(answer) > 1.5 * width(known)


def test_a_misspelt_name_is_a_new_one_and_said(scaleband: Command, fit_file: Path) -> None:
    done = scaleband("recommend", "--fit", fit_file, *CELL, "--source", "step_law", "--data", "web", "--json")
    assert done.code == 0
    assert done.json()["group"] == "step_law/dense/web"
    assert "source 'step_law' is new to the fit" in done.err
    assert "did you mean step-law?" in done.err
    done = scaleband("recommend", "--fit", fit_file, *CELL, "--arch", "mamba", "--json")
    assert "arch 'mamba' is new to the fit" in done.err


def test_no_plateau_is_null(scaleband: Command, tmp_path: Path, fit_file: Path) -> None:
    words = (*KNOWN, "--batch-tokens", "50M")
    answer = scaleband("recommend", "--fit", fit_file, *words, "--json").json()["plateau"]
    assert answer["holds_recommended"] is False, "a batch far off the optimum"
    assert answer["batch_tokens"]["upper"] < 5e7
    assert "the recommended setting is outside" in scaleband("recommend", "--fit", fit_file, *words).out
    words = ("--params", "1e9", "--tokens", "2e10", "--source", "never-seen", "--data", "never-seen")
    answer = scaleband("recommend", "--fit", fit_file, *words, "--json").json()["plateau"]
    nothing = {"threshold": 0.25, "lr_peak": None, "batch_tokens": None, "polygon": None}
    assert answer == nothing | {"holds_recommended": False, "cut_at_batch_max": False}
    assert "none: no setting" in scaleband("recommend", "--fit", fit_file, *words).out


def test_the_plateau_ends_at_the_largest_batch(scaleband: Command, fit_file: Path) -> None:
    def ask(*words: str) -> dict:
        return scaleband("recommend", "--fit", fit_file, *KNOWN, "--json", *words).json()["plateau"]

    free = ask()
    low = free["batch_tokens"]["lower"]
    words = ("--batch-max", f"{low * 1.3:.6g}")
    cut = ask(*words)
    assert cut["cut_at_batch_max"] is True
    assert cut["batch_tokens"] == pytest.approx({"lower": low, "upper": float(words[1])}, rel=1e-2)
    assert cut["lr_peak"]["upper"] < 0.95 * free["lr_peak"]["upper"], "the highest rates belong to larger batches"
    assert max(batch for _, batch in cut["polygon"]) == pytest.approx(float(words[1]))
    assert f"{PLATEAU} %, cut at --batch-max)" in scaleband("recommend", "--fit", fit_file, *KNOWN, *words).out
    below = ("--batch-max", f"{low / 3:.6g}")
    assert (ask(*below)["cut_at_batch_max"], ask(*below)["polygon"]) == (True, None)
    assert "no setting up to --batch-max is known" in scaleband("recommend", "--fit", fit_file, *KNOWN, *below).out


def test_cap_and_given_batch(scaleband: Command, fit_file: Path) -> None:
    def ask(*words: str) -> dict:
        return scaleband("recommend", "--fit", fit_file, *KNOWN, "--json", *words).json()

    free = ask()
    assert free["constrained"] is None
    assert ask("--batch-max", "100M") == free
    capped = ask("--batch-max", "0.1M")
    assert capped["recommended"]["batch_tokens"] == pytest.approx(1e5)
    assert capped["constrained"]["why"] == "batch_max"
    assert capped["constrained"]["batch_tokens"]["upper"] <= 1e5 * (1 + 1e-9)
    assert capped["constrained"]["lr_peak"]["median"] < free["lr_peak"]["median"]
    assert capped["lr_peak"] == free["lr_peak"], "the optimum itself knows no cap"
    given = ask("--batch-tokens", "2M")
    assert given["recommended"]["batch_tokens"] == pytest.approx(2e6)
    assert given["constrained"]["why"] == "batch_tokens"
    assert "constrained" in scaleband("recommend", "--fit", fit_file, *KNOWN, "--batch-max", "0.1M").out


def test_far_beyond_every_run_is_answered_without_a_word_of_overflow(scaleband: Command) -> None:
    words = ("--params", "1e15", "--tokens", "1e15", "--batch-max", "65536")
    done = scaleband("recommend", "--model", "step-law", *words)
    assert done.code == 0
    assert done.out.startswith("1,000T parameters, 1,000T tokens")


def test_grids(scaleband: Command, fit_file: Path) -> None:
    def ask(*words: str) -> dict:
        return scaleband("recommend", "--fit", fit_file, *KNOWN, "--json", *words).json()["recommended"]

    free = ask()
    both = ask("--lr-grid", "5e-4,1e-3,2e-3", "--batch-grid", "131072,262144,0.5M")
    assert both["lr_peak"] in (5e-4, 1e-3, 2e-3)
    assert both["batch_tokens"] in (131072, 262144, 5e5)
    assert both["expected_regret"] >= free["expected_regret"] - 1e-9
    rates = ask("--lr-grid", "5e-4,2e-3")
    assert rates["lr_peak"] in (5e-4, 2e-3)
    assert free["expected_regret"] <= rates["expected_regret"] <= both["expected_regret"] + 0.2
    fixed = ask("--lr-grid", "5e-4,2e-3", "--batch-tokens", "1M")
    assert fixed["batch_tokens"] == 1e6
    done = scaleband("recommend", "--fit", fit_file, *KNOWN, "--batch-grid", "1M,2M", "--batch-max", "0.5M")
    assert done.code == 2
    assert "add a smaller one" in done.err


def test_a_grid_of_one_axis_far_away_is_answered_as_a_given_batch_is(scaleband: Command, fit_file: Path) -> None:
    def ask(*words: str) -> dict:
        return scaleband("recommend", "--fit", fit_file, *KNOWN, "--json", *words).json()["recommended"]

    for batch in ("2048", "64M"):
        grid, given = ask("--batch-grid", batch), ask("--batch-tokens", batch)
        assert grid["lr_peak"] == pytest.approx(given["lr_peak"], rel=1e-6)
        assert grid["expected_regret"] == pytest.approx(given["expected_regret"], rel=1e-6)


def test_columns_of_a_run_table_are_listed(scaleband: Command) -> None:
    done = scaleband("check", "--columns")
    assert done.code == 0
    for column in COLUMNS:
        assert column.name in done.out
        assert column.meaning in done.out


def test_a_misspelt_variant_is_doubted(scaleband: Command, fit_file: Path) -> None:
    known = scaleband("recommend", "--fit", fit_file, *KNOWN, "--arch", "moe-1in8", "--active-params", "250M")
    assert "new variant" not in known.err
    done = scaleband("recommend", "--fit", fit_file, *KNOWN, "--arch", "moe-1n8", "--active-params", "250M")
    assert "did you mean moe-1in8?" in done.err
    for given, name in (("MoE", "moe"), ("MoE-1in8", "moe-1in8"), ("DENSE", "dense")):
        done = scaleband("recommend", "--fit", fit_file, *KNOWN, "--arch", given)
        assert f"did you mean {name}?" in done.err


def test_predict_says_how_far_and_under_which_conventions_and_doubts_columns(
    scaleband: Command, fit_file: Path, tmp_path: Path
) -> None:
    points, out = tmp_path / "points.csv", tmp_path / "out.parquet"
    points.write_text("n_params,n_tokens\n1e9,2e10\n1e14,1e17\n")
    done = scaleband("predict", "--fit", fit_file, "--points", points, "--out", out)
    assert done.code == 0
    assert "1 of 2 points lie outside the fitted cells, 1 of them far" in done.err
    assert "conventions: " in done.err
    assert len(pd.read_parquet(out)) == 2
    for misspelt, meant in (("lr", "lr_peak"), ("batch_token", "batch_tokens"), ("n_activ", "n_active")):
        points.write_text(f"n_params,n_tokens,{misspelt},note\n1e9,2e10,1e-3,a\n")
        done = scaleband("predict", "--fit", fit_file, "--points", points, "--out", tmp_path / "no.csv")
        assert done.code == 1
        assert f"rename it {meant}" in done.err
        assert not (tmp_path / "no.csv").exists()


def test_moe_without_active_params_is_as_sparse_as_it_was_fitted(
    scaleband: Command, fit_file: Path, tmp_path: Path
) -> None:
    words, setting = ("--fit", fit_file, *KNOWN), ("--lr", "1e-3", "--batch-tokens", "524288")
    for verb, more in (("recommend", ()), ("regret", setting)):
        done = scaleband(verb, *words, *more, "--arch", "moe-1in8", "--json")
        note = "moe-1in8 without --active-params: n_params / n_active is taken to be 4, as in the fitted cells of"
        assert f"note: {note} step-law/moe-1in8/web\n" in done.err
        given = scaleband(verb, *words, *more, "--arch", "moe-1in8", "--active-params", "250M", "--json")
        assert done.json() == given.json()
    other = scaleband("recommend", "--fit", fit_file, *KNOWN[:-4], "--source", "me", "--arch", "moe-1in8")
    assert "as in the fitted cells of moe-1in8\n" in other.err
    new = scaleband("recommend", "--fit", fit_file, *KNOWN, "--arch", "moe-1in64")
    assert "moe-1in64 without --active-params: taken as if every parameter were used" in new.err
    assert "0.6 decades below in parameters per active one; far" in new.out

    points, losses = tmp_path / "points.csv", []
    for active in ("", "250e6"):
        rows = [f"1e9,2e10,step-law,{arch},web,{active}" for arch in ("moe-1in8", "moe-1in64")]
        points.write_text("\n".join(["n_params,n_tokens,source,arch,data,n_active", *rows]))
        out = tmp_path / f"out{active}.parquet"
        done = scaleband("predict", "--fit", fit_file, "--points", points, "--out", out)
        losses.append(pd.read_parquet(out)["loss_median"])
        for said in ("moe-1in8 without n_active: n_params / n_active is taken to be 4",
                     "moe-1in64 without n_active: taken as if every"):  # fmt: skip
            assert (said in done.err) == (active == "")
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]

    done = scaleband("recommend", "--fit", fit_file, *KNOWN, "--arch", "moe-1in8", "--active-params", "250M")
    assert done.err == ""
    assert "(250M active)" in done.out


def test_control_characters_of_a_file_are_not_printed(scaleband: Command, tmp_path: Path) -> None:
    path = write_fit(
        tmp_path / "fit.nc", form="\x1b[31mred\n", conventions={"a/b/c": {"schedule": "\x07bell"}}
    )
    done = scaleband("recommend", "--fit", path, *CELL)
    assert done.code == 0
    assert not {"\x1b", "\x07"} & set(done.out + done.err)


def test_facts_that_are_not_finite_become_null(scaleband: Command, tmp_path: Path, fit_file: Path) -> None:
    import h5py

    path = tmp_path / "fit.nc"
    path.write_bytes(fit_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["meta"] = file.attrs["meta"].replace('"n_runs": 70', '"n_runs": NaN')
    assert scaleband("recommend", "--fit", path, *KNOWN, "--json").json()["model"]["n_runs"] is None


def test_predict(scaleband: Command, fit_file: Path, tmp_path: Path) -> None:
    points = pd.DataFrame(
        {
            "id": ["007", "a b", "x,y"],
            "source": ["step-law", "step-law", ""],
            "data": ["web", "web", ""],
            "n_params": [1e9, 1e9, 3e8],
            "n_tokens": [2e10, 2e10, 6e9],
            "lr_peak": [1e-3, np.nan, np.nan],
            "batch_tokens": [5e5, np.nan, np.nan],
        }
    )
    points.to_csv(tmp_path / "points.csv", index=False)
    words = ("predict", "--fit", fit_file, "--points", tmp_path / "points.csv", "--out")
    done = scaleband(*words, tmp_path / "one.csv")
    assert (done.code, done.out) == (0, "")
    assert "wrote 3 predictions" in done.err
    assert "source not in the fit: left out" in done.err
    assert scaleband(*words, tmp_path / "mean.csv", "--mean").code == 0
    one, mean = (pd.read_csv(tmp_path / name, dtype={"id": str}) for name in ("one.csv", "mean.csv"))
    assert list(one.columns) == [*points.columns, "loss_median", "loss_lower", "loss_upper"]
    assert list(one["id"]) == list(points["id"])
    # Of a group never seen the level is the width, and noise adds nothing to it.
    assert ((one["loss_upper"] - one["loss_lower"]) > (mean["loss_upper"] - mean["loss_lower"]))[:2].all()
    assert mean["loss_median"][1] < mean["loss_median"][0], "the optimum is better than a setting"
    draws = read_draws(fit_file)
    b = basins(draws, target_cells(1e9, 2e10, source="step-law", data="web"))
    band = np.exp(interval(predict_log_loss(draws, b, 1e-3, 5e5, mean=True)[:, 0]))
    assert mean.loc[0, ["loss_median", "loss_lower", "loss_upper"]].to_numpy(float) == pytest.approx(band)


def test_predict_many_points_in_pieces(scaleband: Command, fit_file: Path, tmp_path: Path) -> None:
    n = 450
    pd.DataFrame({"n_params": np.geomspace(1e8, 1e10, n), "n_tokens": 2e10}).to_parquet(
        tmp_path / "points.parquet"
    )
    words = ("--points", tmp_path / "points.parquet", "--out", tmp_path / "out.csv", "--mean")
    assert scaleband("predict", "--fit", fit_file, *words).code == 0
    out = pd.read_csv(tmp_path / "out.csv")
    assert len(out) == n
    assert np.isfinite(out["loss_median"]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "points.parquet"]


def test_check(scaleband: Command, runs_csv: Path) -> None:
    done = scaleband("check", runs_csv)
    assert done.code == 0
    assert "9: 9 completed" in done.out
    assert "us/dense/web: 9 runs, 1 cell; 100M parameters, 2B tokens" in done.out
    assert "warning: runs.csv: there is one cell only" in done.err


def test_check_in_sequences(scaleband: Command, tmp_path: Path) -> None:
    from malformed import good

    good().assign(batch_tokens=lambda f: f["batch_tokens"] / 2048).to_csv(tmp_path / "runs.csv", index=False)
    assert "--batch-in-sequences" in scaleband("check", tmp_path / "runs.csv").err
    assert scaleband("check", tmp_path / "runs.csv", "--batch-in-sequences").code == 0


@pytest.fixture
def zoo(tmp_path: Path, fit_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of released models with one in it."""
    (tmp_path / "models" / "made-up").mkdir(parents=True)
    (tmp_path / "models" / "made-up" / "posterior.nc").write_bytes(fit_file.read_bytes())
    (tmp_path / "models" / "made-up" / "card.md").write_text("# made-up\n\nA model of nothing.\n\nMore.\n")
    monkeypatch.setattr(released, "models_folder", lambda: tmp_path / "models")
    return tmp_path / "models"


def test_models(scaleband: Command, zoo: Path) -> None:
    assert "A model of nothing." in scaleband("models", "list").out
    assert [m["name"] for m in scaleband("models", "list", "--json").json()["models"]] == ["made-up"]
    assert scaleband("models", "show", "made-up").out == "# made-up\n\nA model of nothing.\n\nMore.\n"
    assert scaleband("models", "show", "made-up", "--json").json()["n_runs"] == 70
    done = scaleband("models", "show", "madeup")
    assert done.code == 1
    assert "did you mean made-up?" in done.err
    answer = scaleband("recommend", "--model", "made-up", *KNOWN, "--json").json()
    assert answer["model"]["name"] == "made-up"
    assert answer["model"]["card"] == "A model of nothing."


def test_the_released_models_say_which_have_loss_laws(scaleband: Command) -> None:
    listed = {m["name"]: m["loss_laws"] for m in scaleband("models", "list", "--json").json()["models"]}
    assert listed == {"public-sweeps": False, "scaleband-tiny": False, "step-law": True}
    assert "loss laws" in scaleband("models", "list").out.splitlines()[0]
    groups = ("--a", "a/dense/b", "--b", "c/dense/d")
    for words in (("allocate",), ("compare", *groups)):
        done = scaleband(words[0], "--model", "public-sweeps", "--flops", "1e21", *words[1:])
        assert (done.code, done.out) == (1, "")
        assert "public-sweeps: this model has no loss laws" in done.err
        assert "ask --model step-law\n" in done.err


def test_no_models(scaleband: Command, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "models_folder", lambda: zoo / "nowhere")
    done = scaleband("models", "list")
    assert (done.code, done.out) == (0, "")
    assert "no released model" in done.err
    assert "none is installed" in scaleband("models", "show", "made-up").err


def test_data(scaleband: Command, tmp_path: Path) -> None:
    shown = {line.split()[0]: line.split()[-1] for line in scaleband("data", "list").out.splitlines()}
    assert shown["steplaw-dense"].startswith("https://")
    assert {e["name"]: e["url"] or "shipped" for e in scaleband("data", "list", "--json").json()["data"]} == {
        k: v for k, v in shown.items() if k != "name"
    }
    assert {"name", "url", "sha256"} <= set(scaleband("data", "list", "--json").json()["data"][0])
    done = scaleband("data", "fetch", "steplaw")
    assert done.code == 1
    assert "choose one of" in done.err
    done = scaleband("data", "fetch", "steplaw-dense", "--dir", tmp_path / "a", "--mirror", tmp_path)
    assert done.code == 1
    assert "the mirror has no" in done.err


def test_plot(scaleband: Command, fit_file: Path, tmp_path: Path) -> None:
    done = scaleband("recommend", "--fit", fit_file, *KNOWN, "--plot", tmp_path / "basin.svg", "--json")
    assert done.code == 0
    assert (tmp_path / "basin.svg").read_text().startswith("<?xml")
    for name, says in (("basin.gif", "end the name of --plot so"), ("nowhere/basin.png", "does not exist")):
        done = scaleband("recommend", "--fit", fit_file, *KNOWN, "--plot", tmp_path / name)
        assert (done.code, done.out) == (1, "")
        assert says in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["basin.svg"]
