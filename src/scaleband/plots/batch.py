"""What the next batch would teach: expected regret and expected bands at the target, bundle by bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaleband.design import Candidates, greedy_batch
from scaleband.labels import quantity
from scaleband.laws import Cells, LawDraws
from scaleband.plots.canvas import (
    COLOURS,
    INK,
    in_percent,
    log_y,
    new_figure,
    percent_label,
    span,
    title_lines,
)
from scaleband.plots.selection import cell_label, one_cell

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

_HALF = 1.6449  # standard deviations to each side of a 90 % band


@dataclass(frozen=True)
class BatchData:
    """The path of a batch; entry 0 is now (once the pending runs are in, if there are any), entry k after k bundles.

    Attributes
    ----------
    label
        The target in words.
    flops (step,)
        Spent so far.
    regret, error (step,)
        Expected regret at the target, 100 log loss, and the Monte-Carlo error of its drop since the step before.
    width (2, step)
        End-to-end factor of the 90 % band of rate and batch, expected after the step (Gaussian).
    bundle (step - 1,)
        Each bundle in words.
    n_pending
        Runs that were taken as known, and paid, before the first bundle.
    """

    label: str
    flops: Array
    regret: Array
    error: Array
    width: Array
    bundle: tuple[str, ...]
    n_pending: int = 0


def batch_data(
    draws: LawDraws,
    target: Cells,
    candidates: Candidates,
    *,
    budget_flops: float,
    n_runs: int = 16,
    seed: int = 0,
    pending: Candidates | None = None,
    made: pd.DataFrame | None = None,
    price: Array | None = None,
) -> BatchData:
    """What the picture shows; parameters as in `design.propose`, whose verdict is not drawn."""
    target = one_cell(target, 0)
    batch = greedy_batch(
        draws, target, candidates, budget_flops=budget_flops, n_runs=n_runs, seed=seed, pending=pending, made=made,
        price=price,
    )  # fmt: skip
    candidates, decision, start, chosen = batch.candidates, batch.decision, batch.start, batch.choices
    away = decision.optimum - decision.optimum.mean(0)
    spread = [away.std(0)]
    for rule in (start, *(choice.gain.rule for choice in chosen)):
        f = rule.features
        rest = away - f @ (f.T @ away) / len(f)  # features are orthogonal and of unit variance
        left = rest.std(0) * np.sqrt(len(f) / (len(f) - f.shape[1]))
        spread.append(np.minimum(left, spread[-1]))
    spread = spread[1:]  # at the start the pending runs are in
    regret = start.risk - np.cumsum([0.0] + [c.gain.evsi for c in chosen])
    cells = candidates.cells
    words = []
    for c in chosen:
        k = int(candidates.cell[c.runs[0]])
        again = " again" if c.repeats.any() else ""
        runs = "1 run" if len(c.runs) == 1 else f"{len(c.runs)} runs"
        words.append(f"{runs}{again}, {quantity(cells.n_params[k])}/{quantity(cells.n_tokens[k])}")
    return BatchData(
        label=cell_label(target),
        flops=np.cumsum([0.0] + [c.cost for c in chosen]),
        regret=np.maximum(regret, 0.0),
        error=np.array([0.0] + [c.gain.error for c in chosen]),
        width=np.exp(2 * _HALF * np.array(spread)).T,
        bundle=tuple(words),
        n_pending=len(batch.pending),
    )


def draw_batch(data: BatchData) -> Figure:
    """Two panels over FLOPs spent: expected regret (with its error), and the bands' widths."""
    figure = new_figure(8.6, 4.4)
    left, right = figure.subplots(1, 2)
    error = np.sqrt(np.cumsum(data.error**2))
    low, high = in_percent(np.maximum(data.regret - error, 0)), in_percent(data.regret + error)
    regret = in_percent(data.regret)
    left.fill_between(data.flops, low, high, step="post", color=COLOURS[0], alpha=0.2, lw=0)
    left.step(data.flops, regret, where="post", color=COLOURS[0], lw=2)
    left.plot(data.flops, regret, "o", color=COLOURS[0], ms=5)
    for k in range(len(data.bundle)):
        at = (data.flops[k + 1], regret[k + 1])
        # Below and above in turn, beside the line: bundles of little price lie close.
        place = (-6, -12) if k % 2 == 0 else (7, 5)
        left.annotate(f"{k + 1}", at, place, textcoords="offset points", ha="center", fontsize="small", color=INK)
    left.set_ylim(0, 1.12 * max(float(high.max()), 1e-6))
    left.set_ylabel("expected regret at the target (%)\nshaded: Monte-Carlo error")
    for row, (name, dash) in enumerate((("rate", "-"), ("batch", "--"))):
        right.step(data.flops, data.width[row], where="post", color=COLOURS[row], ls=dash, lw=2, label=name)
        right.plot(data.flops, data.width[row], "os"[row], color=COLOURS[row], ms=5)
    log_y(right, *span(data.width, margin=0.08), percent_label)
    right.set_ylabel("expected 90 % band, end to end (factor)")
    right.legend(frameon=False)
    for ax in (left, right):
        ax.set_xlabel("FLOPs spent")
        ax.set_xlim(left=0)
    listed = [f"{k + 1}: {words}" for k, words in enumerate(data.bundle)]
    rows = ["   ".join(listed[i : i + 4]) for i in range(0, len(listed), 4)]
    runs = "" if not data.n_pending else (
        ",\nonce the pending run is in" if data.n_pending == 1 else f",\nonce the {data.n_pending} pending runs are in")
    figure.suptitle(f"{title_lines(data.label)}: what the next batch would teach{runs}", fontsize="medium")
    figure.supxlabel("\n".join(rows) or "no affordable bundle teaches anything", fontsize="small")
    return figure


def plot_batch(draws: LawDraws, target: Cells, candidates: Candidates, **given: Any) -> Figure:
    """What the next batch would teach, as a figure; parameters as in `batch_data`."""
    return draw_batch(batch_data(draws, target, candidates, **given))
