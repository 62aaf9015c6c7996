"""Candidates out of nothing but limits: sizes that exist, what fits on the device, rates and batches in steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.design.candidates import Candidates, with_mini_sweeps
from scaleband.design.costs import flops_cost
from scaleband.errors import UserError
from scaleband.labels import arch_family
from scaleband.laws import REFERENCE, Cells, LawDraws
from scaleband.predict import basins

Array = NDArray[np.float64]

BYTES_PER_PARAM = 16.0
"""Weights, gradients and Adam's moments in mixed precision (Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section
3.1); activations come on top."""


@dataclass(frozen=True)
class Limits:
    """What may be proposed.

    Attributes
    ----------
    sizes
        (n_params, n_active) of models that exist.
    tokens
        Training lengths.
    flops_max
        Most that one run may cost, FLOP.
    batch_multiple
        Batches are this many tokens times a power of two (sequence length times devices, say).
    batch_min, batch_max
        Tokens per step.
    steps_min
        Fewest optimizer steps of a run.
    device_memory_bytes
        Memory that holds `BYTES_PER_PARAM` per parameter; None: no limit.
    rate_steps
        Rates per factor of two.
    reach
        Settings lie within this many e-folds of a cell's expected optimum (plus twice its spread).
    """

    sizes: tuple[tuple[float, float], ...]
    tokens: tuple[float, ...]
    flops_max: float
    batch_multiple: float = 65_536.0
    batch_min: float = 65_536.0
    batch_max: float = 8_388_608.0
    steps_min: float = 1000.0
    device_memory_bytes: float | None = None
    rate_steps: int = 1
    reach: float = 1.4


def limits_from(draws: LawDraws, target: Cells, *, flops_max: float) -> Limits:
    """Limits read off a fit: sizes and token counts of the target's group, else of its family, else of all cells."""
    own = draws.cells
    family = arch_family(target.arch[0])
    group = (target.source[0], target.arch[0], target.data[0])
    choices = (
        [k for k in range(len(own)) if (own.source[k], own.arch[k], own.data[k]) == group],
        [k for k in range(len(own)) if arch_family(own.arch[k]) == family],
        list(range(len(own))),
    )
    for chosen in choices:
        if len({own.n_params[k] for k in chosen}) > 1 or chosen is choices[-1]:
            break
    sparsity = float(target.n_active[0] / target.n_params[0])
    sizes = sorted({(float(own.n_params[k]), float(own.n_params[k]) * sparsity) for k in chosen})
    tokens: list[float] = []
    for d in sorted(float(own.n_tokens[k]) for k in chosen):
        if not tokens or d > 1.05 * tokens[-1]:  # fitted counts as they are, so that fitted cells are met again
            tokens.append(d)
    return Limits(tuple(sizes), tuple(tokens), flops_max)


def grid_candidates(
    draws: LawDraws, target: Cells, limits: Limits, *, mini_sweeps: bool = True
) -> Candidates:
    """Single runs and mini-sweeps in the target's group, inside the limits.

    Rates lie on a grid of `rate_steps` per factor of two around 1e-3, batches on `batch_multiple` times powers of two,
    so that cells share values and a fit can tell their grids.

    Raises
    ------
    UserError
        Nothing lies inside the limits; the sentence says which limit is the narrowest.
    """
    batches = limits.batch_multiple * 2.0 ** np.arange(34)
    batches = batches[batches >= limits.batch_min]
    smallest = batches[0] if batches.size else limits.batch_min
    if limits.batch_max < smallest or not batches.size:
        raise UserError(
            f"the largest batch, {limits.batch_max:g} tokens, is below the smallest that may be run ({smallest:g}: "
            f"{limits.batch_multiple:g} times a power of two); allow larger batches, or a smaller multiple"
        )
    batches = batches[batches <= limits.batch_max]
    pairs = np.array([(n, a, d) for n, a in limits.sizes for d in limits.tokens]).reshape(-1, 3)
    n, a, d = pairs.T
    fits = np.ones(len(n), bool)
    reasons = {}
    if limits.device_memory_bytes is not None:
        fits &= n * BYTES_PER_PARAM <= limits.device_memory_bytes
        reasons["the device's memory"] = int(fits.sum())
    fits &= flops_cost(a, d) <= limits.flops_max
    reasons["the price of a run"] = int(fits.sum())
    fits &= d / batches[0] >= limits.steps_min
    reasons["the fewest steps"] = int(fits.sum())
    if not fits.any():
        cheapest = flops_cost(a, d).min() if len(a) else np.nan
        which = next(k for k, left in reasons.items() if not left)
        why = (
            f"the cheapest of the {len(n)} sizes and lengths costs {cheapest:.3g} FLOP, a run may cost "
            f"{limits.flops_max:.3g}: allow smaller sizes, shorter trainings or dearer runs (--run-max, and a budget "
            "that pays for them)"
        )
        if "memory" in which:
            least = n.min(initial=np.inf) * BYTES_PER_PARAM
            why = f"the smallest size needs {least:.3g} bytes: allow smaller sizes or more memory (--device-memory)"
        elif "steps" in which:
            why = (
                f"a run has {limits.steps_min:g} steps or more, of {smallest:g} tokens or more: allow longer trainings "
                "or smaller batches (--batch-multiple)"
            )
        raise UserError(f"no run lies inside the limits (none is left after {which}); {why}")
    n, a, d = n[fits], a[fits], d[fits]
    count = len(n)
    source, arch, data = ((str(name[0]),) * count for name in (target.source, target.arch, target.data))
    cells = Cells(source, arch, data, n, a, d)
    at = basins(draws, cells)
    middle, spread = np.median(at.optimum, axis=0), at.optimum.std(axis=0)
    step = np.log(2) / limits.rate_steps
    cell, lr, batch = [], [], []
    for c in range(count):
        away = np.minimum(limits.reach + 2 * spread[:, c], 2.5)
        low, high = middle[0, c] - away[0], middle[0, c] + away[0]
        rates = REFERENCE["lr_peak"] * np.exp(step * np.arange(np.ceil(low / step), np.floor(high / step) + 1))
        allowed = batches[batches <= d[c] / limits.steps_min]
        distance = np.abs(np.log(allowed / REFERENCE["batch_tokens"]) - middle[1, c])
        sizes = allowed[distance <= away[1]]
        if not sizes.size:  # the expected optimum lies outside: the nearest batch
            sizes = allowed[[distance.argmin()]]
        for rate in rates:
            for size in sizes:
                cell.append(c)
                lr.append(rate)
                batch.append(size)
    runs = np.array(cell, dtype=np.int64)
    singles = tuple(np.array([i]) for i in range(len(runs)))
    found = Candidates(cells, runs, np.array(lr), np.array(batch), flops_cost(a, d)[runs], singles)
    return with_mini_sweeps(found, at) if mini_sweeps else found
