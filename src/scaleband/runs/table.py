"""The run table: read, name, convert, check, and only then load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import pandas as pd

from scaleband.errors import UserError
from scaleband.nearest import nearest
from scaleband.runs.columns import BY_NAME, required_columns
from scaleband.runs.defaults import batch_from_sequences, with_defaults
from scaleband.runs.files import read_raw
from scaleband.runs.groups import content_problems, convention_problems
from scaleband.runs.mapping import ColumnMap, column_list, misspelt, read_map, renamed, scales_for
from scaleband.runs.problems import Places, Problem
from scaleband.runs.schema import row_problems
from scaleband.runs.steplaw import flag_diverged, from_steplaw, is_steplaw
from scaleband.runs.values import normalised

Purpose = Literal["optimum", "loss"]
STEPLAW_NOTE = (
    "read as a Step Law release: batches of 2,048-token sequences became tokens, the smoothed loss is the "
    "loss, and runs above 1.2 times their cell's minimum are marked diverged"
)


@dataclass(frozen=True)
class RunTable:
    """A checked table of training runs.

    Parameters
    ----------
    frame
        One row per run; every known column, in the order of `COLUMNS`, as float64 or text; then the extras.
    warnings
        What is doubtful (severity "warning") or was done on the way (severity "note").
    """

    frame: pd.DataFrame
    warnings: tuple[Problem, ...] = ()


def read_runs(
    paths: str | Path | Sequence[str | Path],
    *,
    mapping: str | Path | None = None,
    batch_in_sequences: bool = False,
    purpose: Purpose = "optimum",
) -> RunTable:
    """Read one run table from one or several CSV or Parquet files.

    What a file is, is decided by its first bytes. A CSV is UTF-8 with commas and a header line. A release
    file of Step Law is recognised by its columns, unless ``mapping`` says how to read it.

    Parameters
    ----------
    paths
        One path or several; several files are one table.
    mapping
        TOML file that renames, sets or scales columns; see `scaleband.runs.read_map`.
    batch_in_sequences
        The batch column counts sequences: multiply it by ``seq_len``.
    purpose
        "optimum" needs rates and batches, and at least two rates in one cell; "loss" needs neither.

    Raises
    ------
    UserError
        Anything wrong with any file or row, all of it at once, each with place, value and remedy. Rows are
        counted from 1, without the header and blank lines.
    """
    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not files:
        raise UserError("no run table was given; name at least one CSV or Parquet file")
    plan = read_map(mapping) if mapping is not None else None
    repeated = len({path.name for path in files}) < len(files)
    raws: list[tuple[str, pd.DataFrame]] = []
    errors: list[str] = []
    for path in files:
        name = str(path) if repeated or not path.name else path.name
        try:
            raws.append((name, read_raw(path, name)))
        except UserError as error:
            errors += error.problems
    return assembled(raws, errors, plan, batch_in_sequences, purpose)


def run_table(
    frame: pd.DataFrame,
    *,
    mapping: ColumnMap | None = None,
    batch_in_sequences: bool = False,
    purpose: Purpose = "optimum",
    name: str = "table",
) -> RunTable:
    """Check a run table held in memory; the frame given is not changed.

    Parameters
    ----------
    frame
        One row per run.
    mapping, batch_in_sequences, purpose
        As in `read_runs`; a map in memory comes from `scaleband.runs.column_map`.
    name
        What messages call the table.

    Raises
    ------
    UserError
        As in `read_runs`.
    """
    raw = frame.reset_index(drop=True)
    raw.columns = pd.Index([str(c) for c in raw.columns])
    twice = sorted({str(c) for c in raw.columns[raw.columns.duplicated()]})
    if twice:
        raise UserError(
            f'{name}: the column "{column}" appears more than once; keep one of them' for column in twice
        )
    return assembled([(name, raw)], [], mapping, batch_in_sequences, purpose)


def read_steplaw(path: str | Path) -> RunTable:
    """Read one Step Law release file (dense or MoE) as a run table.

    Raises
    ------
    UserError
        The file is not in that format, or holds rows that cannot be true.
    """
    path = Path(path)
    raw = read_raw(path, path.name)
    if not is_steplaw(raw.columns):
        raise UserError(
            f"{path.name}: this is not a Step Law release file, its columns are {column_list(raw)}; "
            "use read_runs, with a column map if needed"
        )
    return assembled([(path.name, raw)], [], None, False, "optimum")


def assembled(
    raws: list[tuple[str, pd.DataFrame]],
    errors: list[str],
    plan: ColumnMap | None,
    in_sequences: bool,
    purpose: Purpose,
) -> RunTable:
    """Several raw frames -> one checked table, or every problem of all of them."""
    if purpose not in ("optimum", "loss"):
        raise ValueError(f"purpose must be 'optimum' or 'loss', not {purpose!r}")
    problems: list[Problem] = []
    parts: list[pd.DataFrame] = []
    masks: list[dict[str, np.ndarray]] = []
    for name, raw in raws:
        part, found, mask = one_file(name, raw, plan, in_sequences, purpose)
        problems += found
        parts.append(part)
        masks.append(mask)
    if not any(len(part) for part in parts):
        # without rows, or with no file readable at all, there is nothing more to check
        raise_errors(errors, problems)
    places = Places(
        tuple(name for name, _ in raws),
        np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        np.concatenate([np.arange(1, len(part) + 1) for part in parts]),
    )
    frame = with_defaults(pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0], places)
    absent = {c for c in required_columns(purpose) if any(c not in part for part in parts)}
    unreadable = {
        column: np.concatenate(
            [
                m.get(column, np.full(len(p), column in absent and column not in p))
                for m, p in zip(masks, parts, strict=True)
            ]
        )
        for column in {c for m in masks for c in m} | absent
    }
    problems += row_problems(frame, places, purpose, unreadable)
    problems += convention_problems(frame, places)
    if not any(p.severity == "error" for p in problems):
        problems += content_problems(frame, places, purpose)
    if errors or any(p.severity == "error" for p in problems):
        raise_errors(errors, problems)
    # a loss that is not finite is no loss: only runs that did not complete may have one here
    frame["loss"] = frame["loss"].where(np.isfinite(frame["loss"]), np.nan)
    order = {"note": 0, "warning": 1}
    return RunTable(frame, tuple(sorted(problems, key=lambda p: order[p.severity])))


def raise_errors(errors: list[str], problems: list[Problem]) -> NoReturn:
    """Raise all that is wrong; doubts and notes are not said beside it."""
    raise UserError([*errors, *(str(p) for p in problems if p.severity == "error")])


def one_file(
    name: str, raw: pd.DataFrame, plan: ColumnMap | None, in_sequences: bool, purpose: Purpose
) -> tuple[pd.DataFrame, list[Problem], dict[str, np.ndarray]]:
    """One raw frame -> its columns under our names and in our units, with what is wrong so far."""
    problems: list[Problem] = []
    steplaw = plan is None and is_steplaw(raw.columns)
    if steplaw:
        raw, plan = from_steplaw(raw)
        problems.append(Problem("note", name, None, None, "", STEPLAW_NOTE, ""))
    plan = plan or ColumnMap()
    scale = scales_for(raw, plan)
    raw, found = renamed(raw, name, plan)
    problems += found if steplaw else found + misspelt(raw, name)
    if raw.empty:
        problems.append(
            Problem("error", name, None, None, "", "the table has no rows", "add one line per run")
        )
    unmapped = {problem.column for problem in found}
    for column in required_columns(purpose):
        if column not in raw.columns and column not in unmapped:
            near = nearest(column, map(str, raw.columns))
            hint = f' ("{near}"?)' if near else ""
            problems.append(
                Problem(
                    "error",
                    name,
                    None,
                    column,
                    "",
                    f"there is no column {column} ({BY_NAME[column].meaning})",
                    f"add it, or map one to it with --map{hint}; the columns are {column_list(raw)}",
                )
            )
    frame, found, unreadable = normalised(raw, name, scale)
    problems += found
    if in_sequences and not steplaw and "batch_tokens" in frame:
        frame, found = batch_from_sequences(frame, name)
        problems += found
    if steplaw and (frame[["n_params", "n_tokens"]] > 0).all(axis=None):  # else it is refused anyway
        frame = flag_diverged(frame)
    return frame, problems, unreadable
