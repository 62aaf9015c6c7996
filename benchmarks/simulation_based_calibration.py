"""Does the posterior mean what it says? Simulation-based calibration of the whole path from runs to answers.

Run as ``python benchmarks/simulation_based_calibration.py [--sweeps 120] [--seed 1] [--small]``, half a minute a sweep;
``--keep benchmarks/results/simulation_based_calibration.jsonl`` goes on from the sweeps that are there (seed 1). Each
sweep: draw a truth from the stated beliefs, simulate the runs, fit, and rank the truth among thinned posterior draws
(Talts et al., arXiv 1804.06788). If model, sampler and unpacking agree with the prior, ranks are uniform.

The stated beliefs are wide, so many simulated sweeps look like none that anyone would run. Those with a run
1.5 times above its cell's best loss are drawn again. That depends on the losses alone, so ranks stay uniform
(Modrák et al., arXiv 2211.02383), and it makes the likelihood of the accepted sweeps exact: nothing is censored.
A fit whose chains disagree (R-hat above 1.1) is counted and, for the same reason, may be left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm

from scaleband.bayes import ModelInputs, cells_of, default_beliefs, model_inputs
from scaleband.bayes.simulate import simulate_runs, simulate_state
from scaleband.inference.fitting import Fit
from scaleband.inference.gate import diagnose
from scaleband.inference.sampler import Compiled, SamplerSettings, compile_model, sample
from scaleband.inference.unpack import unpack
from scaleband.laws import ANGLE, FORMS, RESPONSES, SKEW, Cells, LawDraws, design_for
from scaleband.runs import run_table

N_RANKS = 32  # 31 thinned draws; eight bins of four ranks
N_BINS = 8
RHAT_LIMIT = 1.1

GRID = (  # source, arch, share of the parameters used per token, n_params, n_tokens
    ("team-a", "dense", 1.0, 1e8, 5e9), ("team-a", "dense", 1.0, 1e8, 4e10), ("team-a", "dense", 1.0, 4e8, 5e9),
    ("team-a", "dense", 1.0, 4e8, 4e10), ("team-a", "moe", 0.25, 4e8, 1e10), ("team-a", "moe", 0.1, 1.6e9, 1e10),
    ("team-b", "dense", 1.0, 1e8, 1e10), ("team-b", "dense", 1.0, 1.6e9, 4e10), ("team-b", "moe", 0.25, 8e8, 2e10),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One sweep: rank of the truth for every quantity (0 to `N_RANKS` - 1), and how the fit went."""

    ranks: dict[str, int]
    rhat: float
    divergences: int
    gate_passed: bool
    drawn_again: int
    seconds: float


def plan(grid: tuple = GRID, *, n_lr: int = 5, n_batch: int = 3) -> pd.DataFrame:
    """The settings of every sweep: a grid of rates and batches in each cell, around 1e-3 and 524,288."""
    rows = [
        {
            "source": source, "arch": arch, "data": "web", "n_params": n, "n_active": n * share, "n_tokens": d,
            "lr_peak": lr, "batch_tokens": batch, "seq_len": 2048, "loss": 3.0,
        }
        for source, arch, share, n, d in grid
        for lr in 1e-3 * np.exp(np.linspace(-2.4, 2.4, n_lr))
        for batch in 524_288 * np.exp(np.linspace(-2.0, 2.0, n_batch))
    ]  # fmt: skip
    return run_table(pd.DataFrame(rows)).frame


def new_cells(k: int) -> Cells:
    """Two cells without runs: one between the fitted ones, one of a source never seen.

    A new level's draw depends on its name, so both are named anew for each sweep `k`.
    """
    n, d = np.array([4e8, 4e8]), np.array([1.3e10, 1.3e10]) * (1 + 1e-4 * k)
    return Cells(("team-a", f"team-{k}"), ("dense", "dense"), ("web", "web"), n, n, d)


def quantities(draws: LawDraws, target_state: np.ndarray) -> dict[str, np.ndarray]:
    """What is ranked, name -> (sample,): from draws, or from a truth dressed as one draw."""
    columns = {name: k for k, name in enumerate(draws.design.columns)}
    out = {
        f"{response}: exponent on {feature}": draws.law[:, r, columns[column]]
        for r, response in enumerate(RESPONSES[:2])
        for feature, column in (("n_params", "n"), ("n_tokens", "d"), ("sparsity", "sparsity"))
    }
    offsets = [columns[name] for name in ("source:team-a", "family:dense", "data:web")]
    for r, response in enumerate(RESPONSES):
        if r < 2:
            out[f"{response}: offsets of team-a/dense/web"] = draws.law[:, r, offsets].sum(1)
        out[f"{response}: cell scatter"] = draws.scatter[:, r]
        out[f"{response}: first cell"] = draws.state[:, r, 0]
        out[f"{response}: cell without runs"] = target_state[:, r, 0]
    for r, response in enumerate(RESPONSES[:2]):
        out[f"{response}: cell of a new source"] = target_state[:, r, 1]
    for j in (0, 1):
        out[f"angle {j + 1}, mean over cells"] = draws.state[:, ANGLE][:, j].mean(1)
        out[f"skew {j + 1}, mean over cells"] = draws.state[:, SKEW][:, j].mean(1)
    for j, source in enumerate(draws.sources):
        out[f"sigma {source}"] = draws.sigma[:, j]
    return out | {"rho": draws.rho, "nu": draws.nu}


def rank(truth: float, draws: np.ndarray) -> int:
    """Rank of the truth among `N_RANKS` - 1 draws, evenly thinned: 0 to `N_RANKS` - 1."""
    at = np.linspace(0, len(draws) - 1, N_RANKS - 1).round().astype(int)
    return int((draws[at] < truth).sum())


def as_draws(values: Mapping[str, np.ndarray], inputs: ModelInputs) -> LawDraws:
    """Named values with leading (chain, draw) as `LawDraws`, the way a fit does it."""
    gate = diagnose(values, np.zeros((1, 1), bool))
    return Fit(dict(values), {}, inputs, default_beliefs(inputs.design, FORMS["linear"]), gate, {}).draws()


def one_sweep(
    k: int, compiled: Compiled, settings: SamplerSettings, *, seed: int, width: float = 1.0
) -> Outcome:
    """Simulate, fit and rank sweep `k`. `width` shrinks the draws around their mean: a posterior known to be wrong."""
    begin = time.perf_counter()
    inputs, target = compiled.inputs, new_cells(k)
    c, both = inputs.cells, (inputs.cells, target)
    everything = Cells(
        *(tuple(v for part in both for v in getattr(part, name)) for name in ("source", "arch", "data")),
        *(np.concatenate([getattr(part, name) for part in both]) for name in ("n_params", "n_active", "n_tokens")),
    )
    wide, beliefs = design_for(everything), default_beliefs(inputs.design, FORMS["linear"])
    keep = [wide.columns.index(name) for name in inputs.design.columns]
    sources = [sorted(set(everything.source)).index(s) for s in inputs.sources]
    rng = np.random.default_rng([seed, k])
    redrawn = -1
    while True:
        redrawn += 1
        if redrawn > 1000:
            raise RuntimeError("no acceptable sweep in 1,000: the beliefs and the grid do not go together")
        truth = simulate_state(everything, wide, default_beliefs(wide, FORMS["linear"]), rng)
        target_state = truth["state"][:, len(c) :]
        truth |= {
            "state": truth["state"][:, : len(c)], "law": truth["law"][:, keep], "sigma": truth["sigma"][sources]
        }  # fmt: skip
        runs = simulate_runs(inputs, truth, rng)
        if not runs.censored.any():
            break
    raw = sample(compiled, settings, inputs=runs, beliefs=beliefs)
    posterior = unpack(raw, runs, beliefs, seed=k)
    gate = diagnose(posterior, raw.stats["diverging"])
    draws = as_draws(posterior, runs)
    told = quantities(draws, draws.at(target))
    true = quantities(as_draws({n: v[None, None] for n, v in truth.items()}, runs), target_state[None])
    ranks = {
        name: rank(float(true[name][0]), value.mean() + width * (value - value.mean())) for name, value in told.items()
    }
    return Outcome(ranks, gate.rhat[0], gate.divergences, gate.passed, redrawn, time.perf_counter() - begin)


def uniformity(ranks: np.ndarray) -> dict[str, float]:
    """Test that ranks are uniform, and which way they are not.

    Returns
    -------
    p: twice the smaller of two p-values, chi-square over bins and a z-test of the mean, which sees small shifts that
    the bins do not; `mean`, 0.5 if unbiased (below: the posterior lies above the truth); `spread`, 1 if the bands
    are right, above 1 if they are too narrow, below if too wide.
    """
    counts = np.bincount(ranks * N_BINS // N_RANKS, minlength=N_BINS)
    expected = len(ranks) / N_BINS
    u = (ranks + 0.5) / N_RANKS
    shape = float(chi2.sf(((counts - expected) ** 2 / expected).sum(), N_BINS - 1))
    shift = float(2 * norm.sf(abs(u.mean() - 0.5) * np.sqrt(12 * len(u))))
    return {
        "p": min(1.0, 2 * min(shape, shift)),
        "mean": float(u.mean()),
        "spread": float(np.sqrt(12 * ((u - 0.5) ** 2).mean())),
    }


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values: family-wise, without assuming that the quantities are independent."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def calibration_table(ranks: pd.DataFrame) -> pd.DataFrame:
    """One row per quantity: p, Holm's p, mean, spread; `ranks` is (sweep, quantity)."""
    table = pd.DataFrame({name: uniformity(ranks[name].to_numpy()) for name in ranks.columns}).T
    table.insert(1, "p_holm", holm(table["p"].to_numpy()))
    return table


def compiled_for(frame: pd.DataFrame) -> Compiled:
    """The model of the plan's cells, compiled once for all sweeps."""
    cells = frame[["source", "arch", "data", "n_params", "n_active", "n_tokens"]].drop_duplicates()
    design = design_for(cells_of(cells))
    return compile_model(model_inputs(frame, design), default_beliefs(design, FORMS["linear"]))


def run(
    n_sweeps: int, seed: int, settings: SamplerSettings, compiled: Compiled, *, width: float = 1.0,
    say: Callable[[str], None] = print, keep: Path | None = None,
) -> list[Outcome]:
    """All sweeps; with `keep`, each outcome is a line of that file, and those already there count."""
    lines = keep.read_text().splitlines() if keep and keep.exists() else []
    outcomes = [Outcome(**json.loads(line)) for line in lines]
    for k in range(len(outcomes), n_sweeps):
        outcomes.append(one_sweep(k, compiled, settings, seed=seed, width=width))
        o = outcomes[-1]
        if keep:
            with keep.open("a") as file:
                file.write(json.dumps(asdict(o)) + "\n")
        say(f"sweep {k}: {o.seconds:.0f} s, R-hat {o.rhat:.3f}, {o.divergences} divergences, {o.drawn_again} redrawn")
    return outcomes


def report(outcomes: list[Outcome]) -> str:
    """The calibration table with its counts, as text."""
    kept = [o for o in outcomes if o.rhat <= RHAT_LIMIT]
    table = calibration_table(pd.DataFrame([o.ranks for o in kept or outcomes]))
    lines = [
        f"{len(outcomes)} sweeps fitted, {sum(o.drawn_again for o in outcomes)} drawn again (a run above 1.5x its "
        f"cell's best); {len(outcomes) - len(kept)} left out (R-hat above {RHAT_LIMIT})",
        f"of those kept: {sum(not o.gate_passed for o in kept)} fail the gate (short chains here: "
        f"{sum(o.rhat > 1.01 for o in kept)} by R-hat), {sum(o.divergences > 0 for o in kept)} with divergences",
        "p: the smaller of chi-square over 8 bins and of the mean, doubled; mean 0.5 is unbiased; spread above 1 is "
        "too narrow a posterior",
        table.to_string(float_format=lambda v: f"{v:.3f}"),
        f"smallest Holm p: {table['p_holm'].min():.3f} ({table['p_holm'].idxmin()})",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--small", action="store_true", help="a few short fits of a tiny table: shows that it runs")
    parser.add_argument("--keep", type=Path, help="file of outcomes, one a sweep: an interrupted run goes on from it")
    asked = parser.parse_args()
    n_sweeps, frame = asked.sweeps, plan()
    settings = SamplerSettings(draws=asked.draws, tune=300, chains=2, seed=asked.seed, target_accept=0.9)
    if asked.small:
        n_sweeps, settings = 12, SamplerSettings(draws=150, tune=150, chains=2, seed=asked.seed)
        frame = plan(GRID[:2] + GRID[6:8], n_lr=4, n_batch=3)
    compiled = compiled_for(frame)
    outcomes = run(n_sweeps, asked.seed, settings, compiled, keep=asked.keep, say=lambda line: print(line, flush=True))
    print(f"seed {asked.seed}")
    print(report(outcomes))


if __name__ == "__main__":
    main()
