"""Moves after NUTS: every draw goes on by a few rounds of Gibbs sampling, all draws at once, in NumPy.

NUTS is slow where one cell has two modes (its far wall fits the runs in two ways) and for scales that few cells teach,
and the worst of a few hundred numbers decides how long it must run. But given the laws, the noise and the trunks'
errors, cells have nothing to do with each other, and each is a matter of nine numbers. A round draws

1. the laws' coefficients given the states: exactly, a Gaussian (`unpack.coefficients_given_cells`);
2. every cell's state given its law and its runs: Metropolis-Hastings with independent proposals, a Student-t of the
   precision and centre that the law gives with what the runs say, as the draws of the *other chains* show it;
3. each scatter given how far states are from their laws, and the trunks' scale given their errors: random walks;
4. noise (rho, nu, every source's sigma) given the residuals: random walks.

Each of these leaves the posterior as it is (Tierney 1994), so draws of it stay draws of it; what they forget is their
neighbours. Errors of trunks and scales of offsets stay where NUTS left them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from scaleband.bayes import SHARED, Beliefs, ModelInputs
from scaleband.bayes.beliefs import OWN
from scaleband.bayes.mode import sliced
from scaleband.inference.unpack import coefficients_given_cells, offset_scales, scatters
from scaleband.laws import ANGLE, CURVATURE, HYPERPARAMETERS, LEVEL, RESPONSES, SKEW, excess, run_log_density

Array = NDArray[np.float64]
Values = dict[str, Array]

_BLOCK = 128
"""Draws that are moved together: enough for NumPy, few enough for the cache."""

_FREEDOM = 12.0
"""Of the Student-t proposals: four to six of ten are accepted on Step Law's cells, as with 8 or 20."""

_AS_PRIOR = 20.0
"""Draws' worth of no correlation in what proposals are fitted to."""

_FEWEST = 10
"""Draws of the other chains to fit proposals to; with fewer nothing is moved."""

MOVED = ("shared_std", "log_sigma_std", "log_scatter_level_std", "log_trunk_std", "state", "trunk_effect")
"""What is moved, and what it takes: all that `unpack` needs."""

_SCALE_STEPS = 8
_NOISE_STEPS = 2

SHARED_INDEX = {name: k for k, name in enumerate(SHARED)}
_SCATTERED = {
    f"log_scatter_{name}": [r for r, response in enumerate(RESPONSES) if response in (name, f"{name}_1", f"{name}_2")]
    for name in ("log_lr", "log_batch", "log_curvature_1", "log_curvature_2", "angle", "skew")
}


def run_terms(state: Array, inputs: ModelInputs, reference: Array | None) -> tuple[Array, Array]:
    """Level and excess of every run, both (..., run).

    state (response, ..., cell); the level of a cell that ran one batch is the loss at the best rate there.
    `reference` (response, cell) is where such cells are sliced (`mode.sliced`).
    """
    if inputs.some_one_batch:
        state = sliced(state, inputs.one_batch, reference)
    own = state[..., inputs.cell]
    away = inputs.log_lr - own[0], inputs.log_batch - own[1]
    return own[LEVEL], excess(*away, own[ANGLE], np.exp(own[CURVATURE]), own[SKEW])


@dataclass(frozen=True)
class _Proposal:
    """What the draws show that runs say of every cell, as a Gaussian: precision `told` (cell, response, response) and
    `slope` (cell, response), so that with a law of precision p a state is N((told + p)^-1 (slope + p law), ...)."""

    told: Array
    slope: Array

    def given(self, law: Array, spread: Array) -> tuple[Array, Array]:
        """Centre (draw, cell, response) and Cholesky factor of the precision (draw, cell, response, response) for laws
        and scatters (draw, response, cell)."""
        weight = spread.transpose(0, 2, 1) ** -2.0
        factor = np.linalg.cholesky(self.told + weight[..., None] * np.eye(weight.shape[2]))
        inverse = np.linalg.inv(factor)
        right = inverse @ (self.slope + weight * law.transpose(0, 2, 1))[..., None]
        return (inverse.swapaxes(2, 3) @ right)[..., 0], inverse.swapaxes(2, 3)


def _proposal(state: Array, law: Array, spread: Array) -> _Proposal:
    """From draws of states, laws and scatters (draw, response, cell)."""
    n, weight = len(state), spread**-2.0
    # The precision that a state has given its law (by regression), less what the law itself adds to that.
    x, y = ((v - v.mean(0)).transpose(2, 0, 1) for v in (law, state))
    unit = x.std(axis=1, keepdims=True) + 1e-9
    x = x / unit
    turned, eye = x.transpose(0, 2, 1), np.eye(x.shape[2])
    left = y - x @ np.linalg.solve(turned @ x + _AS_PRIOR * eye, turned @ y)
    squares = left.transpose(0, 2, 1) @ left
    own = np.einsum("crr->cr", squares)[:, :, None] / n + 1e-12
    precision = np.linalg.inv((squares + _AS_PRIOR * own * eye) / (n + _AS_PRIOR))
    mean_weight = weight.mean(0).T
    root = np.sqrt(mean_weight)
    scaled = precision / (root[:, :, None] * root[:, None, :]) - eye
    values, vectors = np.linalg.eigh(scaled)
    scaled = (vectors * np.maximum(values, 0.0)[:, None, :]) @ vectors.transpose(0, 2, 1)
    told = scaled * root[:, :, None] * root[:, None, :]
    slope = np.einsum("crs,sc->cr", told, state.mean(0)) + (weight * (state - law)).mean(0).T
    return _Proposal(told, slope)


def _student_density(standard: Array) -> Array:
    """Log density of (draw, cell, response), up to a constant."""
    n = standard.shape[-1]
    return -(_FREEDOM + n) / 2 * np.log1p((standard**2).sum(axis=-1) / _FREEDOM)


def _log_scale_move(x: Array, squares: Array, n: int, lean: Array, own: float, rng: np.random.Generator) -> Array:
    """How far log scales `x` (draw,) move, given the sum of `n` squares that have this scale.

    The prior is normal: moving by m changes its log density by -(lean m + own m^2 / 2).
    """

    def density(m: Array) -> Array:
        return -n * (x + m) - 0.5 * squares * np.exp(-2 * (x + m)) - lean * m - 0.5 * own * m * m

    moved = np.zeros_like(x)
    now = density(moved)
    for _ in range(_SCALE_STEPS):
        trial = moved + 2.4 / np.sqrt(2 * n + own) * rng.standard_normal(x.shape)
        then = density(trial)
        taken = np.log(rng.random(x.shape)) < then - now
        moved, now = np.where(taken, trial, moved), np.where(taken, then, now)
    return moved


@dataclass(frozen=True)
class _Target:
    """The posterior that is moved in, and what does not change with a draw.

    `towards` (shared, shared): row k is the move of `shared_std` that raises shared parameter k by one, others held.
    """

    inputs: ModelInputs
    beliefs: Beliefs
    reference: Array | None
    design: Array
    prior: Array
    towards: Array

    def law(self, at: Values, spread: Array, rng: np.random.Generator) -> Array:
        """What a draw of the laws' coefficients says of every cell: (draw, response, cell)."""
        out, scale = np.empty_like(at["state"]), offset_scales(at, self.inputs, self.beliefs)
        for r in range(len(RESPONSES)):
            columns = self.design[r][None] * (scale[:, r, None, :] if r < len(HYPERPARAMETERS) else 1.0)
            b = coefficients_given_cells(at["state"][:, r] - self.prior[r], columns, spread[:, r], rng)
            out[:, r] = self.prior[r] + (columns @ b[:, :, None])[:, :, 0]
        return out

    def scatter(self, at: Values) -> Array:
        """(draw, response, cell)."""
        spread, level = scatters(at, self.beliefs)
        out = np.repeat(spread[:, :, None], len(self.inputs.cells), axis=2)
        out[:, LEVEL] = level[:, self.inputs.cell_source]
        return out

    def noise(self, at: Values) -> Array:
        """log rho, log (nu - 1) and every source's log sigma: (draw, 2 + source)."""
        mean, sd, _ = OWN["log_sigma"]
        shared = self.beliefs.shared_mean + at["shared_std"] @ self.beliefs.shared_factor.T
        names = [SHARED_INDEX["log_rho"], SHARED_INDEX["log_nu_minus_1"]]
        return np.concatenate([shared[:, names], mean + sd * at["log_sigma_std"]], axis=1)

    def runs(self, level: Array, away: Array, noise: Array, trunk: Array | None) -> Array:
        """Log density of every cell's runs: (draw, cell)."""
        i = self.inputs
        base = level if trunk is None else level + trunk[:, i.trunk]
        rho, nu, sigma = np.exp(noise[:, :1]), 1 + np.exp(noise[:, 1:2]), np.exp(noise[:, 2:])
        density = run_log_density(i.y, base, away, sigma[:, i.source], rho, nu, i.censored, i.y_se)
        first = np.searchsorted(i.cell, np.arange(len(i.cells)))
        full = np.diff(np.append(first, len(i.y))) > 0
        out = np.zeros((len(density), len(i.cells)))
        if full.any():
            out[:, full] = np.add.reduceat(density, first[full], axis=1)
        return out


def _move_scales(at: Values, target: _Target, law: Array, rng: np.random.Generator) -> None:
    """Scatters of cells and the scale of trunks, in place."""
    left, n_cells = at["state"] - law, law.shape[2]
    for name, responses in _SCATTERED.items():
        k = SHARED_INDEX[name]
        step = target.towards[k]
        x = target.beliefs.shared_mean[k] + at["shared_std"] @ target.beliefs.shared_factor[k]
        squares = (left[:, responses] ** 2).sum(axis=(1, 2))
        lean, own = at["shared_std"] @ step, float(step @ step)
        at["shared_std"] += _log_scale_move(x, squares, n_cells * len(responses), lean, own, rng)[:, None] * step

    def own_scale(name: str, std: Array, squares: Array, n: int) -> Array:
        mean, sd, _ = OWN[name]
        return std + _log_scale_move(mean + sd * std, squares, n, std / sd, sd**-2.0, rng) / sd

    for s in range(at["log_scatter_level_std"].shape[1]):
        mine = target.inputs.cell_source == s
        squares = (left[:, LEVEL, mine] ** 2).sum(axis=1)
        std = at["log_scatter_level_std"][:, s]
        at["log_scatter_level_std"][:, s] = own_scale("log_scatter_level", std, squares, int(mine.sum()))
    if "trunk_effect" in at:
        squares, n = (at["trunk_effect"] ** 2).sum(axis=1), at["trunk_effect"].shape[1]
        at["log_trunk_std"] = own_scale("log_trunk", at["log_trunk_std"], squares, n)


def _move_block(
    at: Values, target: _Target, proposals: list[_Proposal], chain: NDArray[np.int64], noise_factor: Array,
    rounds: int, rng: np.random.Generator,
) -> tuple[Values, Array]:  # fmt: skip
    """`at` after so many rounds, and the share of cells that moved, by draw."""
    n, moved = len(chain), np.zeros(len(chain))
    none = np.zeros((n, 1))
    trunk = np.concatenate([at["trunk_effect"], none], axis=1) if "trunk_effect" in at else None
    level, away = run_terms(at["state"].transpose(1, 0, 2), target.inputs, target.reference)
    noise = target.noise(at)
    told = target.runs(level, away, noise, trunk)
    step = target.towards[[SHARED_INDEX["log_rho"], SHARED_INDEX["log_nu_minus_1"]]]
    for _ in range(rounds):
        spread = target.scatter(at)
        law = target.law(at, spread, rng)
        state, ratio = at["state"].copy(), np.empty_like(told)
        for k in np.unique(chain):
            mine = chain == k
            centre, factor = proposals[k].given(law[mine], spread[mine])
            away_from = at["state"][mine].transpose(0, 2, 1) - centre
            old = np.linalg.solve(factor, away_from[..., None])[..., 0]
            new = rng.standard_normal(old.shape) * np.sqrt(_FREEDOM / rng.chisquare(_FREEDOM, (*old.shape[:2], 1)))
            state[mine] = (centre + (factor @ new[..., None])[..., 0]).transpose(0, 2, 1)
            ratio[mine] = _student_density(old) - _student_density(new)
        new_level, new_away = run_terms(state.transpose(1, 0, 2), target.inputs, target.reference)
        new_told = target.runs(new_level, new_away, noise, trunk)
        prior = 0.5 * (((at["state"] - law) / spread) ** 2 - ((state - law) / spread) ** 2).sum(axis=1)
        taken = np.log(rng.random(told.shape)) < new_told - told + prior + ratio
        at["state"], told = np.where(taken[:, None, :], state, at["state"]), np.where(taken, new_told, told)
        by_run = taken[:, target.inputs.cell]
        level, away = np.where(by_run, new_level, level), np.where(by_run, new_away, away)
        moved += taken.mean(axis=1) / rounds

        _move_scales(at, target, law, rng)
        for _ in range(_NOISE_STEPS):
            m = rng.standard_normal(noise.shape) @ noise_factor.T
            shared, own = at["shared_std"] + m[:, :2] @ step, at["log_sigma_std"] + m[:, 2:] / OWN["log_sigma"][1]
            new_told = target.runs(level, away, noise + m, trunk)
            prior = 0.5 * (at["shared_std"] ** 2 - shared**2).sum(1) + 0.5 * (at["log_sigma_std"] ** 2 - own**2).sum(1)
            taken = np.log(rng.random(n)) < (new_told - told).sum(axis=1) + prior
            each = taken[:, None]
            at["shared_std"] = np.where(each, shared, at["shared_std"])
            at["log_sigma_std"] = np.where(each, own, at["log_sigma_std"])
            noise, told = np.where(each, noise + m, noise), np.where(each, new_told, told)
    return at, moved



def move(
    values: Values,
    inputs: ModelInputs,
    beliefs: Beliefs,
    *,
    reference: Array | None,
    rounds: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Values, Array]:
    """Draws after so many rounds of moves.

    Parameters
    ----------
    values
        Free variables and `state`, as `sampler.sample` has them: (chain, draw, ...).
    inputs, beliefs
        What they are draws of.
    reference (response, cell)
        Where cells with one batch are sliced (`bayes.coordinates`); None if there are none.
    rounds, seed
        How often everything is moved.
    progress
        Called with (blocks done, blocks in all).

    Returns
    -------
    The same names, and the share of a draw's cells that moved in a round (chain, draw): zero where nothing was moved
    because there are fewer than ten draws to fit proposals to, or draws that are not finite.
    """
    kept = {name: values[name] for name in MOVED if name in values}
    n_chains, n_draws = kept["state"].shape[:2]
    rest = max(n_chains - 1, 1) * n_draws
    if not rounds or rest < _FEWEST or not all(np.isfinite(v).all() for v in kept.values()):
        return kept, np.zeros((n_chains, n_draws))
    flat = {name: np.ascontiguousarray(v.reshape(-1, *v.shape[2:])) for name, v in kept.items()}
    towards = np.linalg.inv(beliefs.shared_factor).T
    target = _Target(inputs, beliefs, reference, inputs.scaled_design(beliefs), inputs.prior_mean(beliefs), towards)
    chain = np.repeat(np.arange(n_chains), n_draws)
    blocks = [slice(k, min(k + _BLOCK, len(chain))) for k in range(0, len(chain), _BLOCK)]

    def of(block: slice) -> Values:
        return {name: v[block].copy() for name, v in flat.items()}

    def law(k: int) -> Array:
        at = of(blocks[k])
        return target.law(at, target.scatter(at), np.random.default_rng([seed, 10, k]))

    def fitted(mine: NDArray[np.bool_]) -> _Proposal:
        return _proposal(flat["state"][mine], laws[mine], target.scatter({name: v[mine] for name, v in flat.items()}))

    def moved(k: int) -> tuple[Values, Array]:
        rng = np.random.default_rng([seed, 11, k])
        return _move_block(of(blocks[k]), target, proposals, chain[blocks[k]], noise_factor, rounds, rng)

    done: list[tuple[Values, Array]] = [({}, np.zeros(0))] * len(blocks)
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        laws = np.concatenate(list(pool.map(law, range(len(blocks)))))
        others = [(chain != k) | (n_chains == 1) for k in range(n_chains)]
        proposals = list(pool.map(fitted, others))
        noise = target.noise(flat)
        noise_factor = 2.2 / np.sqrt(noise.shape[1]) * np.linalg.cholesky(
            np.cov(noise.T) + 1e-9 * np.eye(noise.shape[1])
        )
        futures = {pool.submit(moved, k): k for k in range(len(blocks))}
        try:
            for count, future in enumerate(as_completed(futures)):
                done[futures[future]] = future.result()
                if progress is not None:
                    progress(count + 1, len(blocks))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    back = {name: np.concatenate([values[name] for values, _ in done]) for name in flat}
    share = np.concatenate([share for _, share in done])
    shape = (n_chains, n_draws)
    return {name: v.reshape(*shape, *v.shape[1:]) for name, v in back.items()}, share.reshape(shape)
