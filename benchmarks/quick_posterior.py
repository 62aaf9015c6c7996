"""A posterior in a second instead of a minute: for replays that refit thousands of times. Never for an answer.

The model is `scaleband.bayes.model`. Given the shared parameters (noise, scatters, offset scales) the cells' states
have a Gaussian prior (the law integrated out) and their runs pin them nearly linearly, so the states are taken as
Gaussian around their joint mode (Gauss-Newton with the Student-t's weights): Laplace inside. Errors that runs of one
trunk share are linear in the mean loss and Gaussian: they join the states as nuisance and are integrated out with them.
The shared parameters are a few dozen particles, reweighted by the Laplace marginal likelihood of the new runs and moved
by prior-preserving random walks (pCN): sequential Monte Carlo outside. Held against NUTS (`check_quick_posterior.py`),
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

    The parameters: those of `SHARED`, then log sigma of each source, log scatter of the level, log scale of the trunks.
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
    trunk: np.ndarray


def start_particles(n: int, n_sources: int, seed: int) -> Particles:
    """Particles from the prior."""
    std = np.random.default_rng([seed, 21]).standard_normal((n, len(SHARED) + n_sources + 2))
    return Particles(std, np.zeros(n), np.zeros(n))


def named(std: np.ndarray, beliefs: Beliefs) -> Named:
    """From standard normals to the parameters."""
    k = len(SHARED)
    shared = beliefs.shared_mean + std[:, :k] @ beliefs.shared_factor.T
    mean, sd, _ = OWN["log_sigma"]
    sigma = np.exp(mean + sd * std[:, k:-2])
    mean, sd, _ = OWN["log_scatter_level"]
    level = np.exp(mean + sd * std[:, -2])
    mean, sd, _ = OWN["log_trunk"]
    trunk = np.exp(mean + sd * std[:, -1])
    begin = _INDEX["log_scatter_log_lr"]
    basic = np.exp(shared[:, begin : begin + 4])
    angle, skew = (np.exp(shared[:, _INDEX[f"log_scatter_{n}"]]) for n in ("angle", "skew"))
    scatter = np.column_stack([basic, level, angle, angle, skew, skew])
    begin = _INDEX["log_offset_source_log_lr"]
    offset = np.exp(shared[:, begin : begin + 2 * _N_ROLES]).reshape(-1, 2, _N_ROLES)
    nu = 1 + np.exp(shared[:, _INDEX["log_nu_minus_1"]])
    return Named(shared, np.exp(shared[:, _INDEX["log_rho"]]), nu, sigma, scatter, offset, trunk)


@dataclass(frozen=True)
class Laplace:
    """Mode (particle, response * cell + trunk), precision, and log evidence (particle,)."""

    mode: np.ndarray
    precision: np.ndarray
    evidence: np.ndarray


def _rises(z: np.ndarray, i: ModelInputs) -> list[tuple[np.ndarray, ...]]:
    """Per direction: cosine, sine, log distances, curvature, skew, s v and exp(s v) - 1, all (particle, row)."""
    own = z[:, :, i.cell]
    dx, db = i.log_lr - own[:, 0], i.log_batch - own[:, 1]
    out = []
    for j in (0, 1):
        angle, h, s = own[:, 5 + j], np.exp(np.clip(own[:, 2 + j], -8, 8)), own[:, 7 + j]
        s = np.where(np.abs(s) < 1e-4, 1e-4, s)
        cos, sin = np.cos(angle), np.sin(angle)
        a = np.clip(s * (cos * dx + sin * db), -40.0, 40.0)
        out.append((cos, sin, dx, db, h, s, a, np.expm1(a)))
    return out


def _excess(z: np.ndarray, i: ModelInputs) -> np.ndarray:
    """Excess (particle, row)."""
    return sum(h / s**2 * (rise - a) for _, _, _, _, h, s, a, rise in _rises(z, i))  # type: ignore[return-value]


def _jacobian(z: np.ndarray, i: ModelInputs) -> np.ndarray:
    """Derivative of level plus excess in the nine responses, (particle, row, 9)."""
    jac = np.zeros((len(z), len(i.cell), R))
    jac[..., 4] = 1.0
    for j, (cos, sin, dx, db, h, s, a, rise) in enumerate(_rises(z, i)):
        slope = h / s * rise
        jac[..., 0] -= slope * cos
        jac[..., 1] -= slope * sin
        jac[..., 2 + j] = h / s**2 * (rise - a)
        jac[..., 5 + j] = slope * (-sin * dx + cos * db)
        jac[..., 7 + j] = h / s**3 * (a * (rise + 1) - 2 * rise + a)
    return jac


def laplace(inputs: ModelInputs, beliefs: Beliefs, p: Named, start: np.ndarray, *, steps: int = 30) -> Laplace:
    """Joint mode of all states and trunk errors for every particle; start (particle, response * cell + trunk)."""
    n, c, n_trunks = len(p.rho), len(inputs.cells), inputs.n_trunks
    design, mean = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs)
    scale = np.ones((n, R, design.shape[2]))
    scale[:, :2] = np.where(beliefs.pooled, p.offset[:, :, role_index(inputs.design)], 1.0)
    w = design * scale[:, :, None, :]
    law = w @ w.transpose(0, 1, 3, 2) + p.scatter[:, :, None, None] ** 2 * np.eye(c)
    chol = np.linalg.cholesky(law)
    law_inverse = np.linalg.inv(law)
    prior_log_det = 2 * np.log(np.diagonal(chol, axis1=2, axis2=3)).sum((1, 2)) + 2 * n_trunks * np.log(p.trunk)
    first = np.flatnonzero(np.diff(inputs.cell, prepend=-1))
    seen = inputs.cell[first]
    branch = np.flatnonzero(inputs.trunk < n_trunks)
    cell_b, trunk_b = inputs.cell[branch], inputs.trunk[branch]
    sigma, rho, nu = p.sigma[:, inputs.source], p.rho[:, None], p.nu[:, None]
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi)

    def of_rows(at: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, ...]:
        """Log posterior of particles `m` at `at`; their rows' residual, scale and what is needed for the slopes."""
        z, trunk = at[:, : R * c].reshape(-1, R, c), at[:, R * c :]
        e = _excess(z, inputs)
        base = z[:, 4][:, inputs.cell]
        if n_trunks:
            base[:, branch] += trunk[:, trunk_b]
        above = np.where(inputs.censored, inputs.y - base, e)
        s = np.sqrt(sigma[m] ** 2 + inputs.own_se(p.trunk[m]) ** 2 + (rho[m] * above) ** 2)
        u = (inputs.y - base - e) / s
        density = constant[m] - np.log(s) - (nu[m] + 1) / 2 * np.log1p(u * u / nu[m])
        below = 1 / (1 + np.exp(np.clip(u, -60, 60)))
        reach = SPONTANEOUS + (1 - SPONTANEOUS) * below
        away = z - mean
        tug = np.einsum("nrcd,nrd->nrc", law_inverse[m], away)
        value = np.where(inputs.censored, np.log(reach), density).sum(1) - 0.5 * (tug * away).sum((1, 2))
        if n_trunks:
            value -= 0.5 * ((trunk / p.trunk[m][:, None]) ** 2).sum(1)
        return value, u, s, (1 - SPONTANEOUS) * below * (1 - below) / reach / s, tug

    def parts(at: np.ndarray, m: np.ndarray, fisher: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Slope, and Gauss-Newton precision with the residuals' weights (or with Fisher's) of particles `m`."""
        z, trunk = at[:, : R * c].reshape(-1, R, c), at[:, R * c :]
        _, u, s, pull_censored, tug = of_rows(at, m)
        jac = _jacobian(z, inputs)
        weight = (nu[m] + 1) / (nu[m] + u * u) / s**2
        pull = np.where(inputs.censored, pull_censored, weight * u * s)
        if fisher:
            weight = (nu[m] + 1) / (nu[m] + 3) / s**2
        weight = np.where(inputs.censored, pull_censored**2, weight)
        slope = -tug
        np.add.at(slope.transpose(2, 0, 1), seen, np.add.reduceat(
            (pull[..., None] * jac), first, axis=1).transpose(1, 0, 2))  # fmt: skip
        slope = slope.reshape(len(m), -1)
        block = np.add.reduceat((weight[..., None] * jac)[..., :, None] * jac[..., None, :], first, axis=1)
        states = np.zeros((len(m), R, c, R, c))
        for r in range(R):
            states[:, r, :, r, :] = law_inverse[m, r]
        for k, cell in enumerate(seen):
            states[:, :, cell, :, cell] += block[:, k]
        precision = states.reshape(len(m), R * c, R * c)
        if not n_trunks:
            return slope, precision
        size = p.trunk[m][:, None]
        own = -trunk / size**2
        np.add.at(own.T, trunk_b, pull[:, branch].T)
        shared = np.zeros((n_trunks, c, len(m), R))
        np.add.at(shared, (trunk_b, cell_b), (weight[:, branch, None] * jac[:, branch]).transpose(1, 0, 2))
        cross = shared.transpose(2, 3, 1, 0).reshape(len(m), R * c, n_trunks)
        total = np.zeros((n_trunks, len(m)))
        np.add.at(total, trunk_b, weight[:, branch].T)
        corner = np.eye(n_trunks) * (total.T + 1 / size**2)[:, :, None]
        return np.concatenate([slope, own], axis=1), np.block([[precision, cross], [cross.transpose(0, 2, 1), corner]])

    z = start.copy()
    free = np.zeros(R * c + n_trunks, bool)  # the level and the trunks are linear: no bound on their steps
    free[4 * c : 5 * c] = free[R * c :] = True
    every = np.arange(n)
    value = of_rows(z, every)[0]
    moving = every
    for _ in range(steps):
        slope, precision = parts(z[moving], moving)
        step = np.linalg.solve(precision, slope[:, :, None])[:, :, 0]
        step = np.where(free, step, np.clip(step, -1.0, 1.0))
        size = np.ones(len(moving))
        for _ in range(8):
            trial = z[moving] + size[:, None] * step
            new = of_rows(trial, moving)[0]
            worse = ~(new > value[moving] - 1e-9)
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        better = moving[~worse]
        gain = new[~worse] - value[better]
        z[better], value[better] = trial[~worse], new[~worse]
        moving = better[gain >= 0.02]
        if not len(moving):
            break
    _, precision = parts(z, every, fisher=True)
    _, log_det = np.linalg.slogdet(precision)
    return Laplace(z, precision, value - 0.5 * prior_log_det - 0.5 * log_det)


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
    return np.concatenate([z.reshape(n, R * c), np.zeros((n, inputs.n_trunks))], axis=1)


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
            new = laplace(inputs, beliefs, named(trial, beliefs), state.mode, steps=8)
            yes = np.log(rng.random(n)) < new.evidence - state.evidence
            particles.std = np.where(yes[:, None], trial, particles.std)
            state = Laplace(
                np.where(yes[:, None], new.mode, state.mode),
                np.where(yes[:, None, None], new.precision, state.precision),
                np.where(yes, new.evidence, state.evidence),
            )
        particles.evidence = state.evidence
    modes = state.mode[:, : R * c].reshape(n, R, c)
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
        noise = np.linalg.solve(chol.T, rng.standard_normal((len(chol), size))).T
        z = (state.mode[m] + noise)[:, : R * c].reshape(size, R, c)
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
        trunk_scale=every.trunk[at], trunked=inputs.trunked,
    )  # fmt: skip
