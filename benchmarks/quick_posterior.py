"""A posterior in a second instead of a minute: for replays that refit thousands of times. Never for an answer.

The model is `scaleband.bayes.model` (trunk effects left out). Given the shared parameters (noise, scatters, offset
scales) the cells' states have a Gaussian prior (the law integrated out) and their runs pin them nearly linearly, so the
states are taken as Gaussian around their joint mode (Gauss-Newton with the Student-t's weights): Laplace inside. The
shared parameters are a few dozen particles, reweighted by the Laplace marginal likelihood of the new runs and moved by
prior-preserving random walks (pCN): sequential Monte Carlo outside. `check_quick_posterior.py` holds it against NUTS:
optima agree to a fifth of their standard deviation, the noise only to a factor of two (few particles, few moves).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import gammaln

from scaleband.bayes import SHARED, Beliefs, ModelInputs
from scaleband.bayes.beliefs import OWN, fixed_offset_scales, offsets_in_use, role_index
from scaleband.laws import ANGLE, CURVATURE, HYPERPARAMETERS, RESPONSES, ROLES, SKEW, SPONTANEOUS, LawDraws

R = len(RESPONSES)
_INDEX = {name: k for k, name in enumerate(SHARED)}
_N_ROLES = len(ROLES) - 1


@dataclass
class Particles:
    """Shared parameters as standard normals (particle, parameter), and what the last runs said of them.

    The parameters: those of `SHARED`, then log sigma of each source, then log scatter of the level.
    """

    std: np.ndarray
    log_weight: np.ndarray
    evidence: np.ndarray
    mode: dict[tuple, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    """Shared parameters by name, first dim particle."""

    shared: np.ndarray
    rho: np.ndarray
    nu: np.ndarray
    sigma: np.ndarray
    scatter: np.ndarray
    offset: np.ndarray


def start_particles(n: int, n_sources: int, seed: int) -> Particles:
    """Particles from the prior."""
    std = np.random.default_rng([seed, 21]).standard_normal((n, len(SHARED) + n_sources + 1))
    return Particles(std, np.zeros(n), np.zeros(n))


def named(std: np.ndarray, beliefs: Beliefs) -> Named:
    """From standard normals to the parameters."""
    k = len(SHARED)
    shared = beliefs.shared_mean + std[:, :k] @ beliefs.shared_factor.T
    mean, sd, _ = OWN["log_sigma"]
    sigma = np.exp(mean + sd * std[:, k:-1])
    mean, sd, _ = OWN["log_scatter_level"]
    level = np.exp(mean + sd * std[:, -1])
    begin = _INDEX["log_scatter_log_lr"]
    basic = np.exp(shared[:, begin : begin + 4])
    angle, skew = (np.exp(shared[:, _INDEX[f"log_scatter_{n}"]]) for n in ("angle", "skew"))
    scatter = np.column_stack([basic, level, angle, angle, skew, skew])
    begin = _INDEX["log_offset_source_log_lr"]
    offset = np.exp(shared[:, begin : begin + 2 * _N_ROLES]).reshape(-1, 2, _N_ROLES)
    nu = 1 + np.exp(shared[:, _INDEX["log_nu_minus_1"]])
    return Named(shared, np.exp(shared[:, _INDEX["log_rho"]]), nu, sigma, scatter, offset)


@dataclass(frozen=True)
class Laplace:
    """Mode (particle, response * cell), precision, and log evidence (particle,)."""

    mode: np.ndarray
    precision: np.ndarray
    evidence: np.ndarray


def _jacobian(z: np.ndarray, i: ModelInputs) -> tuple[np.ndarray, np.ndarray]:
    """Excess (particle, row) and its derivative in the nine responses (particle, row, 9)."""
    own = z[:, :, i.cell]
    dx, db = i.log_lr - own[:, 0], i.log_batch - own[:, 1]
    total = np.zeros_like(dx)
    jac = np.zeros((*dx.shape, R))
    jac[..., 4] = 1.0
    for j in (0, 1):
        angle, h, s = own[:, 5 + j], np.exp(np.clip(own[:, 2 + j], -8, 8)), own[:, 7 + j]
        s = np.where(np.abs(s) < 1e-4, 1e-4, s)
        cos, sin = np.cos(angle), np.sin(angle)
        v = cos * dx + sin * db
        a = np.clip(s * v, -40.0, 40.0)
        rise = np.expm1(a)
        e = h / s**2 * (rise - a)
        slope = h / s * rise
        total += e
        jac[..., 0] -= slope * cos
        jac[..., 1] -= slope * sin
        jac[..., 2 + j] = e
        jac[..., 5 + j] = slope * (-sin * dx + cos * db)
        jac[..., 7 + j] = h / s**3 * (a * (rise + 1) - 2 * rise + a)
    return total, jac


def laplace(inputs: ModelInputs, beliefs: Beliefs, p: Named, start: np.ndarray, *, steps: int = 30) -> Laplace:
    """Joint mode of all cells' states for every particle; start (particle, response, cell)."""
    n, c = len(p.rho), len(inputs.cells)
    design, mean = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs)
    scale = np.ones((n, R, design.shape[2]))
    scale[:, :2] = np.where(beliefs.pooled, p.offset[:, :, role_index(inputs.design)], 1.0)
    w = design * scale[:, :, None, :]
    law = w @ w.transpose(0, 1, 3, 2) + p.scatter[:, :, None, None] ** 2 * np.eye(c)
    chol = np.linalg.cholesky(law)
    law_inverse = np.linalg.inv(law)
    law_log_det = 2 * np.log(np.diagonal(chol, axis1=2, axis2=3)).sum((1, 2))
    first = np.flatnonzero(np.diff(inputs.cell, prepend=-1))
    seen = inputs.cell[first]
    sigma, rho, nu = p.sigma[:, inputs.source], p.rho[:, None], p.nu[:, None]
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi)

    def parts(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Log posterior, its slope, Gauss-Newton precision with the residuals' weights, and with Fisher's."""
        e, jac = _jacobian(z, inputs)
        base = z[:, 4][:, inputs.cell]
        at = np.where(inputs.censored, inputs.y - base, e)
        s2 = sigma**2 + inputs.y_se**2 + (rho * at) ** 2
        s = np.sqrt(s2)
        u = (inputs.y - base - e) / s
        density = constant - np.log(s) - (nu + 1) / 2 * np.log1p(u * u / nu)
        below = 1 / (1 + np.exp(np.clip(u, -60, 60)))
        reach = SPONTANEOUS + (1 - SPONTANEOUS) * below
        pull_censored = (1 - SPONTANEOUS) * below * (1 - below) / reach / s
        weight = (nu + 1) / (nu + u * u) / s2
        pull = np.where(inputs.censored, pull_censored, weight * u * s)
        weight = np.where(inputs.censored, pull_censored**2, weight)
        fisher = np.where(inputs.censored, pull_censored**2, (nu + 1) / (nu + 3) / s2)
        away = z - mean
        tug = np.einsum("nrcd,nrd->nrc", law_inverse, away)
        value = np.where(inputs.censored, np.log(reach), density).sum(1) - 0.5 * (tug * away).sum((1, 2))
        slope = -tug
        np.add.at(slope.transpose(2, 0, 1), seen, np.add.reduceat(
            (pull[..., None] * jac), first, axis=1).transpose(1, 0, 2))  # fmt: skip
        out = []
        for each in (weight, fisher):
            block = np.add.reduceat((each[..., None] * jac)[..., :, None] * jac[..., None, :], first, axis=1)
            precision = np.zeros((n, R, c, R, c))
            for r in range(R):
                precision[:, r, :, r, :] = law_inverse[:, r]
            for k, cell in enumerate(seen):
                precision[:, :, cell, :, cell] += block[:, k]
            out.append(precision.reshape(n, R * c, R * c))
        return value, slope.reshape(n, -1), out[0], out[1]

    z = start
    value, slope, precision, fisher = parts(z)
    for _ in range(steps):
        step = np.linalg.solve(precision, slope[:, :, None])[:, :, 0].reshape(n, R, c)
        step = np.clip(step, -1.0, 1.0) if steps > 1 else step
        step[:, 4] = np.linalg.solve(precision, slope[:, :, None])[:, :, 0].reshape(n, R, c)[:, 4]
        size = np.ones(n)
        for _ in range(8):
            trial = z + size[:, None, None] * step
            new = parts(trial)
            worse = ~(new[0] > value - 1e-9)
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        better = ~worse
        gain = np.where(better, new[0] - value, 0.0)
        pick = better[:, None, None]
        z = np.where(pick, trial, z)
        value = np.where(better, new[0], value)
        slope = np.where(better[:, None], new[1], slope)
        precision, fisher = np.where(pick, new[2], precision), np.where(pick, new[3], fisher)
        if gain.max() < 0.02:
            break
    _, log_det = np.linalg.slogdet(fisher)
    return Laplace(z.reshape(n, -1), fisher, value - 0.5 * law_log_det - 0.5 * log_det)


def _start(inputs: ModelInputs, beliefs: Beliefs, particles: Particles) -> np.ndarray:
    """Where the search begins: a cell's last mode, else its law's mean at its best runs."""
    n, c = len(particles.std), len(inputs.cells)
    z = np.empty((n, R, c))
    mean = inputs.prior_mean(beliefs)
    for k in range(c):
        key = cell_key(inputs, k)
        if key in particles.mode:
            z[:, :, k] = particles.mode[key]
        else:
            z[:, :, k] = mean[:, k]
            z[:, 4, k] = inputs.best[k, 2] - 0.1
            # From the wall of a far-off prior mean there is no way down: begin between it and the best run.
            z[:, :2, k] = 0.5 * (mean[:2, k] + inputs.best[k, :2])
    return z


def cell_key(inputs: ModelInputs, k: int) -> tuple:
    """What names a cell from one refit to the next."""
    own = inputs.cells
    return own.source[k], own.arch[k], own.data[k], f"{own.n_params[k]:.4g}", f"{own.n_tokens[k]:.3g}"


def update(
    particles: Particles, inputs: ModelInputs, beliefs: Beliefs, rng: np.random.Generator, *, moves: int = 2
) -> Laplace:
    """Take in the runs of `inputs` (all so far): reweight, resample, move. Changes `particles`."""
    state = laplace(inputs, beliefs, named(particles.std, beliefs), _start(inputs, beliefs, particles))
    log_weight = particles.log_weight + state.evidence - particles.evidence
    n, c = len(log_weight), len(inputs.cells)
    particles.evidence, particles.log_weight = state.evidence, log_weight - log_weight.max()
    weight = np.exp(particles.log_weight)
    weight /= weight.sum()
    if 1 / (weight**2).sum() < n / 2:
        at = np.searchsorted(np.cumsum(weight), (np.arange(n) + rng.random()) / n).clip(0, n - 1)
        particles.std, particles.evidence = particles.std[at], state.evidence[at]
        particles.log_weight = np.zeros(n)
        state = Laplace(state.mode[at], state.precision[at], state.evidence[at])
        for k in range(moves):
            beta = (0.5, 0.25)[k % 2]
            trial = np.sqrt(1 - beta**2) * particles.std + beta * rng.standard_normal(particles.std.shape)
            new = laplace(inputs, beliefs, named(trial, beliefs), state.mode.reshape(n, R, c), steps=8)
            yes = np.log(rng.random(n)) < new.evidence - state.evidence
            particles.std = np.where(yes[:, None], trial, particles.std)
            state = Laplace(
                np.where(yes[:, None], new.mode, state.mode),
                np.where(yes[:, None, None], new.precision, state.precision),
                np.where(yes, new.evidence, state.evidence),
            )
        particles.evidence = state.evidence
    modes = state.mode.reshape(n, R, c)
    # A common start for all particles: resampling would shuffle them otherwise.
    particles.mode = {cell_key(inputs, k): modes[:, :, k].mean(0) for k in range(c)}
    return state


def draws_of(
    particles: Particles, state: Laplace, inputs: ModelInputs, beliefs: Beliefs, n: int, rng: np.random.Generator
) -> LawDraws:
    """Draws of the laws from the particles and their Laplace states."""
    weight = np.exp(particles.log_weight)
    weight /= weight.sum()
    count = np.diff(np.floor(np.cumsum(np.append(0.0, weight)) * n + rng.random()).astype(int))
    every = named(particles.std, beliefs)
    design, mean = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs)
    c, k_all = len(inputs.cells), design.shape[2]
    states, laws, which = [], [], []
    for m in np.flatnonzero(count):
        size = int(count[m])
        chol = np.linalg.cholesky(state.precision[m])
        noise = np.linalg.solve(chol.T, rng.standard_normal((R * c, size))).T
        z = (state.mode[m] + noise).reshape(size, R, c)
        law = np.empty((size, R, k_all))
        for r in range(R):
            pooled = np.ones(k_all)
            if r < 2:
                pooled = np.where(beliefs.pooled, every.offset[m, r, role_index(inputs.design)], 1.0)
            tau = every.scatter[m, r]
            w = design[r] * pooled / tau
            half = np.linalg.cholesky(np.eye(k_all) + w.T @ w)
            pulled = np.linalg.solve(half, w.T @ ((z[:, r] - mean[r]) / tau).T)
            b = np.linalg.solve(half.T, pulled + rng.standard_normal((k_all, size)))
            law[:, r] = beliefs.law_mean[r] + (beliefs.law_factor[r] @ (pooled[:, None] * b)).T
        states.append(z)
        laws.append(law)
        which += [m] * size
    at = np.array(which)
    z = np.concatenate(states)
    offset = np.zeros((len(at), R, len(ROLES)))
    offset[:, : len(HYPERPARAMETERS), 1:] = every.offset[at] * offsets_in_use(inputs.design, beliefs)
    offset[:, 2:, 1:] = fixed_offset_scales()[2:]
    z[:, CURVATURE] = np.clip(z[:, CURVATURE], -8, 8)
    return LawDraws(
        design=inputs.design, cells=inputs.cells, law=np.concatenate(laws), scatter=every.scatter[at],
        offset_scale=offset, state=z, angle=z[:, ANGLE].mean(2), skew=z[:, SKEW].mean(2), sigma=every.sigma[at],
        rho=every.rho[at], nu=every.nu[at], sources=inputs.sources, shared=every.shared[at],
    )  # fmt: skip
