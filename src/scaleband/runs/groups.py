"""What must hold of a group or of the whole table: one set of conventions, and something to compare."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from scaleband.runs.cells import cell_table, group_label, n_distinct, usable
from scaleband.runs.columns import CONVENTIONS, GRID_TOLERANCE, GROUP, MUST_AGREE, SHOULD_AGREE
from scaleband.runs.problems import Places, Problem, Severity, shown_value


def convention_problems(frame: pd.DataFrame, places: Places) -> list[Problem]:
    """Mixed conventions inside one group: an error, or a warning where a table may still be one."""
    problems: list[Problem] = []
    for name in CONVENTIONS:
        if name not in MUST_AGREE + SHOULD_AGREE or not frame[name].any():
            continue
        distinct = frame.loc[:, [*GROUP, name]].drop_duplicates()
        for key, rows in distinct.groupby(list(GROUP), sort=True):
            stated = rows[rows[name] != ""]
            group = group_label(*(str(part) for part in key))
            if len(stated) > 1:
                first, other = (int(position) for position in stated.index[:2])
                values = " and ".join(repr(shown_value(v)) for v in stated[name].head(3))
                severity: Severity = "error" if name in MUST_AGREE else "warning"
                remedy = "give them different source, arch or data names, or fit them apart"
                if severity == "warning":
                    remedy = "their best rates are not quite comparable; split the group to be safe"
                problems.append(
                    Problem(
                        severity,
                        places.files[places.file_index[other]],
                        int(places.row[other]),
                        name,
                        shown_value(frame[name].iloc[other]),
                        f"the group {group} mixes {len(stated)} values of {name}: {values} "
                        f"(first seen in {places.of(first)})",
                        remedy,
                    )
                )
            elif len(rows) > 1 and name in MUST_AGREE:
                value = shown_value(stated[name].iloc[0])
                silent = int(rows.index[(rows[name] == "").to_numpy()][0])
                problems.append(
                    Problem(
                        "warning",
                        places.files[places.file_index[silent]],
                        int(places.row[silent]),
                        name,
                        "",
                        f"the group {group} states {name} = {value!r} on some rows only",
                        "state it on every row, to show that it is the same",
                    )
                )
    return problems


def content_problems(frame: pd.DataFrame, places: Places, purpose: str) -> list[Problem]:
    """Whether the table can answer what is asked."""
    file = ", ".join(places.files)
    return [
        Problem(severity, file, None, column, "", message, remedy)
        for severity, column, message, remedy in content_findings(frame, purpose)
    ]


def content_findings(frame: pd.DataFrame, purpose: str) -> Iterator[tuple[Severity, str | None, str, str]]:
    """Severity, column, message and remedy: an optimum needs rates that differ inside a cell."""
    nothing = "which cannot say anything about an optimum"
    useful = usable(frame)
    if not (useful["status"] == "completed").any():
        message = f"none of the {len(frame):,} runs completed"
        yield "error", "status", message, "a table needs at least one run with a final loss"
        return
    cells = cell_table(frame)
    for cell in cells.loc[cells["n_active_varies"], "cell"].head(5):
        message = f"the cell {cell} holds runs with different n_active"
        yield "warning", "n_active", message, "name the variants in arch (moe-1in8, moe-1in89): optima differ"
    if purpose != "optimum":
        return
    if len(useful) == 1:
        remedy = "add runs of the same size and tokens at other rates and batches"
        yield "error", None, f"there is only one usable run, {nothing}", remedy
    elif n_distinct(useful["lr_peak"].to_numpy(), GRID_TOLERANCE) == 1:
        rate = shown_value(float(useful["lr_peak"].iloc[0]))
        yield (
            "error",
            "lr_peak",
            f"every run has the same lr_peak = {rate}, {nothing}",
            "add runs at other rates",
        )
    elif (cells["n_lr"] < 2).all():
        same = "no two runs of one cell (same source, arch, data, n_params, n_tokens) differ in lr_peak"
        yield "error", "lr_peak", f"{same}, {nothing}", "add runs at other rates to one of the cells"
    if (cells["n_batch"] < 2).all():
        remedy = "the table cannot tell where the best batch is: its answer will come from the prior"
        yield "warning", "batch_tokens", "no two runs of one cell differ in batch_tokens", remedy
    if len(cells) == 1:
        remedy = "it cannot tell how the optimum moves with size or tokens: expect wide bands elsewhere"
        yield "warning", None, "there is one cell only", remedy
