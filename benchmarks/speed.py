"""Speed: effective draws a second beside a plain build, cold fit, refits, and ten times the cells.

    python benchmarks/speed.py effective      min-ESS a second of sampling, this model and the non-centred baseline
    python benchmarks/speed.py effective --cells 6      the same on six of the released cells
    python benchmarks/speed.py fit            `scaleband fit` on the 2,619 released runs, cold start to saved file
    python benchmarks/speed.py refit          a refit after adding runs to known cells, and one that adds a cell
    python benchmarks/speed.py scale          a simulated table, and ten times its cells

Min-ESS is the smallest bulk ESS over the shared parameters and every cell's state; both models are sampled by
nutpie on JAX with two chains at the same target acceptance, ours then moved on (`inference.moves`), as it ships;
sampling time leaves compiling out and tuning and moves in. The baseline starts where ours starts and is tuned longer
until its R-hat is at most 1.05 (or the printed R-hat says not): on all 33 cells 18 minutes were not enough, so that
`--cells` takes fewer of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from common import data_folder, load
from scaleband.bayes import cells_of, default_beliefs, model_inputs
from scaleband.inference.fitting import fit
from scaleband.inference.refit import refit as moved_refit
from scaleband.inference.sampler import SamplerSettings, compile_model, sample
from scaleband.inference.unpack import unpack
from scaleband.laws import FORMS, design_for
from scaleband.runs import cell_index, cell_table

RELEASED = ["steplaw_dense", "steplaw_moe"]


def worst(values: dict[str, np.ndarray]) -> tuple[float, float]:
    """Smallest bulk ESS and largest R-hat over named draws (chain, draw, ...)."""
    from arviz_stats.base import array_stats

    ess, rhat = np.inf, 0.0
    for value in values.values():
        flat = value.reshape(*value.shape[:2], -1)
        ess = min(ess, float(np.min(array_stats.ess(flat, chain_axis=0, draw_axis=1, method="bulk"))))
        rhat = max(rhat, float(np.max(array_stats.rhat(flat, chain_axis=0, draw_axis=1))))
    return ess, rhat


def effective(options: argparse.Namespace) -> None:
    """Min-ESS per second of sampling, ours and the baseline's."""
    import nutpie
    from threadpoolctl import threadpool_limits

    from baseline import build_baseline

    frame = load(RELEASED)
    if options.cells:
        # Every so many cells, so that sizes, tokens and architectures still differ.
        cells = cell_table(frame)
        kept = np.unique(np.linspace(0, len(cells) - 1, options.cells).astype(int))
        frame = frame[np.isin(cell_index(frame, cells), kept)].reset_index(drop=True)
    inputs = model_inputs(frame, design_for(cells_of_frame(frame)))
    print(f"{len(inputs.y):,} runs in {len(inputs.cells)} cells")
    beliefs = default_beliefs(inputs.design, FORMS["linear"])
    settings = SamplerSettings(target_accept=0.85)
    compiled = compile_model(inputs, beliefs)
    sample(compiled, SamplerSettings(draws=2, tune=2, chains=1))  # JAX compiles at the first call
    started = time.perf_counter()
    raw = sample(compiled, settings)
    seconds = time.perf_counter() - started
    posterior = unpack(raw, inputs, beliefs, seed=1)
    ess, rhat = worst({k: posterior[k] for k in ("shared", "state", "sigma", "scatter")})
    ours = ess / seconds
    print(f"scaleband: {seconds:.1f} s, min ESS {ess:.0f}, {ours:.2f} a second, R-hat {rhat:.3f}, "
          f"divergences {raw.stats['diverging'].sum()}, steps {raw.stats['n_steps'].mean():.0f}")

    model = build_baseline(inputs, beliefs)
    rng = np.random.default_rng(1)
    point = {rv.name: 0.1 * rng.standard_normal(tuple(int(n) for n in rv.shape.eval())) for rv in model.free_RVs}
    code = nutpie.compile_pymc_model(
        model, backend="jax", gradient_backend="jax", freeze_model=False, initial_points=point, jitter_rvs=set()
    )
    with threadpool_limits(1):
        nutpie.sample(code, draws=2, tune=2, chains=1, seed=1, progress_bar=False)
        started = time.perf_counter()
        tree = nutpie.sample(
            code, draws=options.draws, tune=options.tune, chains=2, cores=2, seed=1, target_accept=0.85,
            progress_bar=False, save_warmup=False,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    names = ["shared_std", "log_sigma_std", *(f"state_{r}" for r in range(9))]
    ess, rhat = worst({name: tree["posterior"][name].to_numpy() for name in names})
    stats = tree["sample_stats"]
    print(f"baseline:  {seconds:.1f} s, min ESS {ess:.0f}, {ess / seconds:.3f} a second, R-hat {rhat:.3f}, "
          f"divergences {int(stats['diverging'].sum())}, steps {float(stats['n_steps'].mean()):.0f}")
    print(f"ratio {ours / (ess / seconds):.1f}")


def cells_of_frame(frame):  # type: ignore[no-untyped-def]
    """Cells of a frame."""
    return cells_of(cell_table(frame))


def cold_fit(options: argparse.Namespace) -> None:
    """The whole command, as a process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "fit.nc"
        tables = [str(data_folder() / f"{name}.csv") for name in RELEASED]
        command = [str(Path(sys.executable).with_name("scaleband")), "fit", *tables, "--loss", "none"]
        for k in range(options.repeat):
            started = time.perf_counter()
            done = subprocess.run([*command, "--out", str(out), "--quiet"], check=False, capture_output=True, text=True)
            print(f"run {k + 1}: {time.perf_counter() - started:.1f} s, exit {done.returncode} {done.stderr.strip()}")


def refit(options: argparse.Namespace) -> None:
    """First fit against refits in the same process, and these against fits from the start."""
    frame = load(RELEASED)
    keys = frame[["arch", "n_params", "n_tokens"]].astype(str).agg("/".join, axis=1)
    later = keys == keys.iloc[-1]
    known = frame[~later]
    rng = np.random.default_rng(1)
    early = known[rng.random(len(known)) < 0.9]
    started = time.perf_counter()
    first = fit(early)
    one = time.perf_counter() - started
    verdict = "passed" if first.gate.passed else first.gate.messages
    print(f"first fit, {len(early)} runs: {one:.1f} s (imports excluded), gate {verdict}")
    for what, rows in (("more runs in known cells", known), ("more runs and one new cell", frame)):
        started = time.perf_counter()
        again = moved_refit(rows, first)
        two = time.perf_counter() - started
        print(f"refit, {what}, {len(rows)} runs: {two:.1f} s, {two / one:.0%} of the first, {again.meta['refit']}, "
              f"gate {'passed' if again.gate.passed else again.gate.messages}")
        full = fit(rows)
        names = ("state", "scatter", "rho", "nu", "sigma")
        pairs = [(again.posterior[name], full.posterior[name]) for name in names]
        away = [abs(moved.mean((0, 1)) - own.mean((0, 1))) / own.std((0, 1)) for moved, own in pairs]
        print(f"  against a fit from the start (gate {'passed' if full.gate.passed else 'failed'}): means differ by "
              f"{np.sqrt(np.mean(np.concatenate([a.ravel() for a in away]) ** 2)):.3f} standard deviations rms, "
              f"{max(a.max() for a in away):.3f} at most")


def scale(options: argparse.Namespace) -> None:
    """A simulated table and ten times its cells."""
    import pandas as pd

    from scaleband.laws.simulated import simulated_sweep
    from scaleband.runs import run_table

    def table(copies: int) -> pd.DataFrame:
        parts = []
        for seed in range(copies):
            runs = pd.DataFrame(simulated_sweep(seed=seed).columns)
            runs["n_tokens"] *= 1.07**seed  # other cells of the same groups
            runs["run_id"] = [f"{seed}-{k}" for k in range(len(runs))]
            parts.append(runs)
        return run_table(pd.concat(parts, ignore_index=True)).frame

    seconds = []
    for copies in (1, 10):
        frame = table(copies)
        started = time.perf_counter()
        done = fit(frame)
        seconds.append(time.perf_counter() - started)
        print(f"{done.meta['n_cells']} cells, {len(frame)} runs: {seconds[-1]:.1f} s, "
              f"gate {'passed' if done.gate.passed else done.gate.messages}")
    print(f"ratio {seconds[1] / seconds[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["effective", "fit", "refit", "scale"])
    parser.add_argument("--draws", type=int, default=1000, help="of the baseline")
    parser.add_argument("--tune", type=int, default=1000, help="of the baseline")
    parser.add_argument("--cells", type=int, default=0, help="of the released runs, for `effective`; all by default")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    {"effective": effective, "fit": cold_fit, "refit": refit, "scale": scale}[options.what](options)


if __name__ == "__main__":
    main()
