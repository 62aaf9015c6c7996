"""EVSI against the truth of it: nested refits on a small basin problem.

    python benchmarks/evsi_nested.py

Definition (fixed before the first figure was looked at): the laws of `laws.simulated_sweep` with an uncertain intercept of
every response (standard deviations in `UNSURE`); the target is a new cell of 1e9 parameters and 2e10 tokens; the
candidates are single runs and mini-sweeps in four smaller new cells, `PER_KIND` of each kind and cell, drawn at random.

- Truth: 400 outcomes of each bundle are simulated from the model as it is (Student-t noise). For each, every one of 12,000
  prior draws is weighted by the likelihood of that outcome, and the expected regret under those weights is minimised
  anew: a refit by importance. Its mean over outcomes, taken from the regret without data, is the nested EVSI.
- Estimate: `design.evsi_of` from 2,000 other draws.
- Bias: mean difference over bundles, against two standard errors. All bundles share the estimator's draws, so its error
  of the mean is that of one bundle, averaged; the nested errors are independent. Rank correlation: Spearman.
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
from scaleband.design.decisions import SettingDecision
from scaleband.design.outcomes import CENSORED_ABOVE
from scaleband.laws import (
    ANGLE,
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
GROUP = {"source": "simulated", "data": "simulated-text"}


def made_draws(n: int, seed: int) -> LawDraws:
    """Draws of the simulated laws with uncertain intercepts; no fitted cell is of use to the target."""
    rng = np.random.default_rng([seed, 3])
    truth = simulated_sweep(0).truth
    law = np.repeat(truth.law, n, axis=0)
    law[:, :, 0] += rng.standard_normal((n, len(RESPONSES))) * np.array(list(UNSURE.values()))
    every = {name: np.repeat(getattr(truth, name), n, axis=0) for name in (
        "scatter", "offset_scale", "state", "angle", "skew", "sigma", "rho", "nu", "shared")}  # fmt: skip
    return replace(truth, law=law, **every)


def problem(draws: LawDraws, seed: int) -> Candidates:
    """Bundles of four small cells."""
    target = target_cells(1e9, 2e10, **GROUP)
    limits = Limits(sizes=((7e7, 7e7), (2e8, 2e8)), tokens=(2.5e9, 8e9), flops_max=1e30, rate_steps=1)
    every = grid_candidates(draws, target, limits)
    rng = np.random.default_rng([seed, 4])
    chosen = []
    for c in range(len(every.cells)):
        for size, count in PER_KIND.items():
            own = [b for b in every.bundles if len(b) == size and every.cell[b[0]] == c]
            chosen += [own[i] for i in rng.permutation(len(own))[:count]]
    return replace(every, bundles=tuple(chosen))


def regret_after(decision: SettingDecision, weight: np.ndarray, action: np.ndarray) -> float:
    """The smallest expected regret under weighted draws: Newton, halved where a step would climb."""
    keep = weight > 1e-7 * weight.max()
    w = weight[keep] / weight[keep].sum()
    d = SettingDecision(
        decision.optimum[keep], decision.angle[:, keep], decision.curvature[:, keep], decision.skew[:, keep]
    )
    a = w @ d.optimum
    value = float(w @ d.regret(np.broadcast_to(a, d.optimum.shape)))
    for _ in range(20):
        s = d.slopes(np.broadcast_to(a, d.optimum.shape))
        step = np.linalg.solve(np.einsum("s,sij->ij", w, s.hessian), w @ s.gradient)
        size = 1.0
        while size > 1e-3:
            new = float(w @ d.regret(np.broadcast_to(a - size * step, d.optimum.shape)))
            if new <= value:
                break
            size /= 2
        else:
            break
        done = value - new < 1e-7
        a, value = a - size * step, new
        if done:
            break
    return value


def nested(draws: LawDraws, c: Candidates, n_outer: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nested EVSI of each bundle, its standard error, and the median effective number of draws of a refit."""
    target = target_cells(1e9, 2e10, **GROUP)
    decision = setting_decision(basins(draws, target))
    outcomes = law_outcomes(draws, c)
    now = rule_without_data(decision, draws.n_samples)
    start = now.action[0]
    r0 = float(now.slopes.value.mean())
    rng = np.random.default_rng([seed, 6])
    value, error, effective = [], [], []
    for bundle in c.bundles:
        k = int(c.cell[bundle[0]])
        own = outcomes.state[:, :, k]
        x = c.x[bundle]
        e = np.stack(
            [excess(p[0] - own[:, 0], p[1] - own[:, 1], own[:, ANGLE].T, np.exp(own[:, CURVATURE].T), own[:, SKEW].T)
             for p in x], axis=1
        )  # fmt: skip
        base, sigma = own[:, 4, None], draws.sigma[:, [0]]
        rho, nu = draws.rho[:, None], draws.nu[:, None]
        after, sizes = [], []
        for s in rng.integers(draws.n_samples, size=n_outer):
            scale = np.sqrt(sigma[s] ** 2 + (rho[s] * e[s]) ** 2)
            y = base[s] + e[s] + scale * rng.standard_t(float(nu[s, 0]), size=len(bundle))
            wrecked = e[s] > CENSORED_ABOVE
            y = np.where(wrecked, base[s] + CENSORED_ABOVE, y)
            log_w = run_log_density(y, base, e, sigma, rho, nu, wrecked).sum(1)
            w = np.exp(log_w - log_w.max())
            sizes.append(w.sum() ** 2 / (w**2).sum())
            after.append(regret_after(decision, w, start))
        value.append(r0 - np.mean(after))
        error.append(np.std(after) / np.sqrt(n_outer))
        effective.append(np.median(sizes))
    return np.array(value), np.array(error), np.array(effective)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outer", type=int, default=400)
    parser.add_argument("--draws", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    many = made_draws(options.draws, options.seed)
    c = problem(many, options.seed)
    began = time.perf_counter()
    truth, truth_error, effective = nested(many, c, options.outer, options.seed)
    took = time.perf_counter() - began
    few = made_draws(2000, options.seed + 100)
    decision = setting_decision(basins(few, target_cells(1e9, 2e10, **GROUP)))
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
    print(f"{len(c)} bundles; regret without data {base.risk:.4f} (nested {many.n_samples} draws); "
          f"{took:.0f} s nested, {quick:.1f} s estimated; effective draws of a refit: least median {effective.min():.0f}")
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
