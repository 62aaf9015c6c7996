"""Which form of the law: several are fitted to one table, scored on cells left out, and mixed by stacking weights.

A score is how well a form foretells the contrasts of a cell that it has not seen (`inference.scores`), so every form is
sampled once and nothing is fitted again. Draws of all forms have the same names and dims: the mixture is a fit like any
other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import ModelInputs
from scaleband.errors import UserError
from scaleband.inference.fitting import Fit, Parts, fit, prepared
from scaleband.inference.gate import together
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.scores import leave_one_cell_out
from scaleband.inference.stacking import stacking_weights
from scaleband.laws import FORMS, STACK, STACKED

if TYPE_CHECKING:
    import pandas as pd

ROUGH = 0.7
"""Pareto k above which a cell's score is rough: its runs decide the draws that are to foretell it."""

_CELLS_AT_LEAST = 2


def fit_forms(
    frame: pd.DataFrame,
    *,
    forms: Sequence[str] = STACKED,
    settings: SamplerSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Fit:
    """Fit several forms of the law to a run table, from the stated beliefs, and stack them.

    Parameters
    ----------
    frame
        `RunTable.frame`.
    forms
        Names out of `laws.FORMS`.
    settings
        Of the sampler, for every form.
    progress
        Called with (form and stage, done, total).

    Returns
    -------
    As `stack_forms`.

    Raises
    ------
    UserError
        No form, or an unknown one; as `fitting.fit`; as `check_stackable`.
    """
    wrong = [form for form in forms if form not in FORMS]
    if wrong or not forms:
        what = f"unknown form {wrong[0]!r}" if wrong else "no form to fit"
        raise UserError(f"{what}; choose of {', '.join(FORMS)}")
    if len(set(forms)) > 1:
        check_stackable(frame)
    fits: dict[str, Fit] = {}
    for form in dict.fromkeys(forms):
        first = next(iter(fits.values()), None)
        say = None if progress is None else partial(_of, form, progress)
        fits[form] = fit(frame, form=form, settings=settings, reuse=first, progress=say)
    return stack_forms(fits, progress=progress)


def stack_forms(
    fits: Mapping[str, Fit],
    *,
    n_draws: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Fit:
    """Score fits of several forms to one table on cells left out, and mix their draws.

    Parameters
    ----------
    fits
        Form -> its fit.
    n_draws
        Draws of the mixture, a chain; by default as many as the form of fewest has.
    progress
        Called with (form and stage, done, total).

    Returns
    -------
    A fit that is saved, loaded and asked like any other: each form in proportion to its weight (below 0.005: none). Its
    gate is that of every form with weight. `meta` has `form` ("stack", or the one form that has all weight), `forms`
    (weights), `scores` (sums over the cells scored, natural log units), `rough_scores` (cells whose Pareto k is above
    0.7) and `n_scored`.

    Raises
    ------
    UserError
        Fits of different runs; fewer than two cells that can be left out.
    """
    first, started = next(iter(fits.values())), time.perf_counter()
    if any(set(f.inputs.run_ids) != set(first.inputs.run_ids) for f in fits.values()):
        raise UserError("forms are stacked on one table, and these fits are of different runs; fit all to the same")
    scores: dict[str, NDArray[np.float64]] = {}
    rough: dict[str, int] = {}
    cells, shares = np.zeros(0, dtype=np.int64), [1.0]  # one form needs no score
    if len(fits) > 1:
        cells = _left_out(first.inputs)
        for form, one in fits.items():
            say = None if progress is None else partial(progress, f"{form}, scoring cells left out")
            found = leave_one_cell_out(one.posterior, one.inputs, one.beliefs, progress=say)
            scores[form] = found.log_density[cells]
            rough[form] = int((found.pareto_k[cells] > ROUGH).sum())
        shares = stacking_weights(np.stack(list(scores.values()), axis=1)).tolist()
    weights = dict(zip(fits, shares, strict=True))
    parts = Parts({f: fits[f] for f in fits if weights[f]}, {f: w for f, w in weights.items() if w})
    used = list(parts.fits.values())
    count = n_draws or min(f.posterior["rho"].shape[1] for f in used)
    names = set.intersection(*(set(f.stats) for f in used))
    gate = together({form: f.gate for form, f in parts.fits.items()})
    form = next(iter(parts.fits)) if len(used) == 1 else STACK
    meta = used[0].meta | {"form": form, "forms": weights, "gate": gate.as_dict(), "n_scored": len(cells)}
    meta |= {"scores": {f: float(s.sum()) for f, s in scores.items()}, "rough_scores": rough}
    meta["seconds"] = seconds = {"score": time.perf_counter() - started}
    for one in fits.values():
        spent: Any = one.meta.get("seconds", {})
        seconds |= {stage: seconds.get(stage, 0.0) + s for stage, s in spent.items()}
    return Fit(
        parts.mixed(lambda f: f.posterior, count),
        parts.mixed(lambda f: {n: f.stats[n] for n in names}, count) if names else {},
        used[0].inputs,
        used[0].beliefs,
        gate,
        meta,
        used[0].compiled,
        used[0].settings,
        parts if len(used) > 1 else None,
    )


def check_stackable(frame: pd.DataFrame) -> None:
    """See before the work that forms can be scored on this table.

    Raises
    ------
    UserError
        Fewer than two cells can be left out; no completed run.
    """
    _left_out(prepared(frame, STACKED[0], None)[3])


def _left_out(inputs: ModelInputs) -> NDArray[np.int64]:
    """Cells that are scored. What runs of one trunk have in common was learned from a cell's own runs too."""
    linked = inputs.cell[inputs.trunk < inputs.n_trunks]
    cells = np.setdiff1d(inputs.cell, linked)
    if len(cells) < _CELLS_AT_LEAST:
        raise UserError(
            f"forms are scored on cells left out, and the table has {len(cells)} whose runs share no trunk; it takes "
            f"{_CELLS_AT_LEAST} at least: fit one form, for instance quadratic"
        )
    return cells


def _of(form: str, progress: Callable[[str, int, int], None], stage: str, done: int, total: int) -> None:
    progress(f"{form}, {stage}", done, total)
