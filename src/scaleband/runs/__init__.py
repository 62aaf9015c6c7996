"""What happened: the run table, its units, its checks, and readers of foreign formats."""

from __future__ import annotations

from scaleband.labels import arch_family, group_label
from scaleband.runs.catalogue import CATALOGUE, DataSet, data_set, fetch
from scaleband.runs.cells import (
    cell_index,
    cell_table,
    comparable,
    rows_of_settings,
    usable,
    without_level,
)
from scaleband.runs.columns import COLUMNS, CONVENTIONS, STATUSES, Column
from scaleband.runs.conventions import conventions
from scaleband.runs.costs import SECONDS_PER_HOUR, dollars, gpu_hours, training_flops
from scaleband.runs.mapping import ColumnMap, column_map, read_map
from scaleband.runs.problems import Problem
from scaleband.runs.repeats import repeated_losses, without_repeated_losses
from scaleband.runs.shipped import data_sets, get, own_sweep, sweep_card, sweep_path
from scaleband.runs.table import RunTable, read_runs, read_steplaw, run_table

__all__ = [
    "CATALOGUE",
    "COLUMNS",
    "CONVENTIONS",
    "SECONDS_PER_HOUR",
    "STATUSES",
    "Column",
    "ColumnMap",
    "DataSet",
    "Problem",
    "RunTable",
    "arch_family",
    "cell_index",
    "cell_table",
    "column_map",
    "comparable",
    "conventions",
    "data_set",
    "data_sets",
    "dollars",
    "fetch",
    "get",
    "gpu_hours",
    "group_label",
    "own_sweep",
    "read_map",
    "read_runs",
    "read_steplaw",
    "repeated_losses",
    "rows_of_settings",
    "run_table",
    "sweep_card",
    "sweep_path",
    "training_flops",
    "usable",
    "without_level",
    "without_repeated_losses",
]
