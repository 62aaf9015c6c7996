"""The calibration benchmark: it passes right posteriors, flags wrong ones, and its machinery runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from scaleband.inference.sampler import SamplerSettings


@pytest.fixture(scope="module")
def calibration(repo_root: Path) -> ModuleType:
    path = repo_root / "benchmarks" / "simulation_based_calibration.py"
    spec = importlib.util.spec_from_file_location("simulation_based_calibration", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def ranks_of(calibration: ModuleType, *, width: float = 1.0, shift: float = 0.0, n: int = 120) -> np.ndarray:
    """Ranks in a problem with a known posterior, N(y / 2, 1 / 2), made too narrow or shifted."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(n):
        truth = rng.standard_normal()
        y = truth + rng.standard_normal()
        draws = y / 2 + shift + width * np.sqrt(0.5) * rng.standard_normal(400)
        out.append(calibration.rank(truth, draws))
    return np.array(out)


@pytest.mark.parametrize(
    ("wrong", "flagged"),
    [({}, False), ({"width": 0.6}, True), ({"width": 1.8}, True), ({"shift": 0.35}, True)],
)
def test_wrong_posteriors_are_flagged_and_right_ones_are_not(
    calibration: ModuleType, wrong: dict[str, float], flagged: bool
) -> None:
    right = {f"right {k}": ranks_of(calibration, n=120 + 8 * k)[:120] for k in range(3)}
    table = calibration.calibration_table(pd.DataFrame(right | {"judged": ranks_of(calibration, **wrong)}))
    assert (table.loc["judged", "p_holm"] < 0.01) == flagged
    spread, mean = table.loc["judged", "spread"], table.loc["judged", "mean"]
    if "width" in wrong:
        assert (spread > 1.1) == (wrong["width"] < 1)
    if "shift" in wrong:
        assert mean < 0.42


def test_holm_by_hand(calibration: ModuleType) -> None:
    np.testing.assert_allclose(calibration.holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(calibration.holm(np.array([0.5, 0.6])), [1.0, 1.0])


def test_ranks_span_what_the_test_expects(calibration: ModuleType) -> None:
    draws = np.linspace(0, 1, 400)
    assert calibration.rank(-1.0, draws) == 0
    assert calibration.rank(2.0, draws) == calibration.N_RANKS - 1
    assert calibration.N_RANKS % calibration.N_BINS == 0
    uniform = calibration.uniformity(np.arange(calibration.N_RANKS).repeat(4))
    assert uniform["p"] == pytest.approx(1.0)
    assert uniform["mean"] == pytest.approx(0.5)
    assert uniform["spread"] == pytest.approx(1.0, abs=0.01)


def test_the_whole_path_runs_on_a_tiny_table(calibration: ModuleType, tmp_path: Path) -> None:
    frame = calibration.plan(calibration.GRID[:2] + calibration.GRID[6:8], n_lr=4, n_batch=3)
    compiled, keep = calibration.compiled_for(frame), tmp_path / "outcomes.jsonl"
    settings = SamplerSettings(draws=60, tune=90, chains=2, seed=1)
    said: list[str] = []
    right = calibration.run(3, 1, settings, compiled, keep=keep, say=said.append)
    assert len(right) == len(said) == 3
    assert max(o.divergences for o in right) <= 6, "of 120 draws"
    names = set(right[0].ranks)
    assert {"log_lr: exponent on n_params", "log_batch: cell of a new source", "rho", "sigma team-b"} <= names
    assert all(0 <= rank < calibration.N_RANKS for o in right for rank in o.ranks.values())
    # gross errors show even in three sweeps: right posteriors have the truth inside their draws nearly always
    outside = np.mean([rank in (0, calibration.N_RANKS - 1) for o in right for rank in o.ranks.values()])
    assert outside < 0.35
    assert "3 sweeps fitted" in calibration.report(right)
    # taken up again from the file, nothing is fitted a second time; a fourth sweep with far too narrow draws is flagged
    resumed = calibration.run(4, 1, settings, compiled, keep=keep, width=1e-3, say=said.append)
    assert [o.ranks for o in resumed[:3]] == [o.ranks for o in right]
    narrow = np.mean([rank in (0, calibration.N_RANKS - 1) for rank in resumed[3].ranks.values()])
    assert narrow > 0.9
