"""EVSI against the truth of it: nested refits on a small basin problem.

    python benchmarks/evsi_nested.py

Definition (fixed before the first figure was looked at): the laws of `laws.simulated_sweep` with an uncertain
intercept of every response (standard deviations in `UNSURE`); the target is a new cell of 8e8 parameters and 3e10
tokens; candidates are single runs and mini-sweeps in four smaller new cells, `PER_KIND` of each kind and cell, drawn at
random.

- Truth: 40 outcomes of each bundle are simulated from the model as it is (Student-t noise), each from a draw of its
  own. For each the cell's nine responses are refitted by importance sampling (2,000 points a stage, tempered from the
  prior to the posterior, proposals Student-t around the stage before); given them the target's responses are
  Gaussian; the expected regret is minimised anew. Its mean over outcomes, taken from the regret without data (the
  same, from 20,000 draws), is the nested EVSI.
- Estimate: `design.evsi_of` from 2,000 other draws.
- Bias: mean difference over bundles, against two standard errors. All bundles share the estimator's draws, so its error
  of the mean is that of one bundle, averaged; the nested errors are independent. Rank correlation: Spearman.

Two earlier versions of the truth were thrown away, since their refits were none: reweighting 12,000 prior draws left
one draw with all the weight (five runs or more), and a bisection that never moved left the posterior at the prior
(three or more). A refit that does not reach its posterior is an error now.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from scaleband.design import (
    Candidates,
    Limits,
    bundle_features,
    evsi_of,
    grid_candidates,
    law_outcomes,
    rule_without_data,
    screen,
    setting_decision,
)
from scaleband.design.decisions import WASTED, SettingDecision
from scaleband.laws import (
    ANGLE,
    CENSOR_ABOVE,
    CURVATURE,
    RESPONSES,
    SKEW,
    LawDraws,
    excess,
    run_log_density,
    simulated_sweep,
)
from scaleband.predict import basins, target_cells

UNSURE = dict(zip(RESPONSES, (0.35, 0.35, 0.25, 0.25, 0.6, 0.05, 0.05, 0.15, 0.15), strict=True))
"""Standard deviation of each response's intercept."""
PER_KIND = {1: 4, 3: 4, 5: 4, 9: 2}
TARGET = (8e8, 3e10)
GROUP = {"source": "simulated", "data": "simulated-text"}


def made_draws(n: int, seed: int) -> LawDraws:
    """Draws of the simulated laws with uncertain intercepts; no fitted cell is of use to the target."""
    rng = np.random.default_rng([seed, 3])
    truth = simulated_sweep(0).truth
    law = np.repeat(truth.law, n, axis=0)
    law[:, :, 0] += rng.standard_normal((n, len(RESPONSES))) * np.array(list(UNSURE.values()))
    return replace(truth.take(np.zeros(n, np.int64)), law=law)


def problem(draws: LawDraws, seed: int) -> Candidates:
    """Bundles of four small cells."""
    target = target_cells(*TARGET, **GROUP)
    limits = Limits(sizes=((7e7, 7e7), (2e8, 2e8)), tokens=(2.5e9, 8e9), flops_max=1e30, rate_steps=1)
    every = grid_candidates(draws, target, limits)
    rng = np.random.default_rng([seed, 4])
    chosen = []
    for c in range(len(every.cells)):
        for size, count in PER_KIND.items():
            own = [b for b in every.bundles if len(b) == size and every.cell[b[0]] == c]
            chosen += [own[i] for i in rng.permutation(len(own))[:count]]
    return replace(every, bundles=tuple(chosen))


def least_regret(state: np.ndarray) -> float:
    """The smallest expected regret over draws of the target's state (sample, response), optimism taken off."""
    decision = SettingDecision(
        state[:, :2], state[:, ANGLE].T, np.exp(state[:, CURVATURE].T), state[:, SKEW].T, WASTED
    )
    return rule_without_data(decision, len(state)).risk


def refit(y: np.ndarray, wrecked: np.ndarray, x: np.ndarray, mean: np.ndarray, sd: np.ndarray, noise: np.ndarray,
          rng: np.random.Generator, n: int = 2000) -> tuple[np.ndarray, float]:  # fmt: skip
    """Posterior draws of a cell's nine responses given its runs, and their effective number.

    The prior is N(mean, sd^2) for each response; `noise` holds sigma, rho and nu.
    """
    centre, factor, df = mean, np.diag(sd), np.inf
    temperature = 0.0
    for _ in range(100):
        u = rng.standard_normal((n, 9))
        if np.isfinite(df):
            u /= np.sqrt(rng.chisquare(df, (n, 1)) / df)
        points = centre + u @ factor.T
        d2 = (u**2).sum(1)
        log_q = -0.5 * d2 if not np.isfinite(df) else -(df + 9) / 2 * np.log1p(d2 / df)
        log_prior = -0.5 * (((points - mean) / sd) ** 2).sum(1)
        e = excess(
            x[:, 0] - points[:, [0]], x[:, 1] - points[:, [1]], points[:, ANGLE].T[:, :, None],
            np.exp(points[:, CURVATURE].T[:, :, None]), points[:, SKEW].T[:, :, None],
        )  # fmt: skip
        fit = run_log_density(y, points[:, [4]], e, *noise, wrecked).sum(1)
        # As far towards the posterior as leaves a twentieth of the points in play.
        low, high, middle = temperature, 1.0, 1.0
        for _ in range(20):
            log_w = log_prior + middle * fit - log_q
            w = np.exp(log_w - log_w.max())
            good = w.sum() ** 2 / (w**2).sum() >= 0.05 * n
            low, high = (middle, high) if good else (low, middle)
            if low == 1.0:
                break
            middle = 0.5 * (low + high)
        temperature = max(low, temperature + 1e-4)
        log_w = log_prior + temperature * fit - log_q
        w = np.exp(log_w - log_w.max())
        w /= w.sum()
        effective = 1 / float((w**2).sum())
        if temperature >= 1.0:
            break
        centre = w @ points
        away = points - centre
        factor = np.linalg.cholesky((away * w[:, None]).T @ away * 1.3 + 1e-9 * np.eye(9))
        df = 8.0
    else:
        raise RuntimeError(f"a refit stopped at temperature {temperature:.3g}; give it more points")
    at = np.searchsorted(np.cumsum(w), (np.arange(n) + rng.random()) / n).clip(0, n - 1)
    return points[at], effective


def nested(c: Candidates, n_outer: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Nested EVSI of each bundle, its standard error, the median effective number of a refit's draws; EVPI."""
    truth = simulated_sweep(0).truth
    rng = np.random.default_rng([seed, 6])
    spread, scatter = np.array(list(UNSURE.values())), truth.scatter[0]
    both = np.sqrt(spread**2 + scatter**2)
    where = target_cells(*TARGET, **GROUP)
    at_target = (truth.law[0] @ truth.design.matrix(where).T)[:, 0]
    at_cells = truth.law[0] @ truth.design.matrix(c.cells).T
    noise = (float(truth.sigma[0, 0]), float(truth.rho[0]), float(truth.nu[0]))
    r0 = least_regret(at_target + both * rng.standard_normal((20_000, 9)))
    share = spread**2 / both**2
    left = np.sqrt(both**2 - share * spread**2)
    value, error, effective = [], [], []
    for bundle in c.bundles:
        k = int(c.cell[bundle[0]])
        mean, x = at_cells[:, k], c.x[bundle]
        after, sizes = [], []
        for _ in range(n_outer):
            own = mean + both * rng.standard_normal(9)
            e = excess(x[:, 0] - own[0], x[:, 1] - own[1], own[ANGLE], np.exp(own[CURVATURE]), own[SKEW])
            y = own[4] + e + np.hypot(noise[0], noise[1] * e) * rng.standard_t(noise[2], size=len(x))
            wrecked = e > CENSOR_ABOVE
            y = np.where(wrecked, own[4] + CENSOR_ABOVE, y)
            points, size = refit(y, wrecked, x, mean, both, noise, rng)
            state = at_target + share * (points - mean) + left * rng.standard_normal(points.shape)
            after.append(least_regret(state))
            sizes.append(size)
        value.append(r0 - np.mean(after))
        error.append(np.std(after) / np.sqrt(n_outer))
        effective.append(np.median(sizes))
    return np.array(value), np.array(error), np.array(effective), r0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outer", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    few = made_draws(2000, options.seed + 100)
    c = problem(few, options.seed)
    began = time.perf_counter()
    truth, truth_error, effective, r0 = nested(c, options.outer, options.seed)
    took = time.perf_counter() - began
    decision = setting_decision(basins(few, target_cells(*TARGET, **GROUP)))
    outcomes = law_outcomes(few, c, seed=options.seed, seed_share=0.1)
    base, none = rule_without_data(decision, 2000), np.zeros(0, np.int64)
    began = time.perf_counter()
    gains = [
        evsi_of(decision, base, bundle_features(outcomes, c, b, np.zeros(len(b), int), none, none)) for b in c.bundles
    ]
    quick = time.perf_counter() - began
    rough = screen(decision, base, outcomes, c, range(len(c)))
    evsi, error = np.array([g.evsi for g in gains]), np.array([g.error for g in gains])
    size = np.array([len(b) for b in c.bundles])
    print(f"{len(c)} bundles; regret without data {base.risk:.4f} (nested: {r0:.4f}); {took:.0f} s, "
          f"estimated in {quick:.1f} s; effective draws of a refit: {effective.min():.0f} (median, worst bundle)")
    for m in sorted(set(size.tolist())):
        k = size == m
        print(f"  {m} runs: nested {truth[k].mean():.4f}, estimated {evsi[k].mean():.4f}, "
              f"screened {rough[k].mean():.4f}; standard errors {truth_error[k].mean():.4f}, {error[k].mean():.4f}")
    bias = float(np.mean(evsi - truth))
    allowed = 2 * float(np.hypot(error.mean(), np.sqrt((truth_error**2).sum()) / len(truth)))
    print(f"bias {bias:+.4f}, two standard errors {allowed:.4f}: {'within' if abs(bias) <= allowed else 'OUTSIDE'}")
    within = np.abs(evsi - truth) <= 2 * np.hypot(error, truth_error)
    print(f"single bundles within two errors: {within.sum()} of {len(within)}")
    print(f"rank correlation {spearmanr(evsi, truth)[0]:.3f}, of the screening {spearmanr(rough, truth)[0]:.3f}")


if __name__ == "__main__":
    main()
