"""Notes on rates and batches that no run behind an answer had: there the runs say little of what is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scaleband.cli.printing import say
from scaleband.cli.question import Question
from scaleband.cli.words import rate, tokens
from scaleband.laws import REFERENCE
from scaleband.predict import Setting
from scaleband.predict.targets import peers

ALIKE = 0.01
"""Batches that differ by less, in log, are one (as in `runs.columns`, whose import would bring pandas)."""

BEYOND = 0.1
"""E-folds beyond the runs that are worth a word: less than the steps of most grids."""


def tell_unrun(q: Question, setting: Setting, given: Sequence[str] = ()) -> None:
    """Say on stderr where a setting is not what the runs behind it tell.

    Parameters
    ----------
    q
        The question. The runs are the fitted cell's own, else those of the target's group (or family, or all).
    setting
        The answer.
    given
        Those of "lr_peak" and "batch_tokens" that were asked for, and are no answer.
    """
    if q.draws.grid is None:
        return
    whose, mask = peers(q.draws.cells, q.cells)
    fitted = q.draws.matching_cell(q.cells, 0)
    if fitted is not None:
        whose, mask = "this cell", np.arange(len(mask)) == fitted
    ends = q.draws.grid[:, mask & np.isfinite(q.draws.grid).all(axis=0)]
    if not ends.size:
        return
    low, high = ends[::2].min(axis=1), ends[1::2].max(axis=1)
    at = np.log([setting.lr_peak[0] / REFERENCE["lr_peak"], setting.batch_tokens[0] / REFERENCE["batch_tokens"]])
    inside = (low - BEYOND <= at) & (at <= high + BEYOND)
    rates = _words(low[0], high[0], REFERENCE["lr_peak"], rate)
    batches = _words(low[1], high[1], REFERENCE["batch_tokens"], tokens)
    untold = bool((ends[3] - ends[2] <= ALIKE).all())
    if untold and not ("batch_tokens" in given and inside[1]):
        say(f"note: no two runs of one cell differ in batch in {whose} ({batches}), so they do not tell which batch is "
            "best, nor how the best rate moves with it; --batch-tokens asks for the best rate at a batch that was "
            "run")  # fmt: skip
    if q.where.verdict not in ("fitted cell", "inside"):
        return  # farther out, settings move on with size and tokens
    for k, (name, what, ran) in enumerate((("lr_peak", "rate", rates), ("batch_tokens", "batch", batches))):
        if not (inside[k] or name in given or (untold and name == "batch_tokens")):
            side = "below" if at[k] < low[k] else "above"
            say(f"note: the recommended {what} lies {side} all that were run in {whose} ({ran}); runs there would tell "
                "where the loss turns")  # fmt: skip


def _words(low: float, high: float, reference: float, show: Callable[[float], str]) -> str:
    """One value, or two ends."""
    ends = (low,) if high - low <= ALIKE else (low, high)
    return " to ".join(show(reference * float(np.exp(v))) for v in ends)
