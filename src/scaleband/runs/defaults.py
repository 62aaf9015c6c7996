"""What an absent column or an empty field means, as code; ``columns.py`` says it in words."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from scaleband.runs.columns import BY_NAME, COLUMNS, NUMBERS, TEXTS
from scaleband.runs.costs import training_flops
from scaleband.runs.problems import Places, Problem


def batch_from_sequences(frame: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Sequences per step times tokens per sequence."""
    seq_len = frame["seq_len"] if "seq_len" in frame else pd.Series(np.nan, index=frame.index)
    lost = np.flatnonzero(frame["batch_tokens"].notna() & seq_len.isna())
    if lost.size:
        first = Problem(
            "error",
            name,
            int(lost[0]) + 1,
            "seq_len",
            "",
            "the batch counts sequences and seq_len is missing",
            "give seq_len (in a map: [constants] seq_len = 2048)",
            int(lost.size) - 1,
        )
        return frame, [first]
    return frame.assign(batch_tokens=frame["batch_tokens"] * seq_len), []


def with_defaults(frame: pd.DataFrame, places: Places) -> pd.DataFrame:
    """Every known column, in order, with its documented default; extras after them."""
    known: dict[str, pd.Series] = {}
    blank = {"source": "own", "arch": "dense", "data": "unknown", "status": "completed"}
    for name in TEXTS:
        if name not in frame:
            known[name] = pd.Series(blank.get(name, ""), index=frame.index, dtype=str)
            continue
        text = frame[name].fillna("").astype(str)
        known[name] = text.where(text != "", blank[name]) if name in blank else text
    known["status"] = known["status"].str.lower()
    known["run_id"] = filled_ids(known["run_id"], places)
    for name in NUMBERS:
        known[name] = (
            frame[name].astype(np.float64) if name in frame else pd.Series(np.nan, index=frame.index)
        )
    # what is derived from an impossible number stays missing: one mistake is one problem
    sound = {
        name: known[name].where(known[name].between(0, np.finfo(float).max, "right"))
        for name in ("n_params", "n_active", "n_tokens")
    }
    known["n_active"] = known["n_active"].fillna(sound["n_params"])
    sound["n_active"] = sound["n_active"].fillna(sound["n_params"])
    known["loss_se"] = known["loss_se"].fillna(0.0)
    known["flops"] = known["flops"].fillna(training_flops(sound["n_active"], sound["n_tokens"]))
    ordered = {column.name: known[column.name] for column in COLUMNS}
    extras = {str(name): frame[name] for name in frame.columns if name not in BY_NAME}
    return pd.DataFrame(ordered | extras)


_FILLED = "row-"


def is_filled(run_id: str) -> bool:
    """Whether an id looks like one of `filled_ids`, which names no run: row 1 of one table is not row 1 of another."""
    return re.fullmatch(rf"{_FILLED}\d{{6,}}", run_id) is not None


def filled_ids(ids: pd.Series, places: Places) -> pd.Series:
    """Ids for runs without one: their position in the whole table, so that two files never collide."""
    absent = (ids == "").to_numpy()
    if not absent.any():
        return ids
    made = pd.Series(np.char.mod(f"{_FILLED}%06d", np.arange(1, len(ids) + 1)), index=ids.index).astype(str)
    return ids.where(~absent, made)
