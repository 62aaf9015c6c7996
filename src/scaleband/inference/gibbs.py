"""One round of Gibbs moves for a block of draws, in NumPy: `moves` says what for.

Given the laws, the noise and the trunks' errors, cells have nothing to do with each other, and each is a matter of nine
numbers. A round draws

0. where there are several sources, the scatters of their levels given the levels, the law of levels integrated out
   (`level_scatters`);
1. the laws' coefficients given the states: exactly, a Gaussian (`unpack.coefficients_given_cells`);
2. every cell's state given its law and its runs: Metropolis-Hastings with independent proposals, a Student-t of the
   precision and centre that the law gives with what the runs say, as other draws show it;
3. the intercepts of the laws of angles or of skews, and all states as far as they follow: the same. Where scatters are
   small, states and laws hold each other fast;
4. every trunk's error given its runs: the same, around what their residuals say;
5. each scatter given how far states are from their laws, each scale of offsets given the offsets, and the trunks'
   scale given their errors and the runs that are alone on theirs: random walks;
6. noise (rho, nu, every source's sigma) given the residuals: random walks.

Each leaves the posterior as it is (Tierney 1994, "Markov chains for exploring posterior distributions").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import SHARED, Beliefs, ModelInputs
from scaleband.bayes.beliefs import OWN, SCATTER_NAMES, SHARED_INDEX, role_index
from scaleband.bayes.mode import information
from scaleband.bayes.one_batch import sliced
from scaleband.inference.level_scatters import LevelScatters
from scaleband.inference.log_scales import log_scale_move, own_scale_move
from scaleband.inference.proposal import Proposal, student
from scaleband.inference.unpack import coefficients_given_cells, offset_scales, scatters, scatters_of_cells
from scaleband.laws import (
    ANGLE,
    CURVATURE,
    HYPERPARAMETERS,
    LEVEL,
    RESPONSES,
    ROLES,
    SKEW,
    linex,
    noise_scale,
    run_log_density,
)

Array = NDArray[np.float64]
Values = dict[str, Array]

MOVED = (
    "shared_std", "log_sigma_std", "log_scatter_level_std", "log_scatter_ratio_std", "log_trunk_std", "state",
    "trunk_effect",
)  # fmt: skip
"""What is moved, and what it takes: all that `unpack` needs."""

_NOISE_STEPS = 2

_NOISE = [SHARED_INDEX["log_rho"], SHARED_INDEX["log_nu_minus_1"]]
_SCATTERED = {
    name: [r for r, own in enumerate(SCATTER_NAMES) if own == name] for name in SHARED if name in SCATTER_NAMES
}


def run_terms(state: Array, inputs: ModelInputs, reference: Array | None) -> tuple[Array, Array]:
    """Level and excess of every run, both (..., run).

    state (response, ..., cell); the level of a cell that ran one batch is the loss at the best rate there.
    `reference` (response, cell) is where such cells are sliced (`one_batch.sliced`).
    """
    if inputs.some_one_batch:
        state = sliced(state, inputs.one_batch, reference, inputs.thin)
    level, log_lr, log_batch = (state[r][..., inputs.cell] for r in (LEVEL, 0, 1))
    x, b = inputs.log_lr - log_lr, inputs.log_batch - log_batch
    # `laws.excess`, with sines and exponentials taken per cell: runs are fifty times as many.
    cos, sin, h, skew = np.cos(state[ANGLE]), np.sin(state[ANGLE]), np.exp(state[CURVATURE]), state[SKEW]
    wide = ([v[j][..., inputs.cell] for v in (cos, sin, h, skew)] for j in (0, 1))
    first, second = (linex(c * x + s * b, g, k) for c, s, g, k in wide)
    return level, first + second


@dataclass(frozen=True)
class Target:
    """The posterior that is moved in, and what does not change with a draw.

    `towards` (shared, shared): row k is the move of `shared_std` that raises shared parameter k by one, others held;
    `up` (response, coefficient): the move of a law's coefficients that raises its intercept by one;
    `levels`: for the scatters of several sources' levels.
    """

    inputs: ModelInputs
    beliefs: Beliefs
    reference: Array | None
    design: Array
    prior: Array
    towards: Array
    up: Array
    levels: LevelScatters | None

    @classmethod
    def of(cls, inputs: ModelInputs, beliefs: Beliefs, reference: Array | None) -> Target:
        """For a table and a prior."""
        towards = np.linalg.inv(beliefs.shared_factor).T
        up = np.stack([np.linalg.pinv(factor)[:, 0] for factor in beliefs.law_factor])
        design, levels = inputs.scaled_design(beliefs), None
        if inputs.several_sources:
            levels = LevelScatters.of(design[LEVEL], inputs.cell_source)
        return cls(inputs, beliefs, reference, design, inputs.prior_mean(beliefs), towards, up, levels)

    def law(
        self, at: Values, spread: Array, rng: np.random.Generator, cells: Any = slice(None)
    ) -> tuple[Array, Array]:
        """A draw of the laws' coefficients given the states of `cells`: what it says of every cell (draw, response,
        cell), and the coefficients in units of their prior but for the offset scales (draw, response, coefficient)."""
        out, scale = np.empty_like(at["state"]), offset_scales(at, self.inputs, self.beliefs)
        coefficient = np.empty((*out.shape[:2], self.design.shape[2]))
        left = (at["state"] - self.prior)[..., cells]
        for r in range(len(RESPONSES)):
            columns = self.design[r][None] * (scale[:, r, None, :] if r < len(HYPERPARAMETERS) else 1.0)
            b = coefficients_given_cells(left[:, r], columns[:, cells], spread[:, r, cells], rng)
            out[:, r] = self.prior[r] + (columns @ b[:, :, None])[:, :, 0]
            coefficient[:, r] = b * scale[:, r] if r < len(HYPERPARAMETERS) else b
        return out, coefficient

    def scatter(self, at: Values) -> Array:
        """(draw, response, cell)."""
        return scatters_of_cells(scatters(at, self.beliefs), self.inputs)

    def noise(self, at: Values) -> Array:
        """log rho, log (nu - 1) and every source's log sigma: (draw, 2 + source)."""
        mean, sd, _ = OWN["log_sigma"]
        shared = self.beliefs.shared_mean + at["shared_std"] @ self.beliefs.shared_factor.T
        return np.concatenate([shared[:, _NOISE], mean + sd * at["log_sigma_std"]], axis=1)

    def own_se(self, at: Values) -> Array:
        """`ModelInputs.own_se` of the draws."""
        if not self.inputs.n_trunks:
            return self.inputs.y_se
        mean, sd, _ = OWN["log_trunk"]
        return self.inputs.own_se(np.exp(mean + sd * at["log_trunk_std"]))

    def runs(self, level: Array, away: Array, noise: Array, trunk: Array, se: Array) -> Array:
        """Log density of every run: (draw, run)."""
        i = self.inputs
        rho, nu, sigma = _named(noise)
        return run_log_density(i.y, level + trunk[:, i.trunk], away, sigma[:, i.source], rho, nu, i.censored, se)


def _named(noise: Array) -> tuple[Array, Array, Array]:
    """rho, nu (draw, 1) and sigma (draw, source)."""
    return np.exp(noise[:, :1]), 1 + np.exp(noise[:, 1:2]), np.exp(noise[:, 2:])


def _sums(values: Array, index: NDArray[np.int64], n: int) -> Array:
    """Sums of values (draw, run) over the runs of each of n cells or trunks, the runs sorted by it: (draw, n)."""
    out = np.zeros((len(values), n))
    full, first = np.unique(index, return_index=True)
    if full.size:
        out[:, full] = np.add.reduceat(values, first, axis=1)
    return out


def _scales(at: Values, target: Target, law: Array, coefficient: Array, rng: np.random.Generator) -> None:
    """Move scatters of cells and scales of offsets, in place; `law` and `coefficient` of `Target.law`."""
    n_cells, cell_source = law.shape[2], target.inputs.cell_source
    left = (at["state"] - law) / target.inputs.scatter_share

    def shared_scale(name: str, squares: Array, n: int) -> None:
        k = SHARED_INDEX[name]
        step = target.towards[k]
        x = target.beliefs.shared_mean[k] + at["shared_std"] @ target.beliefs.shared_factor[k]
        moved = log_scale_move(x, squares, n, at["shared_std"] @ step, float(step @ step), rng)
        at["shared_std"] += moved[:, None] * step

    for name, responses in _SCATTERED.items():
        away = left[:, responses]
        if target.inputs.several_sources and responses[0] < len(HYPERPARAMETERS):
            mean, sd, _ = OWN["log_scatter_ratio"]
            away = away * np.exp(-(mean + sd * at["log_scatter_ratio_std"][:, responses][..., cell_source]))
        shared_scale(name, (away**2).sum(axis=(1, 2)), n_cells * len(responses))
    role = role_index(target.inputs.design)
    for h, hyper in enumerate(HYPERPARAMETERS):
        for k, name in enumerate(ROLES[1:]):
            mine = target.beliefs.pooled & (role == k)
            shared_scale(f"log_offset_{name}_{hyper}", (coefficient[:, h, mine] ** 2).sum(axis=1), int(mine.sum()))

    for s in range(at["log_scatter_level_std"].shape[1]):
        mine = cell_source == s
        squares = (left[:, LEVEL, mine] ** 2).sum(axis=1)
        std = at["log_scatter_level_std"][:, s]
        at["log_scatter_level_std"][:, s] = own_scale_move("log_scatter_level", std, squares, int(mine.sum()), rng)
    for h, hyper in enumerate(HYPERPARAMETERS) if target.inputs.several_sources else ():
        std = at["log_scatter_ratio_std"][:, h]  # (draw, source): a view
        k, sd = SHARED_INDEX[f"log_scatter_{hyper}"], OWN["log_scatter_ratio"][1]
        common = np.exp(target.beliefs.shared_mean[k] + at["shared_std"] @ target.beliefs.shared_factor[k])
        for s in range(std.shape[1]):
            mine = cell_source == s
            squares = ((left[:, h, mine] / common[:, None]) ** 2).sum(axis=1)
            std[:, s] = own_scale_move("log_scatter_ratio", std[:, s], squares, int(mine.sum()), rng)
        # What all share, given each source's scatter: that of a source is the product, so this is Gaussian.
        step = target.towards[k]
        precision = step @ step + std.shape[1] / sd**2
        centre = (std.sum(axis=1) / sd - at["shared_std"] @ step) / precision
        moved = centre + rng.standard_normal(len(centre)) / np.sqrt(precision)
        at["shared_std"] += moved[:, None] * step
        std -= moved[:, None] / sd


@dataclass
class Block:
    """Draws that are moved together.

    Attributes
    ----------
    at
        The entries of `MOVED`, (draw, ...).
    proposals, chain (draw,)
        Each chain's proposals of states, and the draws' chains.
    noise_factor (2 + source, 2 + source)
        Cholesky factor of the covariance of noise steps.
    told (draw, run)
        Log density of the runs; with it what it is computed from.
    moved (draw,)
        Share of the cells whose state moved in the last round.
    """

    at: Values
    target: Target
    proposals: Sequence[Proposal]
    chain: NDArray[np.int64]
    noise_factor: Array
    rng: np.random.Generator

    def __post_init__(self) -> None:
        i, n = self.target.inputs, len(self.chain)
        self.trunk = np.zeros((n, i.n_trunks + 1))  # the last is that of runs that share none
        if i.n_trunks:
            self.trunk[:, :-1] = self.at["trunk_effect"]
        self.moved, self.rounds = np.zeros(n), 0
        self.level, self.away = self._terms(self.at["state"])
        self.noise, self.se = self.target.noise(self.at), self.target.own_se(self.at)
        self.told = self.target.runs(self.level, self.away, self.noise, self.trunk, self.se)

    def _terms(self, state: Array) -> tuple[Array, Array]:
        return run_terms(state.transpose(1, 0, 2), self.target.inputs, self.target.reference)

    def round(self) -> None:
        """Move everything once."""
        if self.target.levels is not None:
            name, away = "log_scatter_level_std", self.at["state"][:, LEVEL] - self.target.prior[LEVEL]
            self.at[name] = self.target.levels.moved(self.at[name], away, self.rng)
        spread = self.target.scatter(self.at)
        law, coefficient = self.target.law(self.at, spread, self.rng)
        factor = np.empty((*self.chain.shape, law.shape[2], law.shape[1], law.shape[1]))
        for k in np.unique(self.chain):
            factor[self.chain == k] = self.proposals[k].factor(spread[self.chain == k])
        self._states(law, spread, factor)
        self._shift(law, spread, factor, coefficient, (ANGLE, SKEW)[self.rounds % 2])
        self.rounds += 1
        if self.target.inputs.n_trunks:
            self._trunks()
        _scales(self.at, self.target, law, coefficient, self.rng)
        if self.target.inputs.n_trunks:
            self._trunk_scale()
        for _ in range(_NOISE_STEPS):
            self._noise()

    def _states(self, law: Array, spread: Array, factor: Array) -> None:
        i, old = self.target.inputs, self.at["state"]
        new, ratio = old.copy(), np.empty((len(old), len(i.cells)))
        for k in np.unique(self.chain):
            mine = self.chain == k
            centre = self.proposals[k].centre(factor[mine], law[mine], spread[mine])
            from_centre = np.linalg.solve(factor[mine], (old[mine].transpose(0, 2, 1) - centre)[..., None])[..., 0]
            step, ratio[mine] = student(from_centre, self.rng)
            new[mine] = (centre + (factor[mine] @ step[..., None])[..., 0]).transpose(0, 2, 1)
        level, away = self._terms(new)
        told = self.target.runs(level, away, self.noise, self.trunk, self.se)
        prior = 0.5 * (((old - law) / spread) ** 2 - ((new - law) / spread) ** 2).sum(axis=1)
        gain = _sums(told - self.told, i.cell, len(i.cells)) + prior + ratio
        taken = np.log(self.rng.random(gain.shape)) < gain
        self.at["state"], self.moved = np.where(taken[:, None, :], new, old), taken.mean(axis=1)
        self._take(taken[:, i.cell], level, away, told)

    def _shift(self, law: Array, spread: Array, factor: Array, coefficient: Array, which: slice) -> None:
        """Intercepts of the laws of some responses, and states as far as they follow: all of the way where runs say
        nothing, not at all where they say everything. `law` changes in place; `coefficient` is not needed again.

        With V = (told + p)^-1, a state goes V p times as far as its law, so that it stays as many standard deviations
        from the centre of its proposal. If the runs were as Gaussian as that, the intercepts' own posterior would be
        Gaussian, of precision `own` + sum over cells of told - told V told: this is what is proposed.
        """
        up, old = self.target.up[which], self.at["state"]
        lean, own = np.einsum("drk,rk->dr", coefficient[:, which], up), (up**2).sum(axis=1)
        by, ratio = np.empty(lean.shape), np.empty(len(lean))
        follow = np.empty((len(law), law.shape[2], law.shape[1], len(own)))
        for k in np.unique(self.chain):
            mine, q = self.chain == k, self.proposals[k]
            weight = spread[mine].transpose(0, 2, 1) ** -2.0
            inverse = factor[mine] @ factor[mine].swapaxes(2, 3)
            follow[mine] = (inverse * weight[:, :, None, :])[..., which]
            turned = (q.told @ inverse)[:, :, which]
            away = weight * (old[mine] - law[mine]).transpose(0, 2, 1)
            pull = q.slope - (q.told @ old[mine].transpose(0, 2, 1)[..., None])[..., 0]
            slope = (turned @ away[..., None] + follow[mine].swapaxes(2, 3) @ pull[..., None])[..., 0].sum(axis=1)
            precision = (q.told[:, which, which] - turned @ q.told[:, :, which]).sum(axis=1) + np.diag(own)
            root = np.linalg.inv(np.linalg.cholesky(precision))
            turned_root = root.swapaxes(1, 2)
            centre = (turned_root @ (root @ (slope - lean[mine])[..., None]))[..., 0]
            step, ratio[mine] = student(np.linalg.solve(turned_root, -centre[..., None])[..., 0], self.rng)
            by[mine] = centre + (turned_root @ step[..., None])[..., 0]
        new, moved = old + (follow @ by[:, None, :, None])[..., 0].transpose(0, 2, 1), law.copy()
        moved[:, which] += by[:, :, None]
        level, away = self._terms(new)
        told = self.target.runs(level, away, self.noise, self.trunk, self.se)
        prior = 0.5 * (((old - law) / spread) ** 2 - ((new - moved) / spread) ** 2).sum(axis=(1, 2))
        gain = (told - self.told).sum(axis=1) + prior - (lean * by + 0.5 * own * by**2).sum(axis=1) + ratio
        each = (np.log(self.rng.random(len(gain))) < gain)[:, None]
        self.at["state"], law[:] = np.where(each[..., None], new, old), np.where(each[..., None], moved, law)
        self._take(each, level, away, told)

    def _take(self, taken: NDArray[np.bool_], level: Array, away: Array, told: Array) -> None:
        """What goes with new states, where they are `taken` (draw, run)."""
        self.level, self.away = np.where(taken, level, self.level), np.where(taken, away, self.away)
        self.told = np.where(taken, told, self.told)

    def _trunks(self) -> None:
        i, n = self.target.inputs, self.target.inputs.n_trunks
        mean, sd, _ = OWN["log_trunk"]
        own = np.exp(-2 * (mean + sd * self.at["log_trunk_std"]))[:, None]  # precision
        rho, nu, sigma = _named(self.noise)
        weight = information(nu) / noise_scale(self.away, sigma[:, i.source], rho, self.se) ** 2 * ~i.censored
        order = np.argsort(i.trunk, kind="stable")
        by = i.trunk[order]

        def total(values: Array) -> Array:
            return _sums(values[:, order], by, n + 1)[:, :n]

        precision = total(weight) + own
        centre, old = total(weight * (i.y - self.level - self.away)) / precision, self.trunk[:, :n]
        step, ratio = student(((old - centre) * np.sqrt(precision))[..., None], self.rng)
        new = self.trunk.copy()
        new[:, :n] = centre + step[..., 0] / np.sqrt(precision)
        told = self.target.runs(self.level, self.away, self.noise, new, self.se)
        gain = total(told - self.told) + 0.5 * own * (old**2 - new[:, :n] ** 2) + ratio
        taken = np.log(self.rng.random(gain.shape)) < gain
        taken = np.concatenate([taken, np.zeros((len(taken), 1), bool)], axis=1)
        self.trunk = np.where(taken, new, self.trunk)
        self.at["trunk_effect"] = self.trunk[:, :n]
        self.told = np.where(taken[:, i.trunk], told, self.told)

    def _trunk_scale(self) -> None:
        i, at = self.target.inputs, self.at
        squares, told = (at["trunk_effect"] ** 2).sum(axis=1), dict[str, Any]()
        if i.alone.any():
            rho, nu, sigma = _named(self.noise)
            y, away, mine = (i.y - self.level)[:, i.alone], self.away[:, i.alone], sigma[:, i.source[i.alone]]

            def more(x: Array) -> Array:
                se = np.hypot(i.y_se[i.alone], np.exp(x)[:, None])
                return run_log_density(y, 0.0, away, mine, rho, nu, y_se=se).sum(axis=1)

            told = {"more": more, "n_more": int(i.alone.sum())}
        at["log_trunk_std"] = own_scale_move("log_trunk", at["log_trunk_std"], squares, i.n_trunks, self.rng, **told)
        if told:
            self.se = self.target.own_se(at)
            self.told = self.target.runs(self.level, self.away, self.noise, self.trunk, self.se)

    def _noise(self) -> None:
        m, at = self.rng.standard_normal(self.noise.shape) @ self.noise_factor.T, self.at
        shared = at["shared_std"] + m[:, :2] @ self.target.towards[_NOISE]
        own = at["log_sigma_std"] + m[:, 2:] / OWN["log_sigma"][1]
        told = self.target.runs(self.level, self.away, self.noise + m, self.trunk, self.se)
        prior = 0.5 * ((at["shared_std"] ** 2 - shared**2).sum(1) + (at["log_sigma_std"] ** 2 - own**2).sum(1))
        each = (np.log(self.rng.random(len(m))) < (told - self.told).sum(axis=1) + prior)[:, None]
        at["shared_std"] = np.where(each, shared, at["shared_std"])
        at["log_sigma_std"] = np.where(each, own, at["log_sigma_std"])
        self.noise, self.told = np.where(each, self.noise + m, self.noise), np.where(each, told, self.told)
