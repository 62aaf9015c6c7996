"""The critical batch from the basins beside a public measurement of it: a look, not a test.

    python benchmarks/critical_batch.py

`critical_batch_size.csv` (Zhang et al. 2024, arXiv 2410.21676): steps to a target loss for nine batches at each of five
sizes, another team's data, tokenizer and schedule, sequences of 512. Measured: the largest batch whose tokens to the
target are at most 1.2 times the fewest, interpolated in logs. Beside it the released model `step-law` at the same size,
for the loss that its own laws reach at the tokens which the best measured batch took.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from common import RESULTS, data_folder
from scaleband.design import thinned
from scaleband.inference.loss_store import read_loss
from scaleband.inference.released import model_path
from scaleband.inference.store import read_draws
from scaleband.predict import interval, target_cells
from scaleband.predict.reach import OVERHEAD, reach

GROUP = {"source": "step-law", "data": "steplaw_main"}


def measured(rows: pd.DataFrame) -> tuple[float, float]:
    """Critical batch and the fewest tokens of one size."""
    rows = rows.sort_values("batch_tokens")
    batch, tokens = rows["batch_tokens"].to_numpy(float), (rows["steps"] * rows["batch_tokens"]).to_numpy(float)
    extra = np.log(tokens / tokens.min()) - np.log1p(OVERHEAD)
    k = int(np.flatnonzero(extra <= 0)[-1])
    if k == len(batch) - 1:
        return float(batch[-1]), float(tokens.min())
    share = -extra[k] / (extra[k + 1] - extra[k])
    return float(np.exp(np.log(batch[k]) + share * np.log(batch[k + 1] / batch[k]))), float(tokens.min())


def main() -> None:
    path = model_path("step-law")
    draws, laws = thinned(read_draws(path), 250), read_loss(path.with_name("loss.nc"))
    assert laws is not None
    frame = pd.read_csv(data_folder() / "critical_batch_size.csv")
    records = []
    for n, rows in frame.groupby("n_params"):
        batch, tokens = measured(rows)
        cells = target_cells(float(n), tokens, **GROUP)
        loss = float(np.exp(np.median(laws.log_loss(cells))))
        found = reach(draws, laws, loss, float(n), **GROUP).critical_batch()
        band = interval(found[np.isfinite(found)])
        records.append({"n_params": float(n), "n_tokens": tokens, "measured": batch, "median": float(band.median),
                        "lower": float(band.lower), "upper": float(band.upper)})  # fmt: skip
        print(
            f"{n:.3g} parameters, {tokens:.3g} tokens: measured {batch:,.0f} tokens per step, step-law "
            f"{band.median:,.0f} ({band.lower:,.0f} to {band.upper:,.0f}), {np.isfinite(found).mean():.0%} of draws",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(records)[["n_params", "median", "lower", "upper"]].to_csv(
        RESULTS / "critical_batch.csv", index=False, float_format="%.4g"
    )


if __name__ == "__main__":
    main()
