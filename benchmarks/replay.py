"""Replayed campaigns: the recorded sweeps are the oracle, a proposed run's loss is looked up.

    python benchmarks/replay.py run --start 0 1 2           every target and policy; goes on where it stopped
    python benchmarks/replay.py run --warm --policy evsi    warm-started campaigns
    python benchmarks/replay.py everything                  all candidates bought: what there is to learn
    python benchmarks/replay.py everything --nuts           the same by NUTS (vague priors)
    python benchmarks/replay.py run --out OTHER --target dense-537M     a target for development, of four
    python benchmarks/replay.py table                       the figures

Definition (fixed before the first figure was looked at):

- Targets: step-law dense 1.07B/56.9B, 429M/50B, 215M/100B; step-law moe-3in8 2.16B/20B; open-euro-llm 983M/120B and
  302M/200B. Source step-law is steplaw_dense + steplaw_dense_small + steplaw_moe.
- Candidates: every recorded run (completed or diverged) of the target's source that costs at most 10 % of one target
  run, never one of the target's own cell. A run can be bought once.
- Start: runs drawn at random among candidates of at most 1.2 % of a target run, until there are six or the next would
  bring the start above 3 % of a target run. Its price counts. Ten starts a target, the same for all policies.
- Budgets: 5 %, 25 % and 100 % of one target run in total. One campaign passes all three: at each, what was bought so
  far is fitted and the recommended setting judged. A bundle is bought only if it fits into the budget that comes next.
- Policies, all with the same model and the same posterior (`quick_posterior`, 64 particles; 1,000 draws to choose from,
  4,000 behind the setting that is judged):
  evsi: up to four batches a budget, of eight runs at most, each by `design.choose`; three by EVSI per FLOP, the last
  for the most EVSI that the money left can buy; mini-sweeps of 3 to 9 recorded runs beside single runs;
  random: uniformly, until nothing fits; cheapest: by price; cost-weighted: at random, probability inverse to price;
  d-optimal: greedily the largest log predictive variance over noise variance, per FLOP, of the loss given those
  chosen; v-optimal: greedily the largest drop per FLOP of the mean predictive variance of the loss at the target, over
  the nine settings at -0.5, 0, 0.5 e-folds around the recommended one. Both from the same draws, in four batches of up
  to 24 runs a budget;
  botorch: BoTorch's Gaussian process and qNegIntegratedPosteriorVariance per FLOP, four batches of eight a budget
  (`botorch_choice.py`; needs the dependency group `botorch`). `botorch-own` is the same campaign with the setting that
  the process itself would use, the least of its mean at the target.
- Vague: the stated beliefs, form `quadratic`. Warm: `beliefs_from`, trust 1, a model that never saw the target's
  source: for step-law a fit of the three other teams (`benchmarks/bases.py`), for open-euro-llm the released step-law.
- Truth: the unpooled basin of the target's own runs (`benchmarks/unpooled.py`). Regret is measured in it, percent of
  the loss. Coverage: the posterior's 90 % equal-tailed intervals of rate and batch hold the unpooled optimum.
- The first definition had 24 particles, 500 draws for everything, and ignored trunks; its figures are in the history of
  the results, and so are those of before regrets went on straight above 40 % a direction. Particles, draws and the
  straight walls of `design.setting_decision` were settled on four other targets (537M/28.4B, 268M/80B,
  moe-1in8 2.16B/20B, open-euro-llm 589M/120B), three to five starts each.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bases import without
from botorch_choice import choose_by_process, recommended_by_process
from common import RESULTS, load
from quick_posterior import Particles, draws_of, start_particles, update
from scaleband.bayes import Beliefs, cells_of, default_beliefs, model_inputs
from scaleband.design import (
    Candidates,
    candidates_from_table,
    choose,
    law_outcomes,
    setting_decision,
    thinned,
    with_mini_sweeps,
)
from scaleband.inference.fitting import fit
from scaleband.inference.prior import beliefs_from
from scaleband.inference.released import model_path
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.store import read_draws
from scaleband.laws import FORMS, REFERENCE, Cells, Design, LawDraws, design_for
from scaleband.predict import basins, expected_regret, interval, recommend
from scaleband.runs import cell_table
from unpooled import Basin, fit_basin

STEP_LAW = ["steplaw_dense", "steplaw_dense_small", "steplaw_moe"]
OELLM = ["oellm_dense"]
TARGETS = {
    "dense-1.07B": (STEP_LAW, "step-law/dense/steplaw_main 1.07B/56.9B"),
    "dense-429M": (STEP_LAW, "step-law/dense/steplaw_main 429M/50B"),
    "dense-215M": (STEP_LAW, "step-law/dense/steplaw_main 215M/100B"),
    "moe-3in8": (STEP_LAW, "step-law/moe-3in8/steplaw_main 2.16B/20B"),
    "oellm-983M": (OELLM, "open-euro-llm/dense/oellm_english 983M/120B"),
    "oellm-302M": (OELLM, "open-euro-llm/dense/oellm_english 302M/200B"),
}
DEVELOPMENT = {
    "dense-537M": (STEP_LAW, "step-law/dense/steplaw_main 537M/28.4B"),
    "dense-268M": (STEP_LAW, "step-law/dense/steplaw_main 268M/80B"),
    "moe-1in8": (STEP_LAW, "step-law/moe-1in8/steplaw_main 2.16B/20B"),
    "oellm-589M": (OELLM, "open-euro-llm/dense/oellm_english 589M/120B"),
}
BUDGETS = (0.05, 0.25, 1.0)
N_PARTICLES, N_DRAWS, JUDGED, ASKS, BATCH = 64, 1000, 4000, 4, 8
FIELDS = ["target", "warm", "policy", "start", "budget", "spent", "n_runs", "regret", "expected", "in_rate", "in_batch"]


@dataclass(frozen=True)
class Oracle:
    """One target: what can be bought, and what is true."""

    name: str
    runs: pd.DataFrame
    price: np.ndarray
    target_flops: float
    target: Cells
    design: Design
    truth: Basin
    candidates: Candidates


def oracle_of(name: str) -> Oracle:
    """Tables to an oracle."""
    tables, label = (TARGETS | DEVELOPMENT)[name]
    frame = load(tables)
    frame = frame[frame["status"].isin(("completed", "diverged"))].reset_index(drop=True)
    cells = cell_table(frame)
    at = int(np.flatnonzero(cells["cell"] == label)[0])
    design = design_for(cells_of(cells))
    inputs = model_inputs(frame, design, cells=cells)
    row = cells.iloc[[at]]
    own = np.zeros(len(frame), bool)
    own_ids = {inputs.run_ids[k] for k in np.flatnonzero(inputs.cell == at)}
    own |= frame["run_id"].isin(own_ids).to_numpy()
    flops = 6.0 * frame["n_active"].to_numpy(float) * frame["n_tokens"].to_numpy(float)
    target_flops = 6.0 * float(row["n_active"].iloc[0] * row["n_tokens"].iloc[0])
    keep = ~own & (flops <= 0.1 * target_flops)
    runs = frame[keep].reset_index(drop=True)
    columns = ["run_id", "source", "arch", "data", "n_params", "n_active", "n_tokens", "lr_peak", "batch_tokens"]
    table = runs[columns].copy()
    # Near-equal token counts are one cell, as in the fit.
    keys = cell_table(runs)
    index = model_inputs(runs, design, cells=keys)
    by_id = dict(zip(index.run_ids, index.cell, strict=True))
    place = np.array([by_id[i] for i in runs["run_id"]])
    for column in ("n_params", "n_active", "n_tokens"):
        table[column] = keys[column].to_numpy(float)[place]
    return Oracle(name, runs, flops[keep], target_flops, cells_of(row), design, fit_basin(inputs, at),
                  candidates_from_table(table))  # fmt: skip


def start_of(o: Oracle, start: int) -> list[int]:
    """The cheap runs that a campaign begins with."""
    rng = np.random.default_rng([start, zlib.crc32(o.name.encode())])
    chosen: list[int] = []
    for i in rng.permutation(np.flatnonzero(o.price <= 0.012 * o.target_flops)):
        if len(chosen) == 6 or o.price[[*chosen, i]].sum() > 0.03 * o.target_flops:
            break
        chosen.append(int(i))
    return chosen


@dataclass
class State:
    """What one campaign has bought, and its posterior."""

    bought: list[int]
    particles: Particles
    draws: LawDraws | None = None
    judged: LawDraws | None = None


def refit(o: Oracle, state: State, beliefs: Beliefs, rng: np.random.Generator) -> LawDraws:
    """The posterior after everything bought so far; also in `state.judged`, with draws enough for its tails."""
    inputs = model_inputs(o.runs.iloc[sorted(state.bought)], o.design)
    fitted = update(state.particles, inputs, beliefs, rng)
    state.judged = draws_of(state.particles, fitted, inputs, beliefs, JUDGED, rng)
    return thinned(state.judged, N_DRAWS)


Policy = Callable[[Oracle, State, float, int, np.random.Generator], list[int]]


def by_evsi(o: Oracle, state: State, money: float, ask: int, rng: np.random.Generator) -> list[int]:
    """One batch by EVSI; the last ask of a budget spends what is left."""
    assert state.draws is not None
    had = set(state.bought)
    left = [b for b in o.candidates.bundles if int(b[0]) not in had]
    fresh = Candidates(o.candidates.cells, o.candidates.cell, o.candidates.lr_peak, o.candidates.batch_tokens,
                       o.price, tuple(left), o.candidates.run_id)  # fmt: skip
    fresh = with_mini_sweeps(fresh, basins(state.draws, fresh.cells), most_per_cell=8)
    outcomes = law_outcomes(state.draws, fresh, seed=int(rng.integers(2**31)))
    decision = setting_decision(basins(state.draws, o.target))
    _, chosen = choose(
        decision, outcomes, fresh, budget=money, n_runs=BATCH, n_samples=N_DRAWS, replicates=False,
        thrifty=ask < ASKS - 1,
    )  # fmt: skip
    return [int(r) for c in chosen for r in c.runs]


def in_order(order: Callable[[Oracle, np.random.Generator], np.ndarray]) -> Policy:
    """A policy that does not learn: buys down a list as long as something fits, all at its first ask."""

    def policy(o: Oracle, state: State, money: float, ask: int, rng: np.random.Generator) -> list[int]:
        had, out = set(state.bought), []
        for i in order(o, rng) if not ask else ():
            if int(i) not in had and o.price[i] <= money:
                out.append(int(i))
                money -= o.price[i]
        return out

    return policy


def optimal(kind: str) -> Policy:
    """D- or V-optimal: greedy on Gaussian variances from the draws, per FLOP."""

    def policy(o: Oracle, state: State, money: float, ask: int, rng: np.random.Generator) -> list[int]:
        assert state.draws is not None
        had = set(state.bought)
        open_ = np.array([i for i in range(len(o.price)) if i not in had])
        outcomes = law_outcomes(state.draws, o.candidates, seed=0)
        every = np.zeros(len(open_), int)
        y = outcomes.draws(open_, every)
        y = y - y.mean(0)
        clean = outcomes.sigma[:, o.candidates.cell[open_]].mean(0) ** 2
        b = basins(state.draws, o.target)
        best = recommend(b)
        step = np.exp(np.array([-0.5, 0.0, 0.5]))
        lr, batch = (v.ravel() for v in np.meshgrid(best.lr_peak[0] * step, best.batch_tokens[0] * step))
        from scaleband.predict import regret

        at = b.level[:, [0]] + np.minimum(regret(b, lr[:, None], batch[:, None])[:, :, 0], 40.0)
        at = at - at.mean(0)
        out: list[int] = []
        for _ in range(24):
            variance = (y * y).mean(0) + 1e-12
            if kind == "d":
                gain = 0.5 * np.log(np.maximum(variance / clean, 1.0 + 1e-9))
            else:
                gain = (((at.T @ y) / len(y)) ** 2).mean(0) / np.maximum(variance, clean)
            gain = np.where((o.price[open_] <= money) & ~np.isin(open_, out), gain / o.price[open_], -1.0)
            k = int(gain.argmax())
            if gain[k] <= 0:
                break
            out.append(int(open_[k]))
            money -= o.price[open_[k]]
            seen = y[:, k] / np.sqrt(max(variance[k], clean[k]))
            y = y - np.outer(seen, seen @ y / len(y))
            at = at - np.outer(seen, seen @ at / len(y))
        return out

    return policy


POLICIES: dict[str, Policy] = {
    "evsi": by_evsi,
    "random": in_order(lambda o, rng: rng.permutation(len(o.price))),
    "cheapest": in_order(lambda o, rng: np.argsort(o.price, kind="stable")),
    "cost-weighted": in_order(lambda o, rng: np.argsort(rng.exponential(size=len(o.price)) * o.price)),
    "d-optimal": optimal("d"),
    "v-optimal": optimal("v"),
    "botorch": choose_by_process,
}


def prior_for(o: Oracle, warm: bool) -> Beliefs:
    """The stated beliefs, or a model that never saw the target's source."""
    form = FORMS["quadratic"]
    if not warm:
        return default_beliefs(o.design, form)
    if o.target.source[0] == "open-euro-llm":
        return beliefs_from(read_draws(model_path("step-law")), o.design, form, 1.0)
    return beliefs_from(without("step-law"), o.design, form, 1.0)


def campaign(o: Oracle, policy: str, start: int, warm: bool) -> list[dict[str, object]]:
    """One campaign through all budgets: a record at each."""
    beliefs = prior_for(o, warm)
    rng = np.random.default_rng([start, zlib.crc32(f"{o.name} {policy} {warm}".encode())])
    state = State(start_of(o, start), start_particles(N_PARTICLES, 1, start))
    state.draws = refit(o, state, beliefs, rng)
    records = []
    for budget in BUDGETS:
        for ask in range(ASKS):
            money = budget * o.target_flops - o.price[state.bought].sum()
            new = POLICIES[policy](o, state, money, ask, rng) if money > 0 else []
            if not new:
                break
            state.bought += new
            state.draws = refit(o, state, beliefs, rng)
        spent = o.price[state.bought].sum() / o.target_flops
        if spent > budget * (1 + 1e-9) or len(set(state.bought)) < len(state.bought):
            raise RuntimeError(f"{policy} broke its budget or bought a run twice")
        assert state.judged is not None
        b = basins(state.judged, o.target)
        best = recommend(b)
        inside = []
        for h, name in enumerate(("lr_peak", "batch_tokens")):
            band = interval(REFERENCE[name] * np.exp(b.optimum[:, h, 0]), 0.9)
            value = getattr(o.truth, name)
            inside.append(int(band.lower <= value <= band.upper))
        record = {
            "target": o.name, "warm": int(warm), "policy": policy, "start": start, "budget": budget,
            "spent": round(float(spent), 4), "n_runs": len(state.bought),
        }  # fmt: skip
        records.append(record | {
            "regret": o.truth.regret(float(best.lr_peak[0]), float(best.batch_tokens[0])),
            "expected": float(expected_regret(b, best.lr_peak, best.batch_tokens)[0]),
            "in_rate": inside[0], "in_batch": inside[1],
        })  # fmt: skip
        if policy == "botorch":
            own = o.truth.regret(*recommended_by_process(o, state))
            records.append(record | {"policy": "botorch-own", "regret": own})
    return records


def run(options: argparse.Namespace) -> None:
    """Campaigns that are not in the file yet, start by start."""
    RESULTS.mkdir(exist_ok=True)
    path = Path(options.out)
    done = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=FIELDS)
    had = set(zip(done["target"], done["warm"].astype(int), done["policy"], done["start"].astype(int), strict=True))
    oracles = {name: oracle_of(name) for name in options.target}
    for start in options.start:
        for name, o in oracles.items():
            for policy in options.policy:
                if (name, int(options.warm), policy, start) in had:
                    continue
                records = campaign(o, policy, start, options.warm)
                fresh = not path.is_file()
                with path.open("a", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    if fresh:
                        writer.writeheader()
                    writer.writerows(records)
                shown = "  ".join(f"{r['budget']:.0%}: {r['regret']:.4f} ({r['n_runs']} runs)" for r in records)
                print(f"{name} start {start} {policy}{' warm' if options.warm else ''}  {shown}", flush=True)


def everything(options: argparse.Namespace) -> None:
    """Regret and band at each target when every candidate has been bought, at whatever price."""
    for name in options.target:
        o = oracle_of(name)
        if options.nuts:
            fitted = fit(o.runs, settings=SamplerSettings(draws=1600))
            draws, how = fitted.draws(), f" by NUTS, gate {'passed' if fitted.gate.passed else 'failed'}"
        else:
            beliefs, rng = prior_for(o, options.warm), np.random.default_rng(1)
            inputs = model_inputs(o.runs, o.design)
            particles = start_particles(16, 1, 1)
            draws = draws_of(particles, update(particles, inputs, beliefs, rng, moves=4), inputs, beliefs, JUDGED, rng)
            how = " warm" if options.warm else ""
        b = basins(draws, o.target)
        best = recommend(b)
        width = [np.exp(np.ptp(np.quantile(b.optimum[:, h, 0], [0.05, 0.95]))) for h in (0, 1)]
        print(f"{name}{how}: {len(o.price):,} runs for "
              f"{o.price.sum() / o.target_flops:.1f} target runs; regret "
              f"{o.truth.regret(float(best.lr_peak[0]), float(best.batch_tokens[0])):.4f} (expected "
              f"{best.expected_regret[0]:.4f}); bands {width[0]:.1f} and {width[1]:.1f} times wide",
              flush=True)  # fmt: skip


def table(options: argparse.Namespace) -> None:
    """Mean regret by policy and budget, paired differences with 90 % intervals, coverage."""
    every = pd.read_csv(options.out)
    for warm, part in every.groupby("warm"):
        print(f"\n{'warm start' if warm else 'vague priors'}")
        pairs = part.groupby("policy").apply(lambda g: g[["target", "start"]].drop_duplicates().shape[0])
        print("campaigns:", dict(pairs))
        dense = part[part["target"].str.startswith("dense")]
        for what, rows in (("dense Step Law targets", dense), ("all targets", part)):
            print(f"mean regret (expected by the posterior), percent, {what}")
            mean = rows.pivot_table(index="policy", columns="budget", values=["regret", "expected"], aggfunc="mean")
            print(mean.to_string(float_format=lambda v: f"{v:.4f}"))
        cover = part.groupby(["policy", "budget"])[["in_rate", "in_batch"]].agg(["sum", "count"])
        print("90 % intervals that hold the optimum\n", cover.to_string())
        wide = part.pivot_table(index=["target", "start"], columns=["policy", "budget"], values="regret")
        if "evsi" not in wide:
            continue
        print("paired: other minus evsi, mean and 90 % interval (bootstrap over campaigns)")
        rng = np.random.default_rng(0)
        for policy in [p for p in (*POLICIES, "botorch-own") if p != "evsi" and p in wide]:
            for budget in BUDGETS:
                d = (wide[(policy, budget)] - wide[("evsi", budget)]).dropna().to_numpy()
                means = rng.choice(d, (4000, len(d))).mean(1)
                low, high = np.quantile(means, [0.05, 0.95])
                print(f"  {policy:14s} {budget:5.0%}  {d.mean():+.4f} ({low:+.4f} to {high:+.4f}), {len(d)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=["run", "everything", "table"])
    parser.add_argument("--target", nargs="+", choices=list(TARGETS | DEVELOPMENT), default=list(TARGETS))
    parser.add_argument("--policy", nargs="+", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--start", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--nuts", action="store_true", help="`everything` by NUTS and not by the quick posterior")
    parser.add_argument("--out", default=str(RESULTS / "replay.csv"))
    options = parser.parse_args()
    if options.nuts and options.warm:
        parser.error("--nuts is for vague priors; check_quick_posterior.py --warm has NUTS from a warm prior")
    {"run": run, "everything": everything, "table": table}[options.do](options)


if __name__ == "__main__":
    main()
