"""Is the verdict's advice to stop worth following? Net value in FLOPs, against fixed stopping budgets.

    python benchmarks/stop_verdict.py run --start 0 1 2
    python benchmarks/stop_verdict.py table

Definition (fixed before the first figure was looked at): the targets, candidates, starts, priors, posterior and truth
of `replay.py`. A campaign asks for batches of at most eight runs by EVSI per FLOP until a whole target run is spent,
sixteen batches are bought, or nothing is proposed. At every ask, before buying, the verdict is taken for K = 1, 10 and
100 target runs, with 3 percent of loss per e-fold of compute (`design.USUAL_SLOPE`). Bought is what the verdict of the
smallest K that goes on speaks of (a campaign hands out no more, see `Proposals.worthwhile`); the whole batch if none
does. In the first version every batch was bought whole, and a regret was worth what it would be if it were certain.

- Net value of stopping at an ask: -(K x FLOPs at the target that the true regret is worth) - FLOPs spent since the
  start; in units of one target run.
- The verdict stops at the first ask that says stop (else at the end). A fixed budget of 0, 5, 25 or 100 % stops at the
  last ask at which no more than it was spent. Means over campaigns; differences are paired.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from common import RESULTS
from quick_posterior import start_particles
from replay import N_DRAWS, N_PARTICLES, TARGETS, Oracle, State, oracle_of, prior_for, refit, start_of
from scaleband.bayes import Beliefs
from scaleband.design import (
    USUAL_SLOPE,
    Candidates,
    as_flops,
    choose,
    law_outcomes,
    setting_decision,
    share_lost,
    weigh,
    with_mini_sweeps,
)
from scaleband.predict import basins, recommend

RUNS_SERVED = (1, 10, 100)
FIXED = (0.0, 0.05, 0.25, 1.0)
ASKS = 16
FIELDS = ["target", "warm", "start", "ask", "spent", "regret", "evpi", "stop_1", "stop_10", "stop_100"]


def campaign(o: Oracle, start: int, beliefs: Beliefs, warm: bool) -> list[dict[str, object]]:
    """One campaign: a record at each ask."""
    rng = np.random.default_rng([start, zlib.crc32(f"{o.name} stop {warm}".encode())])
    state = State(start_of(o, start), start_particles(N_PARTICLES, 1, start))
    before = float(o.price[state.bought].sum())
    records = []
    for ask in range(ASKS + 1):
        draws = refit(o, state, beliefs, rng)
        b = basins(draws, o.target)
        assert state.judged is not None
        best = recommend(basins(state.judged, o.target))
        spent = float(o.price[state.bought].sum()) - before
        had = set(state.bought)
        open_ = tuple(r for r in o.candidates.bundles if int(r[0]) not in had)
        own = o.candidates
        fresh = Candidates(own.cells, own.cell, own.lr_peak, own.batch_tokens, o.price, open_, own.run_id)
        fresh = with_mini_sweeps(fresh, basins(draws, fresh.cells), most_per_cell=8)
        outcomes = law_outcomes(draws, fresh, seed=int(rng.integers(2**31)))
        base, chosen = choose(
            setting_decision(b), outcomes, fresh, budget=max(o.target_flops - spent, 1.0), n_runs=8, n_samples=N_DRAWS,
            replicates=False,
        )  # fmt: skip
        path = [(c.gain.evsi, c.gain.error, c.cost) for c in chosen]
        lost = [share_lost(rule, USUAL_SLOPE) for rule in (base, *(c.gain.rule for c in chosen))]
        said = {k: weigh(path, lost, evpi=base.risk, target_flops=o.target_flops, target_runs=k) for k in RUNS_SERVED}
        says = {f"stop_{k}": int(v.stop) for k, v in said.items()}
        regret = o.truth.regret(float(best.lr_peak[0]), float(best.batch_tokens[0]))
        records.append({"target": o.name, "warm": int(warm), "start": start, "ask": ask,
                        "spent": spent / o.target_flops, "regret": regret, "evpi": base.risk, **says})  # fmt: skip
        if not chosen or ask == ASKS:
            break
        most = next((v.cost_flops for v in said.values() if not v.stop), np.inf)
        costs = np.cumsum([c.cost for c in chosen])
        worth = [c for c, cost in zip(chosen, costs, strict=True) if cost <= most * (1 + 1e-9)]
        state.bought += [int(r) for c in worth for r in c.runs]
    return records


def run(options: argparse.Namespace) -> None:
    """Campaigns that are not in the file yet."""
    RESULTS.mkdir(exist_ok=True)
    path = Path(options.out)
    done = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=FIELDS)
    had = set(zip(done["target"], done["warm"].astype(int), done["start"].astype(int), strict=True))
    for start in options.start:
        for name in options.target:
            if (name, int(options.warm), start) in had:
                continue
            o = oracle_of(name)
            records = campaign(o, start, prior_for(o, options.warm), options.warm)
            fresh = not path.is_file()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                if fresh:
                    writer.writeheader()
                writer.writerows(records)
            print(name, start, "warm" if options.warm else "vague", len(records), "asks", flush=True)


def table(options: argparse.Namespace) -> None:
    """Mean net value of the verdict and of fixed budgets."""
    every = pd.read_csv(options.out)
    for warm, part in every.groupby("warm"):
        campaigns = [g.sort_values("ask") for _, g in part.groupby(["target", "start"])]
        print(f"\n{'warm start' if warm else 'vague priors'}: {len(campaigns)} campaigns, "
              f"{part['target'].nunique()} targets; net value in target runs")
        for k in RUNS_SERVED:
            nets: dict[str, list[float]] = {name: [] for name in ("verdict", *(f"{b:.0%}" for b in FIXED))}
            asks = []
            for g in campaigns:
                worth = np.array([-k * as_flops(r, 1.0, USUAL_SLOPE) for r in g["regret"]]) - g["spent"].to_numpy()
                halt = np.flatnonzero(g[f"stop_{k}"].to_numpy())
                at = int(halt[0]) if len(halt) else len(g) - 1
                asks.append(at)
                nets["verdict"].append(float(worth[at]))
                for b in FIXED:
                    within = np.flatnonzero(g["spent"].to_numpy() <= b * (1 + 1e-9))
                    nets[f"{b:.0%}"].append(float(worth[within[-1]]))
            text = ", ".join(f"{name} {np.mean(v):+.3f}" for name, v in nets.items())
            others = {name: np.array(nets["verdict"]) - np.array(v) for name, v in nets.items() if name != "verdict"}
            worst = min(others, key=lambda name: others[name].mean())
            d = others[worst]
            print(f"  K = {k:3d}: {text}; stops after {np.mean(asks):.1f} batches; verdict minus the best fixed budget "
                  f"({worst}) {d.mean():+.3f} +- {d.std() / np.sqrt(len(d)):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=["run", "table"])
    parser.add_argument("--target", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--start", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--out", default=str(RESULTS / "stop_verdict.csv"))
    options = parser.parse_args()
    (run if options.do == "run" else table)(options)


if __name__ == "__main__":
    main()
