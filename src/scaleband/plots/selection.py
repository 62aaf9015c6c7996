"""What a picture shows: which target and what it is called, which runs are its own, how many draws."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scaleband.errors import UserError
from scaleband.labels import quantity
from scaleband.laws import Cells, LawDraws
from scaleband.predict import Basins
from scaleband.predict.contrasts import positions
from scaleband.runs import group_label, usable

if TYPE_CHECKING:
    import pandas as pd


def one_cell(cells: Cells, c: int) -> Cells:
    """Target `c` alone.

    Raises
    ------
    UserError
        There is no such target.
    """
    if not -len(cells) <= c < len(cells):
        raise UserError(f"there is no target {c}: there are {len(cells)}, counted from 0; give one of them")
    return cells.take(np.array([c]))


def cell_label(cell: Cells) -> str:
    """One target in words: its group, size and tokens."""
    group = group_label(cell.source[0], cell.arch[0], cell.data[0])
    return f"{group}  {quantity(cell.n_params[0])} parameters, {quantity(cell.n_tokens[0])} tokens"


def runs_of(runs: pd.DataFrame | None, cell: Cells) -> pd.DataFrame:
    """The usable runs of one cell; an empty frame with the same columns where there are none."""
    import pandas as pd

    if runs is None:
        return pd.DataFrame({"lr_peak": [], "batch_tokens": [], "loss": [], "status": []})
    rows = usable(runs)
    return rows[positions(rows, cell) == 0]


def some_basins(b: Basins, most: int) -> Basins:
    """At most `most` of the draws, evenly spaced."""
    at = slice(None, None, -(-len(b.optimum) // most))
    return replace(
        b, optimum=b.optimum[at], curvature=b.curvature[at], level=b.level[at], angle=b.angle[at], skew=b.skew[at]
    )


def some_draws(draws: LawDraws, most: int) -> LawDraws:
    """At most `most` of the draws, evenly spaced. For fitted cells: a new cell's luck depends on their number."""
    at = slice(None, None, -(-draws.n_samples // most))
    return draws.take(at)
