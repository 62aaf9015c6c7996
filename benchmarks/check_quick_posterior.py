"""Hold the quick posterior of the replays against NUTS: the same runs, the same priors.

    python benchmarks/check_quick_posterior.py --target dense-429M oellm-302M --start 0 1

For each start of `replay.py` and after random purchases of the shares `--share` of a target run (inf: every candidate):
mean and standard deviation of the target's optimum, and the expected regret of the recommended setting, from both; no
held-out loss is looked at. `--warm` takes the replays' warm prior.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from quick_posterior import start_particles
from replay import N_PARTICLES, POLICIES, TARGETS, State, oracle_of, prior_for, refit, start_of
from scaleband.bayes import model_inputs
from scaleband.inference.fitting import fit
from scaleband.inference.sampler import SamplerSettings
from scaleband.laws import LawDraws
from scaleband.predict import basins, recommend


def line(what: str, draws: LawDraws, target: object) -> None:
    b = basins(draws, target)  # type: ignore[arg-type]
    best = recommend(b)
    mean, sd = b.optimum[:, :, 0].mean(0), b.optimum[:, :, 0].std(0)
    print(
        f"  {what:6s} rate {mean[0]:+.3f} +- {sd[0]:.3f}  batch {mean[1]:+.3f} +- {sd[1]:.3f}  recommended "
        f"{best.lr_peak[0]:.2e} at {best.batch_tokens[0]:,.0f}, expected regret {best.expected_regret[0]:.4f}; "
        f"sigma {np.median(draws.sigma):.3f} rho {np.median(draws.rho):.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", nargs="+", choices=list(TARGETS), default=["dense-429M", "oellm-302M"])
    parser.add_argument("--start", nargs="+", type=int, default=[0])
    parser.add_argument("--share", nargs="+", type=float, default=[0.0, 0.05, 0.25])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--warm", action="store_true")
    options = parser.parse_args()
    for name in options.target:
        o = oracle_of(name)
        for start in options.start:
            rng = np.random.default_rng(start)
            state = State(start_of(o, start), start_particles(N_PARTICLES, 1, start))
            for share in options.share:
                if np.isinf(share):
                    state.bought = list(range(len(o.price)))
                elif share:
                    money = share * o.target_flops - o.price[state.bought].sum()
                    state.bought += POLICIES["random"](o, state, money, 0, rng)
                runs = o.runs.iloc[sorted(state.bought)]
                print(f"{name} start {start}, {len(state.bought)} runs, {model_inputs(runs, o.design).n_trunks} trunks"
                      f"{', warm' if options.warm else ''}", flush=True)  # fmt: skip
                refit(o, state, prior_for(o, options.warm), rng)
                assert state.judged is not None
                line("quick", state.judged, o.target)
                fitted = fit(
                    runs,
                    beliefs=lambda design, o=o: prior_for(replace(o, design=design), options.warm),
                    settings=SamplerSettings(draws=options.draws, tune=500, chains=2, seed=1),
                )
                line("NUTS", fitted.draws(), o.target)
                print(f"         gate: {fitted.gate.messages or 'passed'}", flush=True)


if __name__ == "__main__":
    main()
