"""Targets: the cells that a question is about, and how far they are from the cells that were fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaleband.errors import UserError
from scaleband.labels import arch_family
from scaleband.laws import ANGLE, CENSOR_ABOVE, CURVATURE, LEVEL, REFERENCE, SKEW, Cells, Ends, LawDraws, ends
from scaleband.laws.draws import PARAMS_TOLERANCE
from scaleband.predict.hull import distance

Array = NDArray[np.float64]

UNSEEN = "unseen"
"""Name of a source or data distribution that the question leaves open: the band of a group never seen."""

NEAR_DECADES = 0.5
"""Up to half a decade outside the fitted cells is called near (assumption)."""
_SHOWN = 0.005  # decades

STRAIGHT_ABOVE = CENSOR_ABOVE
"""Percent of the loss along one direction of a basin from which a regret grows in a straight line. As high as that a
run is lost: the model knows only "at least that high", and a mean over draws must not be ruled by the few that lie far
up an exponential. Lower down the walls are believed: where they say 20 to 40 % three runs of four diverged, where they
say 10 to 20 % half of them (benchmarks/walls.py)."""


def plain_numbers(name: str, value: ArrayLike) -> Array:
    """An argument as floats.

    Raises
    ------
    UserError
        It is text, or something else that is no number.
    """
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        raise UserError(f"{name} = {value!r} is no number, nor a list of numbers; write 1e9, not '1B'") from None


def _spread(name: str, value: ArrayLike | Sequence[str] | None, count: int, default: str) -> tuple[str, ...]:
    values = np.atleast_1d(np.asarray(default if value is None else value, dtype=object)).ravel()
    if len(values) not in (1, count):
        raise UserError(f"{name} has {len(values)} entries for {count} targets; give one, or one per target")
    return tuple(str(v) for v in np.broadcast_to(values, (count,)))


def target_cells(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    *,
    source: str | Sequence[str] | None = None,
    arch: str | Sequence[str] | None = None,
    data: str | Sequence[str] | None = None,
    n_active: ArrayLike | None = None,
) -> Cells:
    """Targets from plain values.

    Parameters
    ----------
    n_params, n_tokens
        Non-embedding parameters (for MoE the total) and training tokens, > 0; scalars or (target,).
    source, arch, data
        Group; left out means unknown, a group never seen (arch: dense).
    n_active
        Parameters used per token; `n_params` by default.

    Raises
    ------
    UserError
        Something that is no number, or none that is positive and finite; n_active above n_params; lengths that do not
        match.
    """
    given = {"n_params": n_params, "n_tokens": n_tokens, "n_active": n_params if n_active is None else n_active}
    plain = {name: np.atleast_1d(plain_numbers(name, value)) for name, value in given.items()}
    try:
        raw = np.broadcast_arrays(*plain.values())
    except ValueError:
        entries = ", ".join(f"{name} has {v.size}" for name, v in plain.items())
        raise UserError(f"the entries of the targets do not match ({entries}); give one, or one per target") from None
    params, tokens, active = (np.ravel(v).astype(float) for v in raw)
    problems = [
        f"{name} = {v[bad][0]:g} cannot be: give a positive, finite number"
        for name, v in (("n_params", params), ("n_tokens", tokens), ("n_active", active))
        if (bad := ~(np.isfinite(v) & (v > 0))).any()
    ]
    if not problems and (active > params * (1 + 1e-9)).any():
        problems.append(
            f"n_active = {active.max():g} is larger than n_params = {params.max():g}; n_params is the total, "
            "n_active what one token uses"
        )
    if problems:
        raise UserError(problems)
    count = len(params)
    names = [_spread(n, v, count, d) for n, v, d in (
        ("source", source, UNSEEN), ("arch", arch, "dense"), ("data", data, UNSEEN))]  # fmt: skip
    return Cells(names[0], names[1], names[2], params, active, tokens)


class Shape(NamedTuple):
    """The last arguments of `laws.excess`, each (direction, sample, target)."""

    angle: Array
    curvature: Array
    skew: Array
    straight: Ends

    def to(self, index: tuple[slice | int | None, ...]) -> Shape:
        """The same, every array indexed."""
        angle, curvature, skew, straight = self
        return Shape(angle[index], curvature[index], skew[index], Ends(*(v[index] for v in straight)))


@dataclass(frozen=True)
class Basins:
    """Draws of the basins at targets.

    Attributes
    ----------
    optimum (sample, hyperparameter, target)
        log(lr / 1e-3) and log(batch / 524,288), natural logs.
    curvature (sample, direction, target)
        Percent per squared log unit.
    level (sample, target)
        100 log of the loss at the optimum.
    angle, skew (sample, direction, target)
        Shape: radians, per log unit.
    """

    cells: Cells
    optimum: Array
    curvature: Array
    level: Array
    angle: Array
    skew: Array

    def lr_peak(self) -> Array:
        """Optimal peak learning rate, (sample, target)."""
        return REFERENCE["lr_peak"] * np.exp(self.optimum[:, 0])

    def batch_tokens(self) -> Array:
        """Optimal batch, tokens per step, (sample, target)."""
        return REFERENCE["batch_tokens"] * np.exp(self.optimum[:, 1])

    @cached_property
    def shape(self) -> Shape:
        """The basins' shape as `laws.excess` takes it, with walls that go on straight above `STRAIGHT_ABOVE`."""
        angle, curvature, skew = (np.moveaxis(v, 1, 0) for v in (self.angle, self.curvature, self.skew))
        return Shape(angle, curvature, skew, ends(STRAIGHT_ABOVE, curvature, skew))


def basins(draws: LawDraws, cells: Cells, *, as_new: bool = False) -> Basins:
    """Draws of the basin at each target; a fitted cell speaks for itself unless `as_new`."""
    state = draws.at(cells, as_new=as_new)
    return Basins(
        cells=cells,
        optimum=state[:, :2],
        curvature=np.exp(np.clip(state[:, CURVATURE], -20, 20)),
        level=state[:, LEVEL],
        angle=state[:, ANGLE],
        skew=state[:, SKEW],
    )


@dataclass(frozen=True)
class Extrapolation:
    """How far a target is from the fitted cells.

    Attributes
    ----------
    decades_n_params, decades_n_tokens, decades_sparsity
        Powers of ten outside the range of the fitted cells (negative: below it); 0 inside. Sparsity is n_params over
        n_active, 1 for dense.
    verdict
        "fitted cell", "inside", "near" (up to half a decade) or "far" (farther, or such a size and such a token count
        were not fitted together: `decades_apart`).
    against
        Whose range: the group's own, the architecture family's, or all fitted cells.
    unseen
        Parts of the group that no fitted cell has ("source", "arch", "data").
    decades_apart
        Distance in (log10 n_params, log10 n_tokens) from what the fitted cells enclose, of the target brought into
        their ranges; 0 up to half a decade. Where all cells have, say, 20 tokens per parameter, a small model on the
        tokens of a large one lies in both ranges and far from every cell.
    """

    decades_n_params: float
    decades_n_tokens: float
    verdict: str
    against: str
    unseen: tuple[str, ...]
    decades_sparsity: float = 0.0
    decades_apart: float = 0.0

    @property
    def farthest(self) -> float:
        """The most decades outside, of the three; and those apart."""
        decades = (self.decades_n_params, self.decades_n_tokens, self.decades_sparsity, self.decades_apart)
        return max(abs(v) for v in decades)

    def sentence(self) -> str:
        """One sentence for people."""
        if self.verdict == "fitted cell":
            text = "this cell was fitted: the answer is its own runs'"
        elif self.verdict == "inside":
            text = f"inside the sizes and token counts of {self.against}"
        else:
            least = min(_SHOWN, self.farthest)  # a size that is a percent off is not worth a word beside others
            parts = [
                f"{abs(v):.2g} decades {'above' if v > 0 else 'below'} in {name}"
                for v, name in (
                    (self.decades_n_params, "parameters"), (self.decades_n_tokens, "tokens"),
                    (self.decades_sparsity, "parameters per active one"),
                )
                if abs(v) >= least > 0
            ]  # fmt: skip
            text = f"outside {self.against}: {' and '.join(parts)}"
            if self.decades_apart:
                apart = f"such a size and token count were not run together, {self.decades_apart:.2g} decades off"
                text = f"{text}; {apart}" if parts else f"outside {self.against}: {apart}"
            text += "; far: check one size in between before you rely on it" if self.verdict == "far" else ""
        if self.unseen:
            text += f"; {' and '.join(self.unseen)} never seen: the band is that of any new one"
        return text


def _decades(value: float, fitted: Array) -> float:
    low, high = fitted.min() * (1 - 1e-3), fitted.max() * (1 + 1e-3)
    return float(np.log10(value / high)) if value > high else float(min(np.log10(value / low), 0.0))


def _decades_apart(cells: Cells, c: int, fitted: Cells, mask: NDArray[np.bool_]) -> float:
    """`Extrapolation.decades_apart` of target `c` from those of the fitted cells that `mask` names."""
    points = np.log10(np.stack([fitted.n_params, fitted.n_tokens], axis=1)[mask])
    at = np.log10([float(cells.n_params[c]), float(cells.n_tokens[c])])
    apart = distance(points, np.clip(at, points.min(0), points.max(0)))
    return apart if apart > NEAR_DECADES else 0.0


def peers(fitted: Cells, cells: Cells, c: int = 0) -> tuple[str, NDArray[np.bool_]]:
    """The fitted cells that target `c` is measured against, (cell,): its group's, else its family's, else all.

    Returns
    -------
    Their name, and the mask.
    """
    wanted, family = (cells.source[c], cells.arch[c], cells.data[c]), arch_family(cells.arch[c])
    own = np.array([g == wanted for g in zip(fitted.source, fitted.arch, fitted.data, strict=True)], dtype=bool)
    alike = np.array([arch_family(a) == family for a in fitted.arch], dtype=bool)
    masks = {"/".join(wanted): own, f"the fitted {family} cells": alike, "the fitted cells": np.ones(len(fitted), bool)}
    return next((k, m) for k, m in masks.items() if m.any())


def usual_sparsity(fitted: Cells, cells: Cells, c: int = 0) -> tuple[float, str] | None:
    """n_params / n_active of the fitted cells that are built like target `c`, for a question that leaves n_active out.

    These are its group's, else those of its variant (moe-1in8) in any group; of its size, where that was fitted.

    Returns
    -------
    The median, and whose it is; None where no cell is built like it.
    """
    wanted = (cells.source[c], cells.arch[c], cells.data[c])
    own = np.array([g == wanted for g in zip(fitted.source, fitted.arch, fitted.data, strict=True)], dtype=bool)
    variant = np.array([a == wanted[1] and "-" in a for a in fitted.arch], dtype=bool)
    alike = np.abs(np.log(fitted.n_params / cells.n_params[c])) <= PARAMS_TOLERANCE
    for name, mask in (("/".join(wanted), own), (wanted[1], variant)):
        if mask.any():
            mask = mask & alike if (mask & alike).any() else mask
            return float(np.median((fitted.n_params / fitted.n_active)[mask])), name
    return None


def outside(fitted: Cells, cells: Cells, c: int = 0) -> Extrapolation:
    """How far target `c` lies outside the fitted cells of its group (or family, or of all)."""
    against, mask = peers(fitted, cells, c)
    params = _decades(float(cells.n_params[c]), fitted.n_params[mask])
    tokens = _decades(float(cells.n_tokens[c]), fitted.n_tokens[mask])
    sparsity = _decades(float(cells.n_params[c] / cells.n_active[c]), (fitted.n_params / fitted.n_active)[mask])
    unseen = tuple(
        name
        for name, value, known in (
            ("source", cells.source[c], fitted.source),
            ("arch", arch_family(cells.arch[c]), [arch_family(a) for a in fitted.arch]),
            ("data", cells.data[c], fitted.data),
        )
        if value not in known
    )
    where = Extrapolation(params, tokens, "inside", against, unseen, sparsity, _decades_apart(cells, c, fitted, mask))
    far = "near" if where.farthest <= NEAR_DECADES else "far"
    return replace(where, verdict=far) if where.farthest else where


def extrapolation(draws: LawDraws, cells: Cells, c: int = 0) -> Extrapolation:
    """As `outside`, of basins: a fitted cell is none at all."""
    where = outside(draws.cells, cells, c)
    return where if draws.matching_cell(cells, c) is None else replace(where, verdict="fitted cell")
