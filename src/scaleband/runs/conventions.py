"""What a group's recipe states and leaves unstated: travels with a fit, printed beside its answers."""

from __future__ import annotations

import pandas as pd

from scaleband.labels import group_label
from scaleband.runs.columns import CONVENTIONS, GROUP

NOT_STATED = "not stated"


def conventions(frame: pd.DataFrame) -> dict[str, dict[str, str]]:
    """The stated conventions of each group.

    Parameters
    ----------
    frame
        ``RunTable.frame``, or rows of it.

    Returns
    -------
    ``source/arch/data`` -> convention (and ``seq_len``) -> its one value, "not stated", or "varies: a, b".
    Groups sorted; plain strings, so it travels as JSON.
    """
    return {
        group_label(*(str(part) for part in key)): {
            name: stated(rows[name]) for name in (*CONVENTIONS, "seq_len")
        }
        for key, rows in frame.groupby(list(GROUP), sort=True)
    }


def stated(values: pd.Series) -> str:
    """One convention of one group, in words."""
    found = values.dropna().unique()
    words = [value if isinstance(value, str) else f"{value:.10g}" for value in sorted(found) if value != ""]
    if not words:
        return NOT_STATED
    if len(words) == 1:
        return words[0]
    shown = ", ".join(words[:4]) + (", ..." if len(words) > 4 else "")
    return f"varies: {shown}"
