"""Fits, tables and a way to run a command inside the test's own process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The malformed tables serve the reader's tests and these.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs"))

from command import Command, Done
from malformed import good
from synthetic import GATE, write_fit

from scaleband.cli import main


@pytest.fixture
def scaleband(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""

    def run(*words: object) -> Done:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(int(code), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def fit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up fit whose gate passed."""
    return write_fit(tmp_path_factory.mktemp("fit") / "fit.nc")


@pytest.fixture(scope="session")
def failed_fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up fit whose gate failed."""
    gate = GATE | {"passed": False, "messages": ["R-hat 1.2 at sigma[0] is above 1.01: try --tune 1000"]}
    return write_fit(tmp_path_factory.mktemp("fit") / "failed.nc", gate=gate)


@pytest.fixture
def runs_csv(tmp_path: Path) -> Path:
    """A small valid run table."""
    good().to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


@pytest.fixture(scope="session")
def real_fit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The one fit of this suite that is sampled: its file, and the exit code."""
    folder = tmp_path_factory.mktemp("real")
    good().to_csv(folder / "runs.csv", index=False)
    words = [
        "fit",
        folder / "runs.csv",
        "--out",
        folder / "fit.nc",
        "--draws",
        100,
        "--tune",
        100,
        "--chains",
        2,
    ]
    code = main([str(w) for w in [*words, "--quiet"]])
    return folder / "fit.nc", code
