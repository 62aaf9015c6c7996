"""ScaleBench's protocol on its rate-and-batch task, with the 1.07B/56.9B cell as the target region.

    python benchmarks/scalebench.py run --start 0 1 2
    python benchmarks/scalebench.py table

Definition (fixed before the first figure was looked at), after Li et al. 2026, arXiv:2604.22753:

- Pool: every completed run of steplaw_dense and steplaw_dense_small outside the target's cell, each at 6 N D FLOPs. The
  target region: the completed runs of 1.07B/56.9B, never in the pool.
- At 1, 5 and 10 % of the whole pool's cost, what was bought so far is fitted, and R^2 of the loss over the target
  region's runs is taken, cut to [-1, 1] as there; a run is bought only if it fits into the checkpoint's budget.
- Prediction: the posterior median of exp((level + excess) / 100) at each setting, the excess cut at the threshold of
  censoring; stated beliefs, form `quadratic`; the quick posterior of the replays with 24 particles, 1,000 draws.
- Start: six runs at random among those that cost at most a thousandth of the first checkpoint's budget each, or among
  the cheapest cell's. Ten starts.
- Policies: evsi (`design.choose` with the predicted loss of the target region as the decision: the first three
  principal components over draws of its runs' predictions, squared error; per FLOP, up to six batches a checkpoint of
  at most 24 runs, mini-sweeps beside single runs, the last batch for the most that money can buy); random, cheapest,
  cost-weighted as in the replays. ScaleBench's own published figures at 1, 5, 10 % are for another cell as target:
  -0.65, 0.00, 0.22 at best, and 0.04 with all data.
- One more row, `everything`: R^2 with the whole pool.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common import RESULTS, load
from quick_posterior import draws_of, start_particles, update
from replay import POLICIES, Oracle, State, refit
from scaleband.bayes import cells_of, default_beliefs, model_inputs
from scaleband.design import Candidates, Slopes, candidates_from_table, choose, law_outcomes, with_mini_sweeps
from scaleband.laws import CENSOR_ABOVE, FORMS, LawDraws, design_for
from scaleband.predict import basins, regret
from scaleband.runs import cell_table
from unpooled import fit_basin

LABEL = "step-law/dense/steplaw_main 1.07B/56.9B"
SHARES = (0.01, 0.05, 0.1)
RUNS, ASKS, PARTS = 24, 6, 3
N_PARTICLES = 24
FIELDS = ["policy", "start", "share", "spent", "n_runs", "n_cells", "r2"]


@dataclass(frozen=True)
class Region:
    """The target region: settings and losses of its runs."""

    lr: np.ndarray
    batch: np.ndarray
    loss: np.ndarray

    def predicted(self, draws: LawDraws, o: Oracle) -> np.ndarray:
        """100 log loss of each run's mean, (sample, run)."""
        b = basins(draws, o.target)
        above = regret(b, self.lr[:, None], self.batch[:, None])[:, :, 0]
        return b.level[:, [0]] + np.minimum(above, CENSOR_ABOVE)

    def r2(self, draws: LawDraws, o: Oracle) -> float:
        """Share of the losses' variance that the median prediction explains, cut to [-1, 1]."""
        off = self.loss - np.exp(np.median(self.predicted(draws, o), axis=0) / 100)
        return float(np.clip(1 - (off**2).sum() / ((self.loss - self.loss.mean()) ** 2).sum(), -1, 1))


@dataclass(frozen=True)
class Prediction:
    """Choose what to predict for the region: scores (sample, k) of the leading components; regret is squared error."""

    scores: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """(k,)"""
        return self.scores.mean(0)

    def regret(self, action: np.ndarray) -> np.ndarray:
        """See `design.Decision`."""
        return ((action - self.scores) ** 2).sum(1)

    def slopes(self, action: np.ndarray) -> Slopes:
        """See `design.Decision`."""
        k = self.scores.shape[1]
        return Slopes(self.regret(action), 2 * (action - self.scores), np.tile(2 * np.eye(k), (len(action), 1, 1)))


def prediction(region: Region, draws: LawDraws, o: Oracle) -> Prediction:
    """The decision behind R^2, in percent of the loss."""
    y = region.predicted(draws, o)
    y = y - y.mean(0)
    _, _, axes = np.linalg.svd(y, full_matrices=False)
    return Prediction(y @ axes[:PARTS].T / np.sqrt(y.shape[1]))


def pool() -> tuple[Oracle, Region]:
    """The pool as an oracle, and the target region."""
    frame = load(["steplaw_dense", "steplaw_dense_small"])
    frame = frame[frame["status"] == "completed"].reset_index(drop=True)
    cells = cell_table(frame)
    at = int(np.flatnonzero(cells["cell"] == LABEL)[0])
    design = design_for(cells_of(cells))
    inputs = model_inputs(frame, design, cells=cells)
    place = dict(zip(inputs.run_ids, inputs.cell, strict=True))
    cell = np.array([place[i] for i in frame["run_id"]])
    own = frame[cell == at]
    region = Region(*(own[k].to_numpy(float) for k in ("lr_peak", "batch_tokens", "loss")))
    runs = frame[cell != at].reset_index(drop=True)
    columns = ["run_id", "source", "arch", "data", "n_params", "n_active", "n_tokens", "lr_peak", "batch_tokens"]
    table = runs[columns].copy()
    for column in ("n_params", "n_active", "n_tokens"):
        table[column] = cells[column].to_numpy(float)[cell[cell != at]]
    price = 6.0 * runs["n_active"].to_numpy(float) * runs["n_tokens"].to_numpy(float)
    target = cells_of(cells.iloc[[at]])
    o = Oracle("scalebench", runs, price, 6.0 * float(target.n_active[0] * target.n_tokens[0]), target, design,
               fit_basin(inputs, at), candidates_from_table(table))  # fmt: skip
    return o, region


def by_evsi(o: Oracle, region: Region, state: State, money: float, last: bool, rng: np.random.Generator) -> list[int]:
    """One batch for the prediction of the region."""
    assert state.draws is not None
    had, own = set(state.bought), o.candidates
    left = tuple(b for b in own.bundles if int(b[0]) not in had)
    fresh = Candidates(own.cells, own.cell, own.lr_peak, own.batch_tokens, o.price, left, own.run_id)
    fresh = with_mini_sweeps(fresh, basins(state.draws, fresh.cells), most_per_cell=6)
    outcomes = law_outcomes(state.draws, fresh, seed=int(rng.integers(2**31)))
    decision = prediction(region, state.draws, o)
    _, chosen = choose(decision, outcomes, fresh, budget=money, n_runs=RUNS, n_samples=len(decision.scores),
                       replicates=False, thrifty=not last)  # fmt: skip
    return [int(r) for c in chosen for r in c.runs]


def campaign(o: Oracle, region: Region, policy: str, start: int) -> list[dict[str, object]]:
    """One campaign through all checkpoints."""
    rng = np.random.default_rng([start, zlib.crc32(f"scalebench {policy}".encode())])
    whole = float(o.price.sum())
    cheap = np.flatnonzero(o.price <= max(1e-3 * SHARES[0] * whole, o.price.min() * (1 + 1e-9)))
    first = np.random.default_rng([start, 77]).permutation(cheap)[:6]
    beliefs = default_beliefs(o.design, FORMS["quadratic"])
    state = State([int(i) for i in first], start_particles(N_PARTICLES, 1, start))
    state.draws = refit(o, state, beliefs, rng)
    records = []
    for share in SHARES:
        for ask in range(ASKS):
            money = share * whole - o.price[state.bought].sum()
            if policy == "evsi":
                new = by_evsi(o, region, state, money, ask == ASKS - 1, rng) if money > 0 else []
            else:
                new = POLICIES[policy](o, state, money, ask, rng)
            if not new:
                break
            state.bought += new
            if policy == "evsi" or ask == 0:
                state.draws = refit(o, state, beliefs, rng)
        spent = float(o.price[state.bought].sum() / whole)
        if spent > share * (1 + 1e-9) or len(set(state.bought)) < len(state.bought):
            raise RuntimeError(f"{policy} broke its budget or bought a run twice")
        assert state.judged is not None
        records.append({
            "policy": policy, "start": start, "share": share, "spent": round(spent, 5), "n_runs": len(state.bought),
            "n_cells": len(set(o.candidates.cell[state.bought].tolist())), "r2": region.r2(state.judged, o),
        })  # fmt: skip
    return records


def everything(o: Oracle, region: Region) -> list[dict[str, object]]:
    """The whole pool bought."""
    beliefs = default_beliefs(o.design, FORMS["quadratic"])
    inputs, rng = model_inputs(o.runs, o.design), np.random.default_rng(1)
    particles = start_particles(8, 1, 1)
    state = update(particles, inputs, beliefs, rng, moves=4)
    draws = draws_of(particles, state, inputs, beliefs, 1000, rng)
    return [{"policy": "everything", "start": 0, "share": 1.0, "spent": 1.0, "n_runs": len(o.price),
             "n_cells": len(o.candidates.cells), "r2": region.r2(draws, o)}]  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Campaigns that are not in the file yet."""
    path = Path(options.out)
    done = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=FIELDS)
    had = set(zip(done["policy"], done["start"].astype(int), strict=True))
    o, region = pool()
    for start in options.start:
        for policy in options.policy:
            if (policy, start) in had or (policy == "everything" and start):
                continue
            records = everything(o, region) if policy == "everything" else campaign(o, region, policy, start)
            fresh = not path.is_file()
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                if fresh:
                    writer.writeheader()
                writer.writerows(records)
            print(policy, start, "  ".join(f"{r['share']:.0%}: {r['r2']:.3f} ({r['n_runs']} runs)" for r in records),
                  flush=True)  # fmt: skip


def table(options: argparse.Namespace) -> None:
    """Mean, standard deviation and number of campaigns of R^2 by policy and budget."""
    every = pd.read_csv(options.out)
    print(every.groupby(["policy", "share"])["r2"].agg(["mean", "std", "min", "median", "count"]).round(3).to_string())
    print(every.groupby(["policy", "share"])[["n_runs", "n_cells"]].mean().round(1).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["evsi", "random", "cheapest", "cost-weighted", "everything"]
    parser.add_argument("do", choices=["run", "table"])
    parser.add_argument("--policy", nargs="+", choices=names, default=names)
    parser.add_argument("--start", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--out", default=str(RESULTS / "scalebench.csv"))
    options = parser.parse_args()
    (run if options.do == "run" else table)(options)


if __name__ == "__main__":
    main()
