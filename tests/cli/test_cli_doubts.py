"""Slips of units in flags and points, and batches far from the best one: said on stderr, and answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Command

CELL = ("--params", "1B", "--tokens", "20B", "--source", "step-law", "--data", "web")
SEQUENCES = "256 looks like sequences; give tokens per optimizer step"
TOO_HIGH = "is above 1, which no optimizer survives; check the unit"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("recommend", "--batch-max", "256"), f"--batch-max: {SEQUENCES}"),
        (("recommend", "--batch-tokens", "256"), f"--batch-tokens: {SEQUENCES}"),
        (("recommend", "--batch-grid", "256,1M"), f"--batch-grid: {SEQUENCES}"),
        (("recommend", "--lr-grid", "1e-3,5"), f"--lr-grid: 5 {TOO_HIGH}"),
        (("regret", "--lr", "1e-3", "--batch-tokens", "256"), f"--batch-tokens: {SEQUENCES}"),
        (("regret", "--lr", "3", "--batch-tokens", "0.5M"), f"--lr: 3 {TOO_HIGH}"),
        (("regret", "--lr", "1e-3", "--lr-range", "1e-3,9", "--batch-tokens", "0.5M"), f"--lr-range: 9 {TOO_HIGH}"),
    ],
)
def test_flags_are_doubted_as_a_table_is(
    words: tuple[str, ...], says: str, scaleband: Command, fit_file: Path
) -> None:
    done = scaleband(words[0], "--fit", fit_file, *CELL, *words[1:], "--json")
    assert done.code == 0
    assert done.json()
    assert f"warning: {says}" in done.err


def test_points_and_candidates_are_doubted(scaleband: Command, fit_file: Path, tmp_path: Path) -> None:
    points, out = tmp_path / "points.csv", tmp_path / "out.csv"
    points.write_text("n_params,n_tokens,lr_peak,batch_tokens\n1e9,2e10,1e-3,256\n1e9,2e10,5,1e6\n1e9,2e10,,\n")
    done = scaleband("predict", "--fit", fit_file, "--points", points, "--out", out)
    assert (done.code, out.is_file()) == (0, True)
    assert "warning: points.csv row 1: batch_tokens = 256 looks like sequences" in done.err
    assert f"warning: points.csv row 2: lr_peak = 5 {TOO_HIGH}" in done.err
    assert done.err.count("warning: ") == 2
    points.write_text("n_params,n_tokens,lr_peak,batch_tokens,seq_len\n1e9,2e10,1e-3,8192,2048\n")
    assert "warning" not in scaleband("predict", "--fit", fit_file, "--points", points, "--out", out).err


def test_a_small_batch_is_not_doubted_where_the_best_one_is_as_small(scaleband: Command) -> None:
    cell = ("--params", "1e5", "--tokens", "3e5", "--source", "scaleband", "--data", "prose")
    done = scaleband("recommend", "--model", "scaleband-tiny", *cell, "--batch-max", "2048", "--json")
    assert done.code == 0
    assert done.json()["recommended"]["batch_tokens"] <= 2048.001
    assert "sequences" not in done.err


@pytest.mark.parametrize(
    ("words", "way", "what"),
    [
        (("recommend", "--batch-max", "20000"), "below", "the rate"),
        (("recommend", "--batch-grid", "20000"), "below", "the rate"),
        (("recommend", "--batch-tokens", "50M"), "above", "the rate"),
        (("regret", "--lr", "1e-3", "--batch-tokens", "50M"), "above", "the regret"),
    ],
)
def test_a_batch_far_from_the_best_one_is_said(
    words: tuple[str, ...], way: str, what: str, scaleband: Command, fit_file: Path
) -> None:
    done = scaleband(words[0], "--fit", fit_file, *CELL, *words[1:])
    assert done.code == 0
    assert f"e-folds {way} the best one: the basin was fitted near its optimum, take {what} as a guess" in done.err


def test_a_batch_near_the_best_one_is_not(scaleband: Command, fit_file: Path) -> None:
    assert scaleband("recommend", "--fit", fit_file, *CELL, "--batch-max", "0.2M").err == ""
