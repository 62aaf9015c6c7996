"""Decisions as draws: what is chosen at the target, and the regret of choosing it, one value per posterior draw.

EVSI needs nothing else of a decision than `Decision`: a regret and its slopes at an action that may differ from draw
to draw. The setting of the target's run is one, the size of a model under a compute budget another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.laws import LEVEL, Cells, Ends, LawDraws, ends
from scaleband.laws.basin import away_from_flat, rise_of
from scaleband.predict import Basins

Array = NDArray[np.float64]

WASTED = 3.0
"""Percent of the loss, along one direction of a basin, from which a regret grows in a straight line (see
`setting_decision`). An e-fold of compute buys about as much (`verdict.USUAL_SLOPE`): such a run is mostly wasted."""


class Slopes(NamedTuple):
    """Regret (sample,), its gradient (sample, k) and Hessian (sample, k, k), percent of the loss per unit of action."""

    value: Array
    gradient: Array
    hessian: Array


class Decision(Protocol):
    """Draws of a decision problem.

    Attributes
    ----------
    start (k,)
        An action to begin from, anywhere sensible.
    """

    @property
    def start(self) -> Array:
        """(k,)"""
        ...

    def regret(self, action: Array) -> Array:
        """Percent of the loss above each draw's own best action; action (sample, k) -> (sample,), >= 0."""
        ...

    def slopes(self, action: Array) -> Slopes:
        """The same with gradient and a positive semi-definite Hessian."""
        ...


@dataclass(frozen=True)
class SettingDecision:
    """Choose (log rate, log batch) at one target; natural logs of the ratio to `laws.REFERENCE`.

    Attributes
    ----------
    optimum (sample, 2), angle, curvature, skew (direction, sample)
        The target's basin, draw by draw.
    straight_above
        Percent: where the excess along one direction is higher, it goes on in a straight line. Infinite: never.
    """

    optimum: Array
    angle: Array
    curvature: Array
    skew: Array
    straight_above: float = np.inf

    @property
    def start(self) -> Array:
        """The median optimum, (2,)."""
        return np.median(self.optimum, axis=0)

    @cached_property
    def _walls(self) -> tuple[tuple[Array, Array, Array, Array], ...]:
        """Cosine and sine of each direction, curvature over skew, skew: none of it depends on the action."""
        skew = away_from_flat(self.skew)
        return tuple(
            (np.cos(self.angle[j]), np.sin(self.angle[j]), self.curvature[j] / skew[j], skew[j]) for j in (0, 1)
        )

    @cached_property
    def _ends(self) -> Ends:
        """Where the excess along each direction is `straight_above`: (direction, sample)."""
        return ends(self.straight_above, self.curvature, self.skew)

    def _rises(self, action: Array) -> tuple[tuple[Array, Array, Array], ...]:
        """exp(s v) - 1, s v, and how far beyond its end v goes, of each direction; v is cut at the ends."""
        # Beyond e^12 nothing is a setting any more; a Newton step that overshoots must not overflow.
        dx, db = np.clip(action - self.optimum, -12.0, 12.0).T
        out = []
        for j, (cos, sin, _, skew) in enumerate(self._walls):
            v = cos * dx + sin * db
            inside = np.clip(v, self._ends.below[j], self._ends.above[j]) if np.isfinite(self.straight_above) else v
            out.append((*rise_of(skew, inside), v - inside))
        return tuple(out)

    def regret(self, action: Array) -> Array:
        """See `Decision`. As `laws.excess`, without its branches: this is where a proposal's time goes."""
        return sum(  # type: ignore[return-value]
            k / skew * (rise - a) + k * rise * beyond
            for (_, _, k, skew), (rise, a, beyond) in zip(self._walls, self._rises(action), strict=True)
        )

    def slopes(self, action: Array) -> Slopes:
        """See `Decision`."""
        value: Array | float = 0.0
        gradient = np.zeros_like(self.optimum)
        hessian = np.zeros((len(self.optimum), 2, 2))
        for (cos, sin, k, skew), (rise, a, beyond) in zip(self._walls, self._rises(action), strict=True):
            value = value + k / skew * (rise - a) + k * rise * beyond
            first, second = k * rise, np.where(beyond == 0, k * skew * (rise + 1), 0.0)
            gradient[:, 0] += cos * first
            gradient[:, 1] += sin * first
            hessian[:, 0, 0] += cos * cos * second
            hessian[:, 0, 1] += cos * sin * second
            hessian[:, 1, 1] += sin * sin * second
        hessian[:, 1, 0] = hessian[:, 0, 1]
        return Slopes(np.asarray(value), gradient, hessian)


def setting_decision(b: Basins, t: int = 0, *, straight_above: float = WASTED) -> SettingDecision:
    """The setting at target `t` of `predict.basins`.

    Walls are exponential, so the mean regret of a wide posterior is made by a few draws that are far up a wall: no
    estimate of EVSI from some hundred draws is worth anything then, and what those draws would lose is one run all the
    same. Above `straight_above` percent a direction's regret therefore grows in a straight line, which keeps it convex;
    where the posterior is narrower than that, nothing changes. `predict.recommend` does the same much higher, where a
    run is lost; the level here is what estimates of EVSI were settled with.
    """
    return SettingDecision(
        optimum=b.optimum[:, :, t],
        angle=b.angle[:, :, t].T,
        curvature=b.curvature[:, :, t].T,
        skew=b.skew[:, :, t].T,
        straight_above=straight_above,
    )


@dataclass(frozen=True)
class CurveDecision:
    """Choose one number whose regret is known as curves over a grid: log n_params under a compute budget, say.

    Attributes
    ----------
    grid (point,)
        Actions, increasing and evenly spaced.
    curve (sample, point)
        Regret of each draw on the grid, percent of the loss; between points a parabola.
    """

    grid: Array
    curve: Array

    @property
    def start(self) -> Array:
        """The action of least average regret on the grid, (1,)."""
        return self.grid[[int(self.curve.mean(0).argmin())]]

    def regret(self, action: Array) -> Array:
        """See `Decision`."""
        return self.slopes(action).value

    def slopes(self, action: Array) -> Slopes:
        """See `Decision`. Outside the grid the end's slope goes on."""
        step = self.grid[1] - self.grid[0]
        # At least flat everywhere: the draws' curves may bend the wrong way far from their minimum.
        bend = np.maximum(np.diff(self.curve, 2, axis=1), 1e-9) / step**2
        at = action[:, 0]
        k = np.clip(np.round((at - self.grid[0]) / step).astype(int), 1, len(self.grid) - 2)
        row = np.arange(len(at))
        slope = (self.curve[row, k + 1] - self.curve[row, k - 1]) / (2 * step)
        second = bend[row, k - 1]
        d = np.clip(at - self.grid[k], -step, step)
        end = slope + second * d
        value = self.curve[row, k] + slope * d + 0.5 * second * d * d + end * (at - self.grid[k] - d)
        return Slopes(np.maximum(value, 0.0), end[:, None], second[:, None, None])


def allocation_decision(log_n_params: Array, log_loss: Array) -> CurveDecision:
    """Choose n_params (and with it n_tokens) for a FLOP budget, from draws of the loss along the isoFLOP line.

    Parameters
    ----------
    log_n_params (point,)
        Natural logs, increasing and evenly spaced; n_tokens follows from the budget.
    log_loss (sample, point)
        Draws of 100 log loss at those sizes under any loss law.

    Raises
    ------
    UserError
        Fewer than five sizes, or sizes that are not evenly spaced in log.
    """
    grid = np.asarray(log_n_params, float)
    steps = np.diff(grid)
    if len(grid) < 5 or not (steps > 0).all() or np.ptp(steps) > 1e-6 * steps.mean():
        raise UserError("an allocation needs at least five sizes, evenly spaced in log; use np.linspace over log sizes")
    loss = np.asarray(log_loss, float)
    # The minimum of the parabola through the best grid point, so that no regret is below zero.
    k = np.clip(loss.argmin(1), 1, len(grid) - 2)
    row = np.arange(len(loss))
    left, middle, right = loss[row, k - 1], loss[row, k], loss[row, k + 1]
    bend = np.maximum(left - 2 * middle + right, 1e-9)
    shift = np.clip(0.5 * (left - right) / bend, -1, 1)
    lowest = middle + 0.5 * (right - left) * shift + 0.5 * bend * shift**2
    return CurveDecision(grid, loss - np.minimum(lowest, loss.min(1))[:, None])


def allocation_from_levels(draws: LawDraws, cells: Cells) -> CurveDecision:
    """The allocation under the fit's own law of the cells' levels, a quadratic in logs: near its cells only.

    Any other loss law gives draws of 100 log loss at the same sizes to `allocation_decision`. Outcomes at candidates
    and this decision must come from the same draws.

    Parameters
    ----------
    draws
        A fit; draws in step with those of the outcomes.
    cells
        The isoFLOP line: one group, sizes evenly spaced in log, tokens to match the budget. Cell effects are left
        out: the size is chosen before its luck is known.
    """
    level = np.einsum("sk,tk->st", draws.law[:, LEVEL], draws.design.matrix(cells))
    return allocation_decision(np.log(cells.n_params), level)
