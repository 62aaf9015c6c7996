"""The run table as a pandera schema, and its failures as problems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scaleband.runs.columns import COLUMNS, NUMBERS
from scaleband.runs.problems import Places, Problem, listed, shown_value
from scaleband.runs.rules import Rule, doubts, number_rules, pair_rules, text_rules, unique_rule


def run_schema(rules: list[Rule]) -> Any:
    """A ``pandera.DataFrameSchema``: every known column with its dtype, every rule as a vectorised check."""
    import pandera.pandas as pandera

    def check(rule: Rule) -> Any:
        # one failure case a check is enough: the rows are found again below, and a table of a million
        # bad rows must not become a frame of a million failure cases
        return pandera.Check(
            lambda frame: pd.Series(~rule.bad(frame), index=frame.index),
            name=rule.name,
            n_failure_cases=1,
            ignore_na=False,
        )

    return pandera.DataFrameSchema(
        columns={
            # text is str or object, as the pandas version has it
            column.name: pandera.Column("float64" if column.name in NUMBERS else None, nullable=True)
            for column in COLUMNS
        },
        checks=[check(rule) for rule in rules],
    )


def broken(frame: pd.DataFrame, rules: list[Rule]) -> list[Rule]:
    """The rules that at least one row breaks, by lazy validation."""
    import pandera.errors

    try:
        run_schema(rules).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        failed = {str(name) for name in error.failure_cases["check"]}
        found = [rule for rule in rules if rule.name in failed]
        strange = failed - {rule.name for rule in rules}
        if strange:  # a dtype that normalisation should have made impossible: a defect, not a user's mistake
            raise RuntimeError(f"run table out of shape: {sorted(strange)}") from error
        return found
    return []


def row_problems(
    frame: pd.DataFrame, places: Places, purpose: str, unreadable: dict[str, np.ndarray]
) -> list[Problem]:
    """Every rule on every row.

    Parameters
    ----------
    frame
        All known columns, float64 or str.
    places
        Where the rows came from.
    purpose
        "optimum" or "loss".
    unreadable
        Column -> (row,) bool: fields already reported as unreadable, which are not also missing.
    """
    rules = [*number_rules(purpose), *pair_rules(), *text_rules(), unique_rule(places), *doubts()]
    problems: list[Problem] = []
    for rule in broken(frame, rules):
        bad = rule.bad(frame)
        if rule.column in unreadable:
            bad = bad & ~unreadable[rule.column]
        limit = {} if rule.severity == "error" else {"limit": 3}
        for position, more in listed(np.flatnonzero(bad), places, **limit):
            problems.append(
                Problem(
                    rule.severity,
                    places.files[places.file_index[position]],
                    int(places.row[position]),
                    rule.column,
                    shown_value(frame[rule.column].iloc[position]),
                    rule.says(frame, position),
                    rule.remedy,
                    more,
                )
            )
    return problems
