"""How long, and how much memory, the check of a run table of a million rows takes.

Run as ``python benchmarks/check_million_rows.py [ROWS] [--bad]``; with ``--bad`` every row breaks two rules.
Prints seconds and the peak resident memory of the process that read the table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

READ = """
import resource, sys, time
begin = time.perf_counter()
from scaleband.errors import UserError
from scaleband.runs import read_runs
ready = time.perf_counter()
try:
    outcome = f"{len(read_runs(sys.argv[1]).frame):,} rows loaded"
except UserError as error:
    outcome = f"refused with {len(error.problems)} lines"
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1024
print(f"{outcome}: {done - ready:.1f} s, and {ready - begin:.1f} s to import; peak {peak:.2f} GiB")
"""


def million(n_rows: int, bad: bool) -> pd.DataFrame:
    """A synthetic table: 1,000 cells, each a grid of rates and batches."""
    rng = np.random.default_rng(0)
    cell = np.arange(n_rows) % 1000
    return pd.DataFrame(
        {
            "run_id": [f"run-{i:07d}" for i in range(n_rows)],
            "source": np.where(cell % 2, "team-a", "team-b"),
            "arch": "dense",
            "data": "web",
            "n_params": 1e8 * 1.1 ** (cell % 25),
            "n_tokens": 1e10 * 1.1 ** (cell // 25) * (-1 if bad else 1),
            "seq_len": 2048,
            "lr_peak": 1e-4 * 2.0 ** rng.integers(0, 9, n_rows),
            "batch_tokens": (1 if bad else 2048) * 2 ** rng.integers(5, 11, n_rows),
            "loss": 2.5 + rng.normal(0, 0.1, n_rows),
            "loss_kind": "validation",
            "schedule": "cosine",
        }
    )


def main() -> None:
    """Write the table, read it in a fresh process, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--bad", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        million(asked.rows, asked.bad).to_csv(path, index=False)
        print(f"{asked.rows:,} rows, {path.stat().st_size / 1e6:.0f} MB of CSV", flush=True)
        subprocess.run([sys.executable, "-c", READ, str(path)], check=True)


if __name__ == "__main__":
    main()
