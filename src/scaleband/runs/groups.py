"""What must hold of a group or of the whole table: one set of conventions, and something to compare."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaleband.runs.cells import cell_table, group_label
from scaleband.runs.columns import CONVENTIONS, GRID_TOLERANCE, GROUP, MUST_AGREE, SHOULD_AGREE
from scaleband.runs.problems import Places, Problem, shown_value


def convention_problems(frame: pd.DataFrame, places: Places) -> list[Problem]:
    """Mixed conventions inside one group: an error, or a warning where a table may still be one."""
    problems: list[Problem] = []
    for name in CONVENTIONS:
        if name not in MUST_AGREE + SHOULD_AGREE or not frame[name].any():
            continue
        distinct = frame.loc[:, [*GROUP, name]].drop_duplicates()
        for key, part in distinct.groupby(list(GROUP), sort=True):
            stated = part[part[name] != ""]
            group = group_label(*key)
            if len(stated) > 1:
                first, other = (int(position) for position in stated.index[:2])
                values = " and ".join(repr(shown_value(v)) for v in stated[name].head(3))
                severity = "error" if name in MUST_AGREE else "warning"
                remedy = "give them different source, arch or data names, or fit them apart"
                if severity == "warning":
                    remedy = "rates of different weight decay are not quite comparable; split the group to be safe"
                problems.append(
                    Problem(severity, places.files[places.file_index[other]], int(places.row[other]), name,
                            shown_value(frame[name].iloc[other]),
                            f"the group {group} mixes {len(stated)} values of {name}: {values} "
                            f"(first seen in {places.of(first)})", remedy)
                )  # fmt: skip
            elif len(part) > 1 and name in MUST_AGREE:
                silent = int(part.index[(part[name] == "").to_numpy()][0])
                problems.append(
                    Problem("warning", places.files[places.file_index[silent]], int(places.row[silent]), name, "",
                            f"the group {group} states {name} = {shown_value(stated[name].iloc[0])!r} on some rows only",
                            "state it on every row, to show that it is the same")
                )  # fmt: skip
    return problems


def n_grid(values: np.ndarray, tolerance: float = GRID_TOLERANCE) -> int:
    """How many distinct grid values: neighbours within ``tolerance`` are one."""
    found = np.sort(values[np.isfinite(values) & (values > 0)])
    return int(found.size > 0) + int((np.diff(np.log(found)) > tolerance).sum())


def content_problems(frame: pd.DataFrame, places: Places, purpose: str) -> list[Problem]:
    """Whether the table can answer what is asked: an optimum needs rates that differ inside a cell."""
    file = ", ".join(places.files)

    def about(severity: str, column: str | None, message: str, remedy: str) -> Problem:
        return Problem(severity, file, None, column, "", message, remedy)  # type: ignore[arg-type]

    useful = frame[frame["status"].isin(("completed", "diverged"))]
    n_completed = int((useful["status"] == "completed").sum())
    if n_completed == 0:
        return [about("error", "status", f"none of the {len(frame):,} runs completed",
                      "a table needs at least one run with a final loss")]  # fmt: skip
    cells = cell_table(frame)
    problems = [
        about("warning", "n_active", f"the cell {cell} holds runs with different n_active",
              "name the variants in arch (moe-1in8, moe-1in89): they have different optima")
        for cell in cells.loc[cells["n_active_varies"], "cell"].head(5)
    ]  # fmt: skip
    if purpose != "optimum":
        return problems
    if len(useful) == 1:
        return [*problems, about("error", None, "there is only one usable run, which cannot say anything about an optimum",
                                 "add runs of the same size and tokens at other rates and batches")]  # fmt: skip
    if n_grid(useful["lr_peak"].to_numpy()) == 1:
        return [*problems, about("error", "lr_peak", f"every run has the same lr_peak = {useful['lr_peak'].iloc[0]:.10g}, "
                                 "which cannot say anything about an optimum", "add runs at other rates")]  # fmt: skip
    if (cells["n_lr"] < 2).all():
        problems.append(
            about("error", "lr_peak", "no two runs of one cell (same source, arch, data, n_params, n_tokens) differ in lr_peak, "
                  "which cannot say anything about an optimum", "add runs at other rates to one of the cells"))  # fmt: skip
    if (cells["n_batch"] < 2).all():
        problems.append(
            about("warning", "batch_tokens", "no two runs of one cell differ in batch_tokens",
                  "the table cannot tell where the best batch is: its answer will come from the prior"))  # fmt: skip
    if len(cells) == 1:
        problems.append(
            about("warning", None, "there is one cell only",
                  "the table cannot tell how the optimum moves with size or tokens: expect wide bands elsewhere"))  # fmt: skip
    return problems
