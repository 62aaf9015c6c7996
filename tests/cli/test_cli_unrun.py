"""Rates and batches that no run behind the answer had: said on stderr."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from command import Command

from scaleband.laws import REFERENCE

OWN = ("--source", "step-law", "--data", "web")
INSIDE = ("--params", "5e8", "--tokens", "2e10", *OWN)
CELL = ("--params", "1e9", "--tokens", "5e10", *OWN)
OUTSIDE = ("--params", "1e11", "--tokens", "2e10", *OWN)
ONE_BATCH = "no two runs of one cell differ in batch in step-law/dense/web (524,288)"


@pytest.fixture
def gridded(fit_file: Path, tmp_path: Path):
    """Write the made-up fit with these ends of every cell's grid: rates, then batches."""

    def write(*ends: float) -> Path:
        path = Path(shutil.copy(fit_file, tmp_path / "gridded.nc"))
        unit = np.array([REFERENCE["lr_peak"]] * 2 + [REFERENCE["batch_tokens"]] * 2)
        with h5py.File(path, "r+") as file:
            file["constant_data/cell_grid"] = np.tile(np.log(np.array(ends) / unit)[:, None], 7)
        return path

    return write


@pytest.mark.parametrize("verb", [("recommend",), ("regret", "--lr", "1e-3", "--batch-tokens", "524288")])
def test_one_batch_a_cell_does_not_tell_which_batch_is_best(verb: tuple[str, ...], scaleband: Command, gridded) -> None:
    fit = gridded(1e-4, 1e-1, 524288, 524288)
    for target in (INSIDE, OUTSIDE):
        assert ONE_BATCH in scaleband(verb[0], "--fit", fit, *target, *verb[1:]).err
    assert "differ in batch in this cell" in scaleband(verb[0], "--fit", fit, *CELL, *verb[1:]).err


def test_the_batch_that_was_run_is_answered_without_a_word(scaleband: Command, gridded) -> None:
    fit = gridded(1e-4, 1e-1, 524288, 524288)
    assert "note" not in scaleband("recommend", "--fit", fit, *INSIDE, "--batch-tokens", "524288").err
    assert ONE_BATCH in scaleband("recommend", "--fit", fit, *INSIDE, "--batch-tokens", "131072").err


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ((1e-5, 2e-4, 1e4, 1e8), "the recommended rate lies above all that were run in {} (1.00e-5 to 2.00e-4)"),
        ((1e-2, 4e-2, 1e4, 1e8), "the recommended rate lies below all that were run in {} (1.00e-2 to 4.00e-2)"),
        ((1e-5, 1e-1, 1e4, 3e4), "the recommended batch lies above all that were run in {} (10,000 to 30,000)"),
    ],
)
def test_settings_beyond_the_runs_are_called_so(
    ends: tuple[float, ...], says: str, scaleband: Command, gridded
) -> None:
    fit = gridded(*ends)
    assert says.format("step-law/dense/web") in scaleband("recommend", "--fit", fit, *INSIDE).err
    assert says.format("this cell") in scaleband("recommend", "--fit", fit, *CELL).err
    assert "were run" not in scaleband("recommend", "--fit", fit, *OUTSIDE).err  # settings move on with size


def test_settings_among_the_runs_and_settings_that_were_asked_for_are_answered_without_a_word(
    scaleband: Command, gridded, fit_file: Path
) -> None:
    for fit in (gridded(1e-5, 1e-1, 1e4, 1e8), fit_file):  # a file without grids says nothing
        assert "note" not in scaleband("recommend", "--fit", fit, *INSIDE).err
    given = ("--lr-grid", "1e-3", "--batch-tokens", "524288")
    assert "note" not in scaleband("recommend", "--fit", gridded(1e-5, 2e-4, 1e4, 3e4), *INSIDE, *given).err


def test_a_grid_of_another_shape_is_refused(scaleband: Command, fit_file: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(fit_file, tmp_path / "bad.nc"))
    with h5py.File(path, "r+") as file:
        file["constant_data/cell_grid"] = np.zeros((4, 3))
    done = scaleband("recommend", "--fit", path, *INSIDE)
    assert done.code == 1
    assert "cell_grid has shape (4, 3)" in done.err
