"""What is wrong with a table, as values: a place, a value, a sentence, a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

#: Rows listed one by one for each kind of problem in each file; the rest are counted.
ROWS_LISTED = 20


Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, doubtful, or worth knowing.

    Parameters
    ----------
    severity
        "error" (nothing is loaded), "warning" (probably a slip), "note" (what was done for you).
    file
        The file as the user gave it (its name, or its path where two files share a name).
    row
        Number of the data row, from 1, header and blank lines not counted; None if no single row is meant.
    column
        The column, as named in the run table; None if no single column is meant.
    value
        The offending value as text, "" if there is none.
    message
        What is wrong, without the place.
    remedy
        What to do.
    more
        Further rows of the same file with the same problem that are not listed one by one.
    """

    severity: Severity
    file: str
    row: int | None
    column: str | None
    value: str
    message: str
    remedy: str
    more: int = 0

    def __str__(self) -> str:
        place = f"{self.file} row {self.row}" if self.row is not None else self.file
        rows = "row" if self.more == 1 else "rows"
        tail = f" (and {self.more:,} more {rows} like this)" if self.more else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{place}: {self.message}{remedy}{tail}"


@dataclass(frozen=True)
class Places:
    """Where each row of a table came from.

    Parameters
    ----------
    files
        Display names.
    file_index, row
        Per row of the table: which file, and the number of the data row in it, from 1.
    """

    files: tuple[str, ...]
    file_index: np.ndarray
    row: np.ndarray

    def of(self, position: int) -> str:
        """The place of one row, as printed: ``runs.csv row 17``."""
        return f"{self.files[self.file_index[position]]} row {self.row[position]}"


def listed(positions: np.ndarray, places: Places, limit: int = ROWS_LISTED) -> list[tuple[int, int]]:
    """Pick the rows to list: ``(position, more)``, at most ``limit`` a file, the last counting the rest."""
    picked: list[tuple[int, int]] = []
    owner = places.file_index[positions]
    for index in range(len(places.files)):
        mine = positions[owner == index]
        shown = mine[:limit]
        picked += [(int(p), 0) for p in shown[:-1]]
        if shown.size:
            picked.append((int(shown[-1]), int(mine.size - shown.size)))
    return picked


def shown_value(value: object, limit: int = 60) -> str:
    """A value as it may be printed: short, on one line, without control characters."""
    if isinstance(value, float):
        return f"{value:.10g}"
    text = str(value)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."
