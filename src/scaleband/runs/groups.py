"""What must hold of a group or of the whole table: one set of conventions, and something to compare."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from scaleband.labels import arch_family, group_label
from scaleband.runs.cells import cell_index, cell_table, merged, n_distinct, usable
from scaleband.runs.columns import GRID_TOLERANCE, GROUP, MUST_AGREE, SHOULD_AGREE
from scaleband.runs.problems import ROWS_LISTED, Places, Problem, Severity, shown_value
from scaleband.runs.repeats import repeated_losses, same_rows

ALMOST_ONE_CELL = 0.02
"""Cells closer than this in log n_params and log n_tokens are doubted: of the public sweeps of rates none has two."""

ON_ONE_LINE = 0.2
"""Cells closer than this to a line in log n_params and log n_tokens, root mean square, are on it: 15 to 25 tokens per
parameter are one ratio."""


def convention_problems(frame: pd.DataFrame, places: Places) -> list[Problem]:
    """Mixed conventions inside one group: an error, or a warning where a table may still be one."""
    problems: list[Problem] = []
    for name in (*MUST_AGREE, *SHOULD_AGREE):
        distinct = frame[[*GROUP, name]].drop_duplicates()
        stated = distinct[distinct[name] != ""]
        mixed = stated[stated.duplicated(list(GROUP), keep=False)]
        for group, rows, more in first_groups(mixed):
            problems.append(mixed_problem(name, group, rows, places, more))
        if name in MUST_AGREE:
            # one stated value and one silence: the only group left with two distinct rows
            partly = distinct[distinct.duplicated(list(GROUP), keep=False)]
            once = partly.groupby(list(GROUP))[name].transform("size") == 2
            for group, rows, more in first_groups(partly[once & ~partly.index.isin(mixed.index)]):
                if (rows[name] == "").any():
                    problems.append(partly_problem(name, group, rows, places, more))
    return problems


def first_groups(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, int]]:
    """The first few groups of ``rows``: label, its rows, and (with the last) how many groups are left out."""
    # numbered first and cut, since a table may have as many groups as rows
    number = rows.groupby(list(GROUP), sort=True).ngroup()
    left_out = max(0, int(number.max()) + 1 - ROWS_LISTED) if len(rows) else 0
    for index, part in rows[number < ROWS_LISTED].groupby(number):
        label = group_label(*(str(part[key].iloc[0]) for key in GROUP))
        yield label, part, left_out if index == ROWS_LISTED - 1 else 0


def mixed_problem(name: str, group: str, rows: pd.DataFrame, places: Places, more: int) -> Problem:
    """One group, several values of one convention."""
    first, other = (int(position) for position in rows.index[:2])
    values = " and ".join(repr(shown_value(v)) for v in rows[name].head(3))
    message = (
        f"the group {group} mixes {len(rows)} values of {name}: {values} (first seen in {places.of(first)})"
    )
    severity: Severity = "error"
    remedy = "give them different source, arch or data names, or fit them apart"
    if name in SHOULD_AGREE:
        severity, remedy = "warning", "their best rates are not quite comparable; split the group to be safe"
    file, row = places.files[places.file_index[other]], int(places.row[other])
    return Problem(severity, file, row, name, shown_value(rows[name].iloc[1]), message, remedy, more)


def partly_problem(name: str, group: str, rows: pd.DataFrame, places: Places, more: int) -> Problem:
    """One group, one value of a convention, and rows that do not state it."""
    silent = int(rows.index[(rows[name] == "").to_numpy()][0])
    value = shown_value(rows.loc[rows[name] != "", name].iloc[0])
    message = f"the group {group} states {name} = {value!r} on some rows only"
    file, row = places.files[places.file_index[silent]], int(places.row[silent])
    return Problem(
        "warning", file, row, name, "", message, "state it on every row, to show that it is the same", more
    )


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
    losses_alone = "or fit the losses alone, which asks for no rates (fit --loss only)"
    useful = usable(frame)
    if not (useful["status"] == "completed").any():
        message = f"none of the {len(frame):,} runs completed"
        yield "error", "status", message, "a table needs at least one run with a final loss"
        return
    cells = cell_table(frame)
    for cell in cells.loc[cells["n_active_varies"], "cell"].head(5):
        message = f"the cell {cell} holds runs with different n_active"
        yield "warning", "n_active", message, "name the variants in arch (moe-1in8, moe-1in89): optima differ"
    sparse = useful["arch"].map(arch_family) != "dense"
    whole = useful[sparse & (useful["n_active"] >= useful["n_params"] * (1 - 1e-9))]
    for group, rows in list(whole.groupby(list(GROUP)))[:5]:
        named = group_label(*map(str, group))
        message = f"{len(rows):,} runs of {named} are taken to use every parameter for every token"
        yield "warning", "n_active", message, "give n_active, parameters used per token, if a token uses fewer"
    if purpose != "optimum":
        return
    ran = (useful["status"] == "completed").groupby([useful[name] for name in GROUP]).any()
    for group in ran.index[~ran]:
        remedy = "beside no loss of its own group they say nothing, and a fit leaves them out: add one that completed"
        yield "warning", "status", f"every run of {group_label(*group)} diverged", remedy
    conflicting, copied = repeated_losses(frame)
    if conflicting.any():
        ids = some(frame, conflicting)
        message = f"{conflicting.sum():,} runs have the loss of another setting of their cell, as {ids}"
        yield "warning", "loss", message, "at most one of each can be right: look them up, or remove them"
    copied |= same_rows(frame)
    if copied.any():
        message = f"{copied.sum():,} runs repeat another's setting and loss, as {some(frame, copied)}"
        yield "warning", "loss", message, "another seed would have changed the loss: remove the copies"
    cliffs = cells_at_a_cliff(useful, cells)
    if 4 * cliffs > len(cells):
        message = f"in {cliffs:,} of {len(cells):,} cells the next rate above the best run's, at its batch, diverged"
        remedy = (
            "a fit takes a divergence for a loss far above the best, so where runs break down that near to the best "
            "rate it may come out too low: fit the table without these runs too, and compare"
        )
        yield "warning", "status", message, remedy
    if len(useful) == 1:
        remedy = "add runs of the same size and tokens at other rates and batches"
        yield "error", None, f"there is only one usable run, {nothing}", remedy
    elif n_distinct(useful["lr_peak"].to_numpy(), GRID_TOLERANCE) == 1:
        rate = shown_value(float(useful["lr_peak"].iloc[0]))
        remedy = f"add runs at other rates, {losses_alone}"
        yield "error", "lr_peak", f"every run has the same lr_peak = {rate}, {nothing}", remedy
    elif (cells["n_lr"] < 2).all():
        same = "no two runs of one cell (same source, arch, data, n_params, n_tokens) differ in lr_peak"
        yield "error", "lr_peak", f"{same}, {nothing}", f"add runs at other rates to one of the cells, {losses_alone}"
    twins = almost_one_cell(cells)
    if (twins >= 0).any():
        pair = " and ".join(cells.loc[twins == twins[twins >= 0][0], "cell"].head(2))
        count = f"{(twins >= 0).sum():,} of {len(cells):,} cells"
        message = f"{count} have another within 2 % in n_params and n_tokens, as {pair}"
        remedy = "each is fitted with an optimum of its own: where they are one, write one size and one token count"
        yield "warning", "n_params", message, remedy
    if (cells["n_batch"] < 2).all():
        remedy = "the table cannot tell where the best batch is: its answer will come from the prior"
        yield "warning", "batch_tokens", "no two runs of one cell differ in batch_tokens", remedy
    spots = np.log(cells[["n_params", "n_tokens"]])
    if (spots.max() - spots.min() <= GRID_TOLERANCE).all():
        remedy = "it cannot tell how the optimum moves with size or tokens: expect wide bands elsewhere"
        one = "there is one cell only" if len(cells) == 1 else "all cells have one size and one token count"
        yield "warning", None, one, remedy
    elif on_one_line(cells):
        message = "n_params and n_tokens go together from cell to cell, so what each does to the optimum cannot be told"
        remedy = "away from that line of sizes and tokens answers come from the prior: add a cell or two off it"
        yield "warning", None, message, remedy


def cells_at_a_cliff(useful: pd.DataFrame, cells: pd.DataFrame) -> int:
    """How many cells have no completed run between their best one and a diverged one of a higher rate, at its batch."""
    cell = pd.Series(cell_index(useful, cells), index=useful.index)
    completed = useful["status"] == "completed"
    best_row = cell.map(useful.loc[completed, "loss"].groupby(cell[completed]).idxmin()).dropna().astype(int)
    own, best = useful.loc[best_row.index], useful.loc[best_row].set_index(best_row.index)
    up, aside = (pd.Series(np.log(own[name] / best[name])) for name in ("lr_peak", "batch_tokens"))
    up = up[(up > GRID_TOLERANCE) & (aside.abs() <= GRID_TOLERANCE)]
    nearest = up[up <= up.groupby(cell[up.index]).transform("min") + GRID_TOLERANCE].index
    return int((~completed[nearest]).groupby(cell[nearest]).all().sum())


def on_one_line(cells: pd.DataFrame) -> bool:
    """Whether sizes and tokens of `cell_table` both vary inside groups, and only together."""
    logs = pd.DataFrame(np.log(cells[["n_params", "n_tokens"]]))
    group = [cells[name] for name in GROUP]
    logs = (logs - logs.groupby(group).transform("mean"))[cells.groupby(group)["cell"].transform("size") > 1]
    if not len(logs) or (np.sqrt((logs**2).mean()) <= ON_ONE_LINE).any():
        return False
    return bool(np.linalg.svd(logs.to_numpy(), compute_uv=False)[-1] <= ON_ONE_LINE * np.sqrt(len(logs)))


def almost_one_cell(cells: pd.DataFrame) -> np.ndarray:
    """Cells of `cell_table` with others of their group so near that they may be meant to be one.

    Returns
    -------
    (cell,) int: a number that such cells share; -1 for a cell that has no other near it.
    """
    keys = cells[[*GROUP, "n_params", "n_tokens"]].copy()
    for name, by in (("n_params", [*GROUP]), ("n_tokens", [*GROUP, "n_params"])):
        keys[name] = merged(keys, by, name, ALMOST_ONE_CELL)
    number = keys.groupby(list(keys.columns), sort=True).ngroup()
    return np.where(keys.duplicated(keep=False), number, -1)


def some(frame: pd.DataFrame, which: np.ndarray) -> str:
    """The first run ids out of some rows, for a message."""
    return " and ".join(shown_value(run_id) for run_id in frame.loc[which, "run_id"].head(2))
