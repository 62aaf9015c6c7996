"""The release format of the Step Law sweeps (github.com/step-law/steplaw, ``data/*_lr_bs_loss.csv``).

Their columns: ``N`` non-embedding parameters (MoE: the total, with ``Na`` active), ``D`` tokens, ``lr`` peak
rate, ``bs`` sequences of 2,048 tokens per step, ``ti`` steps, ``loss`` at the last step, ``smooth loss``
smoothed over the last steps, ``exp_name`` unique. Li et al., arXiv:2503.04715.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from scaleband.runs.cells import cell_keys
from scaleband.runs.mapping import ColumnMap

SEQ_LEN = 2048
#: Upstream flags nothing. A loss a fifth above its cell's minimum has left the basin: in the release the
#: ratios leave a gap there (1.185 to 1.205, then up to 5), and all beyond it are at high rates.
DIVERGED_ABOVE = 1.2
SIGNATURE = frozenset({"lr", "bs", "ti", "smooth loss", "exp_name", "D", "N"})
NAMES = {
    "run_id": "exp_name", "n_params": "N", "n_tokens": "D", "lr_peak": "lr", "batch_tokens": "bs",
    "loss": "smooth loss",
}  # fmt: skip
EXTRAS = {
    "ti": "steps", "loss": "loss_last", "h": "d_model", "ffnh": "d_ff", "numh": "n_heads", "numl": "n_layers",
    "nume": "n_experts",
}  # fmt: skip


def is_steplaw(columns: Iterable[object]) -> bool:
    """Whether these are the columns of a Step Law release file."""
    return set(columns) >= SIGNATURE


def from_steplaw(raw: pd.DataFrame) -> tuple[pd.DataFrame, ColumnMap]:
    """Bring a release frame under run-table names.

    Returns
    -------
    frame
        Same rows; ``arch`` is dense or ``moe-`` plus upstream's name; upstream's last-step ``loss`` becomes
        the extra column ``loss_last``.
    plan
        The map for the rest: names, constants, and 2,048 tokens a sequence.
    """
    moe = "moe_name" in raw.columns
    frame = raw.rename(columns=EXTRAS).drop(
        columns=[c for c in ("seq_len", "D/N", "Na/N") if c in raw.columns]
    )
    if moe:
        frame["arch"] = "moe-" + frame["moe_name"].astype(str)
    constants: dict[str, str | float] = {
        "source": "step-law", "data": "steplaw_main", "seq_len": float(SEQ_LEN),
        "loss_kind": "training loss, smoothed at the end",
        "schedule": "warmup+cosine to fixed min_lr=1e-5",
        "n_params_kind": "non-embedding, total" if moe else "non-embedding",
    }  # fmt: skip
    if not moe:
        constants["arch"] = "dense"
    columns = NAMES | ({"n_active": "Na"} if moe else {})
    return frame, ColumnMap(columns, constants, {"batch_tokens": float(SEQ_LEN)}, "the Step Law reader")


def flag_diverged(frame: pd.DataFrame) -> pd.DataFrame:
    """Set ``status``: diverged where the loss is above 1.2 times its cell's minimum, else completed."""
    keyed = cell_keys(frame).assign(loss=frame["loss"])
    lowest = keyed.groupby(list(keyed.columns[:-1]))["loss"].transform("min")
    return frame.assign(status=np.where(frame["loss"] > DIVERGED_ABOVE * lowest, "diverged", "completed"))
