"""Makes the problems of this folder importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pytest

from scaleband.inference.released import model_path
from scaleband.inference.store import read_draws
from scaleband.laws import Cells, LawDraws
from scaleband.predict import target_cells


@pytest.fixture(scope="session")
def draws() -> LawDraws:
    """The released model."""
    return read_draws(model_path("step-law"))


@pytest.fixture(scope="session")
def stranger() -> Cells:
    """A target of a team that the model never saw."""
    return target_cells(np.array([7e8]), np.array([3e10]), source="us", data="web")


@pytest.fixture(scope="session")
def known() -> Cells:
    """A target of the group that the model was fitted to."""
    return target_cells(np.array([1e9]), np.array([2e10]), source="step-law", data="steplaw_main")
