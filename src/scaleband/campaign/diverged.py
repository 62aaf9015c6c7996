"""What diverged runs say where no run of their group completed: draws weighted by it.

A loss alone says where a group's level is, and without one the group cannot be fitted. That a run diverged needs no
level: its excess over the best of its cell lies above the threshold (`laws.run_log_density`, censored).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.laws import (
    ANGLE,
    CENSOR_ABOVE,
    CURVATURE,
    REFERENCE,
    SKEW,
    LawDraws,
    excess,
    run_log_density,
)

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

PARTICLES = 40_000
"""Draws that are weighted, at least; some tenths of a second. Of four runs that a prior gives a chance of one in
twenty each, a few hundred are left."""

_ENOUGH = 400.0
"""Effective draws, as of the diagnostic gate."""

_FEWEST = 100.0
"""Effective draws below which the runs count for less than they are."""


def log_weights(draws: LawDraws, runs: pd.DataFrame) -> Array:
    """log P(every run diverged) under each draw: (sample,), natural.

    Parameters
    ----------
    draws
        Any; a cell that was not fitted is a new draw of its law.
    runs
        Rows of a run table, all diverged.
    """
    from scaleband.bayes import cells_of
    from scaleband.runs import cell_index, cell_table

    table = cell_table(runs)
    states = draws.at(cells_of(table))
    log_lr = np.log(runs["lr_peak"].to_numpy(float) / REFERENCE["lr_peak"])
    log_batch = np.log(runs["batch_tokens"].to_numpy(float) / REFERENCE["batch_tokens"])
    # Up there the noise is the misfit's share of the excess; whose sigma it is does not matter.
    sigma, out = draws.sigma.mean(axis=1), np.zeros(draws.n_samples)
    for run, c in enumerate(cell_index(runs, table)):
        state = states[:, :, c].T
        curvature = np.exp(np.clip(state[CURVATURE], -20, 20))
        above = excess(log_lr[run] - state[0], log_batch[run] - state[1], state[ANGLE], curvature, state[SKEW])
        out += run_log_density(CENSOR_ABOVE, 0.0, above, sigma, draws.rho, draws.nu, censored=True)
    return out


def weighed(draws: LawDraws, runs: pd.DataFrame, count: int, seed: Sequence[int]) -> LawDraws:
    """`count` draws, chosen by how well each explains that these runs diverged.

    Parameters
    ----------
    draws
        Without these runs. Fewer than `PARTICLES` are repeated, each time with other groups and cells never seen.
    runs
        Diverged rows of groups that the draws have no run of.
    count
        Draws wanted.
    seed
        Of the choice.

    Returns
    -------
    Draws whose `meta` says how many runs these were. Where fewer than `_ENOUGH` effective ones explain them, the gate
    has failed; below `_FEWEST` the runs count for less than they are (a power of their likelihood), and it says so.
    """
    times = -(-PARTICLES // draws.n_samples)
    many = draws.take(np.tile(np.arange(draws.n_samples), times)) if times > 1 else draws
    log_weight = log_weights(many, runs)
    weight, share = _weights(log_weight), 1.0
    places = (np.random.default_rng([*seed, 7]).random() + np.arange(count)) / count
    gate = dict(draws.meta["gate"])  # type: ignore[call-overload]
    effective = _effective(weight)
    if effective < _FEWEST:
        # A few draws far out would be all that is left, and a band around them a lie.
        low, high = 0.0, 1.0
        while high - low > 1e-3:
            share = (low + high) / 2
            low, high = (share, high) if _effective(_weights(share * log_weight)) >= _FEWEST else (low, share)
        share = low
        weight = _weights(share * log_weight)
    if effective < _ENOUGH:
        counts = f"; they count for {share:.0%} of what they are" if share < 1 else ""
        gate = {**gate, "passed": False, "messages": [*gate["messages"], (
            f"{len(runs)} runs diverged in groups without a completed one, and few draws of what was known before "
            f"explain that ({effective:.0f} effective ones, below {_ENOUGH:.0f}{counts}): look for a mistake in rates "
            "and batches, complete one run at a far lower rate, or trust the prior less"
        )]}  # fmt: skip
    index = np.minimum(np.searchsorted(np.cumsum(weight), places), len(weight) - 1)
    name = str(draws.meta["name"]).replace("nothing told yet", f"{len(runs)} runs diverged, none completed")
    return replace(many.resampled(index), meta={**draws.meta, "name": name, "gate": gate})


def _weights(log_weight: Array) -> Array:
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


def _effective(weight: Array) -> float:
    return 1 / float((weight**2).sum())
