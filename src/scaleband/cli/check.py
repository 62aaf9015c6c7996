"""`scaleband check`: is this a run table, and what is in it?"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from scaleband.cli.arguments import add_json, add_tables
from scaleband.cli.printing import print_json, print_rows, print_table, say
from scaleband.cli.question import convention_lines
from scaleband.cli.verb import Exit, Verb
from scaleband.errors import UserError
from scaleband.labels import counted, quantity

if TYPE_CHECKING:
    from scaleband.runs import Problem, RunTable
    from scaleband.runs.table import Purpose


class ShowColumns(argparse.Action):
    """What a run table may hold, and nothing else."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and end."""
        from scaleband.runs import COLUMNS

        rows = [[c.name, c.unit, "needed" if c.required else f"else: {c.default or '-'}", c.meaning] for c in COLUMNS]
        print_table(["column", "unit", "if left out", "meaning"], rows)
        parser.exit()


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_tables(parser)
    parser.add_argument("--columns", action=ShowColumns, nargs=0, help="list the columns of a run table, and end")
    parser.add_argument("--loss", action="store_true", help="as a table for loss laws: no rates, no batches needed")
    add_json(parser)


def read_tables(asked: argparse.Namespace, purpose: Purpose = "optimum") -> RunTable:
    """The table that RUNS, --map and --batch-in-sequences describe."""
    from scaleband.runs import read_runs

    return read_runs(asked.runs, mapping=asked.map, batch_in_sequences=asked.batch_in_sequences, purpose=purpose)


def run(asked: argparse.Namespace) -> int:
    """Check and print."""
    try:
        table = read_tables(asked, "loss" if asked.loss else "optimum")
    except UserError as error:
        if asked.json:
            print_json({"valid": False, "errors": list(error.problems)})
        raise
    few = too_few(table) if asked.loss else None
    table = table if few is None else replace(table, warnings=(*table.warnings, few))
    tell_warnings(table)
    summary = summary_of(table)
    if asked.json:
        print_json(summary)
    else:
        print_rows(f"the table {'can' if few is None else 'cannot'} be fitted", rows_of(summary))
    return Exit.DONE


def too_few(table: RunTable) -> Problem | None:
    """What `fit` refuses of a table for loss laws whose rows are sound: too few of them, or too few that differ."""
    from scaleband.inference.loss_fit import enough
    from scaleband.inference.loss_table import table_from_runs
    from scaleband.runs import Problem

    try:
        enough(len(table_from_runs(table.frame)))
    except UserError as error:
        message, _, remedy = str(error).partition("; ")
        return Problem("warning", "table", None, None, "", message, remedy)
    return None


def tell_warnings(table: RunTable) -> None:
    """Doubts and notes on stderr, one a line."""
    for problem in table.warnings:
        say(f"{problem.severity}: {problem}")


def summary_of(table: RunTable) -> dict[str, Any]:
    """Runs, groups, cells and conventions as plain values."""
    from scaleband.runs import cell_table, conventions

    frame = table.frame
    cells = cell_table(frame)
    groups = {
        "/".join(map(str, key)): {
            "n_cells": len(rows),
            "n_runs": int(rows["n_runs"].sum()),
            "n_params": [rows["n_params"].min(), rows["n_params"].max()],
            "n_tokens": [rows["n_tokens"].min(), rows["n_tokens"].max()],
        }
        for key, rows in cells.groupby(["source", "arch", "data"], sort=True)
    }
    names = ["cell", "n_runs", "n_diverged", "n_lr", "n_batch", "loss_min", "lr_on_edge", "batch_on_edge"]
    return {
        "valid": True,
        "n_runs": len(frame),
        "statuses": {
            str(k): int(v) for k, v in frame["status"].value_counts(sort=False).sort_index().items()
        },
        "n_groups": len(groups),
        "n_cells": len(cells),
        "groups": groups,
        "cells": cells[names].to_dict("records"),
        "conventions": conventions(frame),
        "warnings": [asdict(p) for p in table.warnings],
    }


def rows_of(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary for people."""
    statuses = ", ".join(f"{n:,} {status}" for status, n in summary["statuses"].items())
    # A grid of one value has only ends, and nothing to widen.
    ends = (("lr_on_edge", "n_lr"), ("batch_on_edge", "n_batch"))
    edge = sum(any(c[on] and c[n] > 1 for on, n in ends) for c in summary["cells"])
    cells = f"{summary['n_cells']:,} in {counted(summary['n_groups'], 'group')}"
    if edge:
        cells += f"; in {edge:,} the best run is at an end of the grid, the optimum may lie outside"
    rows = [("runs", f"{summary['n_runs']:,}: {statuses}"), ("cells", cells)]
    for group, facts in summary["groups"].items():
        size, horizon = (
            " to ".join(dict.fromkeys(map(quantity, facts[k]))) for k in ("n_params", "n_tokens")
        )
        counts = f"{counted(facts['n_runs'], 'run')}, {counted(facts['n_cells'], 'cell')}"
        rows.append(("group", f"{group}: {counts}; {size} parameters, {horizon} tokens"))
    return rows + [("conventions", line) for line in convention_lines(summary["conventions"])]


VERB = Verb("check", "Check a run table: every problem on stderr, a summary on stdout.", add, run)
