"""Points to predict at: read and checked with the care of a run table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleband.cli.printing import say
from scaleband.cli.question import with_usual_active
from scaleband.errors import UserError
from scaleband.labels import arch_family
from scaleband.laws import Cells
from scaleband.nearest import nearest
from scaleband.predict import target_cells
from scaleband.predict.targets import UNSEEN
from scaleband.slips import (
    HIGHEST_RATE,
    MOST_SEQUENCES,
    SEQUENCES,
    SEQUENCES_REMEDY,
    TOO_HIGH,
    TOO_HIGH_REMEDY,
)

if TYPE_CHECKING:
    import pandas as pd

GROUP_COLUMNS = ("source", "arch", "data")
NUMBER_COLUMNS = ("n_params", "n_active", "n_tokens", "lr_peak", "batch_tokens", "unique_tokens")
REQUIRED = ("n_params", "n_tokens")
ADDED = ("loss_median", "loss_lower", "loss_upper")

# Outside these the laws' logs run away; inside them every real model ever trained has room.
BOUNDS = {
    "n_params": (1e4, 1e15, "write parameters, not billions: 7e9"),
    "n_active": (1e3, 1e15, "write parameters, not billions: 7e9"),
    "n_tokens": (1e5, 1e18, "write tokens, not billions: 2e10"),
    "lr_peak": (1e-12, 1e3, "write the peak rate itself: 0.0003"),
    "batch_tokens": (1.0, 1e12, "write tokens per optimizer step: 524288"),
    "unique_tokens": (1e5, 1e18, "write tokens, not billions: 2e10"),
}


@dataclass(frozen=True)
class Points:
    """Checked points.

    Attributes
    ----------
    raw
        The file's rows as they came, to be written back with the predictions.
    cells
        One target a row.
    lr_peak, batch_tokens (row,)
        NaN where the row asks for its cell's optimum.
    active_left_out (row,)
        True where the row does not say n_active: it is n_params until something else is known of it.
    unique_tokens (row,)
        Distinct tokens in the data; NaN where nothing is repeated.
    """

    raw: pd.DataFrame
    cells: Cells
    lr_peak: np.ndarray
    batch_tokens: np.ndarray
    active_left_out: np.ndarray
    unique_tokens: np.ndarray


def with_known_active(points: Points, fitted: Cells) -> Points:
    """Points that leave n_active out, with that of the fitted cells that are built like them; says so on stderr."""
    return replace(points, cells=with_usual_active([fitted], points.cells, "n_active", points.active_left_out))


def read_points(
    path: Path, *, arch: str = "dense", also: Sequence[str] = (), fewest_tokens: float = BOUNDS["n_tokens"][0],
    pairs: bool = True,
) -> Points:
    """Read POINTS.csv (or Parquet).

    Columns: n_params and n_tokens; optionally source, data (empty: never seen), arch (empty: `arch`), n_active
    (empty: n_params), lr_peak with batch_tokens (both empty: the cell's optimum), and unique_tokens (empty: nothing is
    repeated). Others are kept; `also` are those that the caller reads. Runs that are to be made, and not foretold
    alone, may see as few as `fewest_tokens`. A rate without its batch, or a batch without its rate, is refused unless
    `pairs` is False: to laws of losses alone a batch says something by itself.

    Raises
    ------
    UserError
        Everything that is wrong, one sentence each, with row, column, value and remedy.
    """
    from scaleband.runs.files import read_raw
    from scaleband.runs.values import normalised

    name = path.name or str(path)
    raw = read_raw(path, name)
    header = [str(c) for c in raw.columns]
    problems = [missing_column(name, c, header) for c in REQUIRED if c not in header]
    problems += [f"{name}: there is a column {c} already, which this writes; rename or drop it"
                 for c in ADDED if c in header]  # fmt: skip
    problems += misspelt(name, header, also)
    if raw.empty:
        problems.append(f"{name}: the table has no rows; add one line per point")
    if problems:
        raise UserError(problems)
    known = [c for c in (*GROUP_COLUMNS, *NUMBER_COLUMNS) if c in header]
    frame, found, unreadable = normalised(raw[known], name, {})
    problems = [str(p) for p in found] + row_problems(frame, name, unreadable, arch, fewest_tokens, pairs)
    if problems:
        raise UserError(problems)
    for sentence in row_doubts(frame, name, has_seq_len="seq_len" in header):
        say(f"warning: {sentence}")

    def text(column: str, default: str) -> list[str]:
        return [v or default for v in frame[column]] if column in frame else [default] * len(frame)

    def number(column: str) -> np.ndarray:
        return frame[column].to_numpy(float) if column in frame else np.full(len(frame), np.nan)

    params, active = number("n_params"), number("n_active")
    cells = target_cells(
        params,
        number("n_tokens"),
        source=text("source", UNSEEN),
        arch=text("arch", arch),
        data=text("data", UNSEEN),
        n_active=np.where(np.isnan(active), params, active),
    )
    return Points(
        raw, cells, number("lr_peak"), number("batch_tokens"), np.isnan(active), number("unique_tokens")
    )  # fmt: skip


def misspelt(name: str, header: list[str], also: Sequence[str] = ()) -> list[str]:
    """Columns that look like one that is read and is not there: kept as they are, their values would be ignored."""
    read = (*NUMBER_COLUMNS, *GROUP_COLUMNS, *also)
    free = [c for c in read if c not in header and c not in REQUIRED]
    meant = {"lr": "lr_peak", "learning_rate": "lr_peak", "batch": "batch_tokens", "batch_size": "batch_tokens"}
    out = []
    for column in header:
        small = column.lower()
        near = meant[small] if small in meant else nearest(small, free, cutoff=0.8)
        if near in free and column not in read:
            out.append(f"{name}: column {column} is not read; rename it {near}, or to something else if it is not")
    return out


def missing_column(name: str, column: str, header: list[str]) -> str:
    """The sentence about a column that is not there."""
    near = nearest(column, header)
    hint = f' (rename "{near}"?)' if near else ""
    shown = ", ".join(header[:12]) + (", ..." if len(header) > 12 else "")
    return f"{name}: there is no column {column}; add it{hint}; the columns are {shown}"


def reporter(frame: pd.DataFrame, name: str, out: list[str]) -> Callable[[np.ndarray, str, str, str], None]:
    """(bad rows, column, what is wrong, remedy) -> sentences in `out`, equal ones counted after the first twenty."""
    from scaleband.runs.problems import Places, listed, shown_value

    places = Places((name,), np.zeros(len(frame), dtype=int), np.arange(1, len(frame) + 1))

    def report(bad: np.ndarray, column: str, what: str, remedy: str) -> None:
        for i, more in listed(np.flatnonzero(bad), places):
            given = frame[column].iloc[i] if column in frame else np.nan
            field = (
                f"{column} = {shown_value(given)!r}" if isinstance(given, str) else f"{column} = {given:.10g}"
            )
            tail = f" (and {more:,} more rows like this)" if more else ""
            out.append(f"{places.of(i)}: {column if given != given else field} {what}; {remedy}{tail}")

    return report


def row_doubts(frame: pd.DataFrame, name: str, *, has_seq_len: bool) -> list[str]:
    """What probably is a slip of a row's units, as a run table is doubted."""
    out: list[str] = []
    doubt = reporter(frame, name, out)
    if "batch_tokens" in frame and not has_seq_len:
        doubt(frame["batch_tokens"].to_numpy() <= MOST_SEQUENCES, "batch_tokens", SEQUENCES, SEQUENCES_REMEDY)
    if "lr_peak" in frame:
        doubt(frame["lr_peak"].to_numpy() > HIGHEST_RATE, "lr_peak", TOO_HIGH, TOO_HIGH_REMEDY)
    if "unique_tokens" in frame:
        more = (frame["unique_tokens"] > frame["n_tokens"]).to_numpy()
        doubt(more, "unique_tokens", "is larger than n_tokens, so nothing is repeated", "leave it empty")
    return out


def row_problems(
    frame: pd.DataFrame, name: str, unreadable: dict[str, np.ndarray], arch: str, fewest_tokens: float, pairs: bool
) -> list[str]:
    """What cannot be true of a row."""
    out: list[str] = []
    refuse = reporter(frame, name, out)
    nothing = np.full(len(frame), np.nan)
    value = {c: frame[c].to_numpy(float) if c in frame else nothing for c in NUMBER_COLUMNS}
    good = np.ones(len(frame), dtype=bool)
    fine = {c: good & ~unreadable.get(c, ~good) for c in NUMBER_COLUMNS}
    for column, (lowest, high, remedy) in BOUNDS.items():
        low = fewest_tokens if column in ("n_tokens", "unique_tokens") else lowest
        refuse((value[column] < low) | (value[column] > high), column, f"is outside {low:g} to {high:g}", remedy)
    for column in REQUIRED:
        refuse(np.isnan(value[column]) & fine[column], column, "is missing (empty or NaN)", "give it")
    lr, size, active = value["lr_peak"], value["batch_tokens"], value["n_active"]
    both = fine["lr_peak"] & fine["batch_tokens"] & pairs
    remedy = "give lr_peak and batch_tokens, or neither for the optimum"
    refuse(np.isnan(lr) & ~np.isnan(size) & both, "lr_peak", "is missing and batch_tokens is given", remedy)
    refuse(~np.isnan(lr) & np.isnan(size) & both, "batch_tokens", "is missing and lr_peak is given", remedy)
    remedy = "n_params is the total; swap them?"
    refuse(active > value["n_params"] * (1 + 1e-9), "n_active", "is larger than n_params", remedy)
    named = frame["arch"].where(frame["arch"] != "", arch) if "arch" in frame else np.full(len(frame), arch)
    dense = np.array([arch_family(str(v)) == "dense" for v in named], dtype=bool)
    remedy = "give arch, moe for one, or leave n_active empty"
    few = dense & (active < value["n_params"] * (1 - 1e-9))
    refuse(few, "n_active", "is smaller than n_params, and dense uses all", remedy)
    remedy = "batch_tokens is per optimizer step"
    refuse(size > value["n_tokens"], "batch_tokens", "is larger than n_tokens", remedy)
    remedy = "a group is written source/arch/data; give its parts in three columns"
    for column in GROUP_COLUMNS:
        if column in frame:
            slash = frame[column].str.contains("/", regex=False).to_numpy(dtype=bool)
            refuse(slash, column, "contains '/'", remedy)
    return out
