"""How long a proposal takes, and how much memory.

    python benchmarks/propose_speed.py

Definition: the released step-law model, its 1,000 draws taken twice with other new-cell luck (2,000 draws), a target of
1.07B parameters and 56.9B tokens of a team never seen, the generated grid of single runs and mini-sweeps cut to 10,000
bundles. Timed: outcome draws and screening of all bundles; then the choice of a batch of 16 runs, everything included.
Aims on two cores: 5 s, 30 s, 2 GB.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import replace

import numpy as np

from scaleband.design import (
    choose,
    grid_candidates,
    law_outcomes,
    limits_from,
    rule_without_data,
    screen,
    setting_decision,
)
from scaleband.inference.released import model_path
from scaleband.inference.store import read_draws
from scaleband.predict import basins, target_cells


def main() -> None:
    once = read_draws(model_path("step-law"))
    draws = once.take(np.tile(np.arange(once.n_samples), 2))
    target = target_cells(1.07e9, 5.69e10, source="us", data="web")
    limits = replace(limits_from(draws, target, flops_max=0.1 * 6 * 1.07e9 * 5.69e10), rate_steps=4)
    candidates = grid_candidates(draws, target, limits)
    sweeps = [b for b in candidates.bundles if len(b) > 1]
    singles = [b for b in candidates.bundles if len(b) == 1]
    keep = singles[:: max(1, len(singles) // (10_000 - len(sweeps)))][: 10_000 - len(sweeps)] + sweeps
    candidates = replace(candidates, bundles=tuple(keep))
    decision = setting_decision(basins(draws, target))

    began, busy = time.perf_counter(), time.process_time()
    outcomes = law_outcomes(draws, candidates, seed=1)
    base = rule_without_data(decision, draws.n_samples)
    screen(decision, base, outcomes, candidates, range(len(candidates)))
    screened, cpu = time.perf_counter() - began, time.process_time() - busy

    began = time.perf_counter()
    budget = 6 * 1.07e9 * 5.69e10
    _, chosen = choose(decision, outcomes, candidates, budget=budget, n_runs=16, n_samples=draws.n_samples)
    batch = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    runs = sum(len(c.runs) for c in chosen)
    print(f"{len(candidates):,} bundles ({len(sweeps)} of them mini-sweeps) x {draws.n_samples:,} draws: "
          f"{screened:.1f} s ({cpu:.1f} s of both cores' time); "
          f"a batch of {runs} runs in {len(chosen)} bundles: {batch:.1f} s; {memory:.2f} GB at most; "
          f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
