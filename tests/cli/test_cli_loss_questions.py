"""predict and allocate on fits of losses alone whose law knows of repeated data or of batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Command, Done

from made_laws import LEVEL, REFERENCE, REPEATED, THREE, TRUTH, losses_alone
from scaleband.inference.loss_store import write_loss
from scaleband.laws.loss import LAWS, Covariates

WEB = "a,dense,web"
HEADER = "source,arch,data,n_params,n_tokens"


@pytest.fixture(scope="session")
def repeated_fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit that knows what repeats cost."""
    path = tmp_path_factory.mktemp("alone") / "repetition.nc"
    write_loss(losses_alone("repetition", REPEATED), path)
    return path


@pytest.fixture(scope="session")
def plain_fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit that saw no repeats."""
    path = tmp_path_factory.mktemp("alone") / "chinchilla.nc"
    write_loss(losses_alone("chinchilla", TRUTH), path)
    return path


def loss_by(name: str, truth: dict[str, float], n: float, d: float, *, b: float = np.nan, u: float = np.inf) -> float:
    """The truth's loss."""
    tokens = np.log(np.array([d, min(d, u)]) / REFERENCE.n_tokens)
    x = Covariates(np.log(n / REFERENCE.n_active), tokens[0], 0.0, np.log(b / REFERENCE.batch_tokens), tokens[1])
    return float(np.exp(LEVEL["web"]) * LAWS[name].relative(np, truth, LAWS[name].tuned(truth, x)))


def ask(scaleband: Command, tmp_path: Path, rows: str, *words: object) -> tuple[Done, np.ndarray]:
    """Predict at rows of a table; the medians."""
    points, out = tmp_path / "points.csv", tmp_path / "out.csv"
    points.write_text(rows)
    out.unlink(missing_ok=True)
    done = scaleband("predict", *words, "--points", points, "--out", out, "--mean")
    return done, pd.read_csv(out).loss_median.to_numpy() if done.code == 0 else np.array([])


def test_points_with_repeated_data_cost_what_the_repetition_law_says(
    scaleband: Command, tmp_path: Path, repeated_fit: Path
) -> None:
    rows = f"{HEADER},unique_tokens\n" + "".join(f"{WEB},1e9,8e10,{u}\n" for u in ("", "8e10", "1e9"))
    done, told = ask(scaleband, tmp_path, rows, "--fit", repeated_fit)
    assert "belief" not in done.err
    truth = [loss_by("repetition", REPEATED, 1e9, 8e10, u=u) for u in (8e10, 8e10, 1e9)]
    np.testing.assert_allclose(told, truth, rtol=1e-6)
    assert truth[2] > 1.05 * truth[1]


def test_a_fit_without_repeats_takes_their_worth_from_the_belief_as_allocate_does(
    scaleband: Command, tmp_path: Path, plain_fit: Path
) -> None:
    rows = f"{HEADER},unique_tokens\n{WEB},1e9,8e10,8e10\n{WEB},1e9,8e10,1e9\n"
    done, told = ask(scaleband, tmp_path, rows, "--fit", plain_fit)
    assert "stated belief" in done.err
    words = ("allocate", "--fit", plain_fit, "--flops", 6 * 1e9 * 8e10, "--params", "1e9", "--unique-tokens", "1e9")
    assert told[1] == pytest.approx(scaleband(*words, "--json").json()["loss"]["median"], rel=1e-4)
    assert told[1] > 1.01 * told[0]


def test_repeats_cost_the_same_of_a_cell_that_was_fitted_and_of_a_new_one(scaleband: Command, tmp_path: Path) -> None:
    """The model has basins too: its fitted cells keep their own level."""
    cells = [f"step-law,dense,steplaw_main,{n},8e9" for n in (119992320, 1.3e8)]
    rows = f"{HEADER},unique_tokens\n" + "".join(f"{cell},{u}\n" for cell in cells for u in ("", "1e9"))
    done, told = ask(scaleband, tmp_path, rows, "--model", "step-law")
    assert "stated belief" in done.err
    fitted, new = np.log(told[1::2] / told[::2])
    assert fitted == pytest.approx(new, rel=0.1)
    assert new > 0.01


def test_a_fit_without_loss_laws_says_that_it_leaves_repeats_aside(
    scaleband: Command, tmp_path: Path, fit_file: Path
) -> None:
    rows = f"{HEADER},unique_tokens\nus,dense,code,5e8,1e10,1e9\n"
    assert "unique_tokens are left aside" in ask(scaleband, tmp_path, rows, "--fit", fit_file)[0].err


def test_distinct_tokens_that_cannot_be_are_refused_and_needless_ones_doubted(
    scaleband: Command, tmp_path: Path, plain_fit: Path
) -> None:
    done, _ = ask(scaleband, tmp_path, f"{HEADER},unique_tokens\n{WEB},1e9,8e10,2\n", "--fit", plain_fit)
    assert done.code == 1
    assert "row 1: unique_tokens = 2 is outside 100000 to 1e+18; write tokens, not billions" in done.err
    done, _ = ask(scaleband, tmp_path, f"{HEADER},unique_tokens\n{WEB},1e9,8e10,9e10\n", "--fit", plain_fit)
    assert "row 1: unique_tokens = 9e+10 is larger than n_tokens, so nothing is repeated; leave it empty" in done.err


def reached(scaleband: Command, fit: Path, loss: float, *words: object) -> dict:
    """What `allocate --reach` says of a model of 1B parameters."""
    asked = ("allocate", "--fit", fit, "--flops", "1e21", "--params", "1e9", "--reach", loss, *words, "--json")
    return scaleband(*asked).json()["reach"]


def test_a_loss_is_reached_later_on_repeated_data_or_never(
    scaleband: Command, repeated_fit: Path, plain_fit: Path
) -> None:
    goal = loss_by("repetition", REPEATED, 1e9, 1e10, u=2e9)
    repeats = ("--unique-tokens", "2e9")
    assert reached(scaleband, repeated_fit, goal, *repeats)["n_tokens"]["median"] == pytest.approx(1e10, rel=1e-4)
    assert reached(scaleband, repeated_fit, goal)["n_tokens"]["median"] < 9e9
    for fit in (repeated_fit, plain_fit):
        low = loss_by("chinchilla", TRUTH, 1e9, 1e12)
        assert reached(scaleband, fit, low)["probability"] == 1
        assert reached(scaleband, fit, low, *repeats)["probability"] == 0


def test_a_loss_that_takes_more_than_the_most_tokens_is_not_reached(scaleband: Command, plain_fit: Path) -> None:
    goal = loss_by("chinchilla", TRUTH, 1e9, 1e10)
    assert reached(scaleband, plain_fit, goal, "--tokens-max", "1.1e10")["probability"] == 1
    assert reached(scaleband, plain_fit, goal, "--tokens-max", "0.9e10")["n_tokens"] is None
    words = ("allocate", "--fit", plain_fit, "--flops", "1e21", "--params", "1e9", "--reach", goal, "--tokens-max")
    assert "is not reached at 1B parameters on at most 9B tokens\n" in scaleband(*words, "0.9e10").out
    assert "P(it is reached on at most 11B tokens): over 99 %" in scaleband(*words, "1.1e10").out


def test_a_band_over_the_draws_that_reach_a_loss_or_cross_says_so(scaleband: Command) -> None:
    words = ("--model", "step-law", "--flops", "1e21")
    told = scaleband("allocate", *words, "--params", "1e9", "--reach", "1.97").out
    assert " FLOP, if it is reached; P(it is reached): " in told
    groups = ("step-law/moe-1in8/steplaw_main", "step-law/dense/steplaw_main")
    told = scaleband("compare", *words, "--a", groups[0], "--b", groups[1]).out
    assert "), if they cross; P(they cross between " in told


def test_reaching_a_loss_on_repeated_data_beside_basins(scaleband: Command) -> None:
    words = ("allocate", "--model", "step-law", "--flops", "1e21", "--params", "1e9", "--reach", "2.3")
    free, few = (scaleband(*words, *more, "--json").json()["reach"] for more in ((), ("--unique-tokens", "5e9")))
    assert few["n_tokens"]["median"] > 1.02 * free["n_tokens"]["median"]
    assert few["steps"]["median"] > 1.005 * free["steps"]["median"]
    most = 1.1 * free["n_tokens"]["median"]
    capped = scaleband(*words, "--batch-tokens", "4e6", "--tokens-max", most, "--json").json()["reach"]
    assert capped["probability"] < 0.5


@pytest.fixture(scope="session")
def three_term_fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of losses alone that knows the batch."""
    path = tmp_path_factory.mktemp("alone") / "three-term.nc"
    write_loss(losses_alone("three-term", THREE), path)
    return path


def test_a_fit_of_losses_alone_says_what_it_leaves_aside_of_rates_and_batches(
    scaleband: Command, tmp_path: Path, three_term_fit: Path, plain_fit: Path, fit_file: Path
) -> None:
    alone = f"{HEADER},batch_tokens\n{WEB},1e9,2e10,65536\n"
    done, told = ask(scaleband, tmp_path, alone, "--fit", three_term_fit)
    assert told[0] == pytest.approx(loss_by("three-term", THREE, 1e9, 2e10, b=65536), rel=1e-6)
    assert "left aside" not in done.err
    both = f"{HEADER},batch_tokens,lr_peak\n{WEB},1e9,2e10,65536,1e-3\n"
    assert "so rates of the points are left aside" in ask(scaleband, tmp_path, both, "--fit", three_term_fit)[0].err
    assert "rates and batches of the points are left" in ask(scaleband, tmp_path, alone, "--fit", plain_fit)[0].err
    done, _ = ask(scaleband, tmp_path, alone.replace(WEB, "us,dense,code"), "--fit", fit_file)
    assert done.code == 1
    assert "lr_peak is missing and batch_tokens is given" in done.err


def test_a_loss_is_reached_at_the_batch_that_is_asked_where_a_law_knows_it(
    scaleband: Command, three_term_fit: Path, plain_fit: Path
) -> None:
    goal = loss_by("three-term", THREE, 1e9, 2e10, b=65536)
    found = reached(scaleband, three_term_fit, goal, "--batch-tokens", 65536)
    assert found["n_tokens"]["median"] == pytest.approx(2e10, rel=1e-4)
    assert (found["batch_tokens"], found["steps"]["median"]) == (65536, pytest.approx(2e10 / 65536, rel=1e-4))
    assert reached(scaleband, three_term_fit, goal)["n_tokens"]["median"] < 1.9e10
    words = ("allocate", "--flops", "1e21", "--params", "1e9", "--reach", goal, "--batch-tokens", 65536, "--fit")
    assert "changes nothing" not in scaleband(*words, three_term_fit).err
    assert "changes nothing" in scaleband(*words, plain_fit).err
