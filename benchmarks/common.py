"""What the benchmarks share: the public tables, and a paragraph that says what was run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scaleband.runs import read_runs

if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path(__file__).parent / "results"


def data_folder() -> Path:
    """The public run tables: `$SCALEBAND_TABLES`, else `../shared/data` beside the clone."""
    folder = Path(os.environ.get("SCALEBAND_TABLES", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"{folder} does not exist: set SCALEBAND_TABLES to the folder with the public run tables")
    return folder


def load(names: list[str]) -> pd.DataFrame:
    """Several public tables as one validated frame."""
    return read_runs([data_folder() / f"{name}.csv" for name in names]).frame
