"""Coverage and regret on cells whose runs the fit never saw.

    python benchmarks/held_out.py --protocol cell     each of the 57 Step Law cells left out in turn
    python benchmarks/held_out.py --protocol variant  each MoE variant left out entirely
    python benchmarks/held_out.py --protocol size     all dense cells of 1.07B left out
    python benchmarks/held_out.py --sweep scaleband-tiny --form linear      the shipped sweep, each cell in turn
    python benchmarks/held_out.py --sweep scaleband-tiny --form linear --protocol tenth     every tenth cell together
    python benchmarks/held_out.py --sweep scaleband-tiny --form linear --protocol larger    its large part left out

Definition (fixed before the first held-out figure was looked at):

- truth: the unpooled basin of the cell's own runs (`benchmarks/unpooled.py`);
- coverage: the equal-tailed 50 % and 90 % interval of the optimum's log rate and log batch contains the truth's
  optimum; all cells count, and cells whose best run is on the edge of their grid are counted apart too;
- regret: of the recommended setting (smallest posterior expected regret), measured in the truth's basin;
  beside it the same from the recorded run nearest to the setting (natural-log distance), and both for the
  published Step Law;
- for the shipped sweep the same, all its seeds in the cell's runs; the form is `linear` (three sizes and two token
  counts bend nothing; with its large part four and three, where `quadratic` scores no better), and published Step
  Law stands beside it as a stranger. The first sweep had a prior of its own that pinned the basins' shape; the
  second, longer and wider one has the stated beliefs, settled before any of its cells was left out;
- added after importance weights had failed on the shipped sweep (their void counts were seen), before any exact refit:
  that sweep's truth is rough (fifteen to twenty runs a cell, noise of half a percent and more), so coverage is also
  counted with the truth's own standard error, from the curvature of its fit, added to the band in squares (normal);
  and `tenth` leaves every tenth cell out together, a cheaper stand-in for `cell` where importance weights fail;
- added later still, before it was looked at on any table: where runs are few and noisy an unpooled truth leans on the
  beliefs about a basin's shape, which drag its optimum. A second truth is the basin of the cell's own runs where
  curvatures, angles and skews follow what the fit *to the other cells* foretells for this one (mean and spread of its
  draws), and nothing is said of the place of the optimum; coverage with its standard error added is printed beside the
  first;
- and a third, added after the cells' own optima under the *released* fit's shape and noise had been looked at on the
  shipped sweep (they lie where its law says, 0.08 and 0.09 rms), before any cell that was left out was: the second
  truth takes a cell's noise from its own fifteen to twenty runs, nine numbers and a belief of 0.1 % where seeds alone
  differ by 0.6 %, and lets it grow with the excess by a constant. The third takes the noise from the other cells too
  (sigma of the source, rho and nu, medians of the fit that never saw the cell), so that the runs up the walls say where
  the optimum is as far as they do in the other cells. Coverage with its standard error added stands beside the others;
- the measure measured: `--simulated SEED` replaces the losses by those of a truth that is known, one draw of the
  released model of that sweep (states, noise), at the same settings, and goes the same way. How often each of the
  truths above is then held, beside the optimum that was simulated, says what these counts would be if the model were
  right. Fixed before any simulated table was looked at;
- `larger` leaves out all cells of the shipped sweep's large part together: what its first 36 cells say of up to four
  times the tokens and 2.8 times the parameters. That part was laid around what the model of the first 36 foretold, and
  its best recorded runs had been seen when this line was written, but no fit without it;
- the fit: one form, stated beliefs, 2 chains, seed 1, to the other cells alone; the left-out cell is then a new
  cell of the law (and its size or variant a level never seen).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from common import RESULTS, load
from scaleband.bayes import ModelInputs, cells_of, model_inputs
from scaleband.bayes.simulate import with_simulated_losses
from scaleband.inference.fitting import fit
from scaleband.inference.released import model_path
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.store import read_draws
from scaleband.laws import FORMS, Cells, LawDraws, design_for, published_optimum
from scaleband.predict import basins, interval, joint_level, recommend, target_cells
from scaleband.runs import cell_table, read_runs, sweep_path, usable
from unpooled import Basin, fit_basin

TABLES = ["steplaw_dense", "steplaw_dense_small", "steplaw_moe"]


def nearest_recorded(inputs: ModelInputs, c: int, lr_peak: float, batch_tokens: float) -> float:
    """Regret of the recorded run nearest to a setting, above the cell's best recorded run, percent."""
    rows = np.flatnonzero((inputs.cell == c) & ~inputs.censored)
    x = np.log(lr_peak / 1e-3), np.log(batch_tokens / 524_288)
    far = (inputs.log_lr[rows] - x[0]) ** 2 + (inputs.log_batch[rows] - x[1]) ** 2
    return float(inputs.y[rows[far.argmin()]] - inputs.y[rows].min())


def z_with_errors(x: np.ndarray, truth: Basin, h: int) -> float:
    """How far a truth's log rate (h 0) or log batch (1) is from draws `x` of it, in units of both errors together."""
    return float((truth.optimum[h] - np.median(x)) / np.hypot(x.std(), truth.optimum_se[h]))


def one_cell(inputs: ModelInputs, c: int) -> Cells:
    """Cell `c` as a target."""
    cells = inputs.cells
    return target_cells(
        cells.n_params[c], cells.n_tokens[c], source=cells.source[c], arch=cells.arch[c], data=cells.data[c],
        n_active=cells.n_active[c],
    )  # fmt: skip


def score_cell(draws: LawDraws, inputs: ModelInputs, truth: Basin, c: int) -> dict[str, float]:
    """Coverage and regret of one held-out cell."""
    cells = inputs.cells
    b = basins(draws, one_cell(inputs, c))
    setting = recommend(b)
    lr, batch = float(setting.lr_peak[0]), float(setting.batch_tokens[0])
    published = [float(v) for v in published_optimum(cells.n_params[c], cells.n_tokens[c])]
    out: dict[str, float] = {}
    for h, name in enumerate(("rate", "batch")):
        x = b.optimum[:, h, 0]
        for mass in (0.5, 0.9):
            band = interval(x, mass)
            out[f"{name}_{mass:.0%}"] = float(band.lower <= truth.optimum[h] <= band.upper)
        band = interval(x, 0.9)
        out[f"{name}_se"] = float(truth.optimum_se[h])
        out[f"{name}_width"] = float(np.exp(band.upper - band.lower))
        out[f"{name}_z"] = float((truth.optimum[h] - np.median(x)) / x.std())
        out[f"{name}_z_both"] = z_with_errors(x, truth, h)
    state = np.concatenate([np.log(b.curvature[..., 0]), b.angle[..., 0], b.skew[..., 0]], axis=1)
    noises: dict[str, tuple[float, float, float] | None] = {"shaped": None}
    if cells.source[c] in draws.sources:  # noise as in the other cells too, for a source that has some
        sigma = float(np.median(draws.sigma[:, draws.sources.index(cells.source[c])]))
        noises["heard"] = sigma, float(np.median(draws.rho)), float(np.median(draws.nu))
    for which, noise in noises.items():
        basin = fit_basin(inputs, c, (state.mean(axis=0), state.std(axis=0)), noise)
        for h, name in enumerate(("rate", "batch")):
            out[f"{name}_se_{which}"] = float(basin.optimum_se[h])
            out[f"{name}_z_{which}"] = z_with_errors(b.optimum[:, h, 0], basin, h)
        out[f"regret_{which}"] = basin.regret(lr, batch)
    out["joint"] = float(joint_level(b, truth.lr_peak, truth.batch_tokens)[0])
    out["expected_regret"] = float(setting.expected_regret[0])
    out["regret"] = truth.regret(lr, batch)
    out["regret_recorded"] = nearest_recorded(inputs, c, lr, batch)
    out["step_law"] = truth.regret(*published)
    out["step_law_recorded"] = nearest_recorded(inputs, c, *published)
    return out


def simulated(frame: pd.DataFrame, inputs: ModelInputs, model: str, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The table with the losses of one draw of a released model, and that draw's optima (2, cell)."""
    rng = np.random.default_rng([seed, 20])
    draws = read_draws(model_path(model))
    known = list(zip(draws.cells.arch, draws.cells.data, draws.cells.n_params, draws.cells.n_tokens, strict=True))
    own = inputs.cells
    place = [known.index(key) for key in zip(own.arch, own.data, own.n_params, own.n_tokens, strict=True)]
    k = int(rng.integers(draws.n_samples))
    truth = {"state": draws.state[k][:, place], "sigma": draws.sigma[k], "rho": draws.rho[k], "nu": draws.nu[k]}
    made = with_simulated_losses(frame.assign(status="completed"), inputs, truth, rng)
    return made, truth["state"][:2]


def folds(protocol: str, cells: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Names and boolean masks over the cells that are left out together."""
    if protocol == "cell":
        return [(label, np.arange(len(cells)) == k) for k, label in enumerate(cells["cell"])]
    if protocol == "tenth":
        return [(f"tenth {k}", np.arange(len(cells)) % 10 == k) for k in range(10)]
    if protocol == "variant":
        moe = [a for a in sorted(set(cells["arch"])) if a.startswith("moe")]
        return [(a, (cells["arch"] == a).to_numpy()) for a in moe]
    if protocol == "larger":
        beyond = (cells["n_active"] > 2e5) | (cells["n_tokens"] > 1e6)
        return [("the large part", (beyond & (cells["source"] == "scaleband")).to_numpy())]
    if protocol == "size":
        largest = (cells["arch"] == "dense") & (cells["n_params"] > 1e9)
        return [("dense 1.07B", largest.to_numpy())]
    raise ValueError(protocol)


def summary(table: pd.DataFrame, what: str) -> None:
    """Print the counts and means that the README quotes."""
    counts = {name: int(table[name].sum()) for name in ("rate_90%", "batch_90%", "rate_50%", "batch_50%")}
    print(f"{what}: {len(table)} cells")
    print(
        f"  90 % intervals cover rate {counts['rate_90%']}, batch {counts['batch_90%']}, "
        f"joint {(table.joint <= 0.9).sum()}; 50 %: rate {counts['rate_50%']}, batch {counts['batch_50%']}"
    )
    known = table[np.isfinite(table.rate_se) & np.isfinite(table.batch_se)]
    print(
        f"  with the truth's own error (median {np.exp(known.rate_se.median()) - 1:.0%}, "
        f"{np.exp(known.batch_se.median()) - 1:.0%}; {len(known)} cells have one) 90 % cover rate "
        f"{(known.rate_z_both.abs() < 1.645).sum()}, batch {(known.batch_z_both.abs() < 1.645).sum()}"
    )
    for which, words in (("shaped", "shape"), ("heard", "shape and noise")):
        if f"rate_z_{which}" not in table:
            continue
        se = table[[f"rate_se_{which}", f"batch_se_{which}"]]
        known = table[np.isfinite(se).all(axis=1)]
        rate, batch = np.exp(se.loc[known.index].median()) - 1
        print(
            f"  truth in the others' {words} (error {rate:.0%}, {batch:.0%}; {len(known)} cells) 90 % cover rate "
            f"{(known[f'rate_z_{which}'].abs() < 1.645).sum()}, batch "
            f"{(known[f'batch_z_{which}'].abs() < 1.645).sum()}; regret % mean {table[f'regret_{which}'].mean():.4f}"
        )
    print(
        f"  regret % mean {table.regret.mean():.4f} max {table.regret.max():.4f} "
        f"(expected {table.expected_regret.mean():.4f}; nearest recorded {table.regret_recorded.mean():.4f})"
    )
    print(
        f"  published Step Law mean {table.step_law.mean():.4f} max {table.step_law.max():.4f} "
        f"(nearest recorded {table.step_law_recorded.mean():.4f})"
    )
    print(
        f"  90 % band, end to end, median: rate {table.rate_width.median():.2f}x, "
        f"batch {table.batch_width.median():.2f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", choices=["cell", "tenth", "variant", "size", "larger"], default="cell")
    parser.add_argument("--sweep", default="step-law", help="step-law, or the name of a shipped sweep")
    parser.add_argument("--form", choices=list(FORMS), default="quadratic")
    parser.add_argument("--draws", type=int, default=1500)
    parser.add_argument("--tune", type=int, default=500)
    parser.add_argument("--only", type=int, nargs="*", help="indices of folds, for a quick look")
    parser.add_argument("--simulated", type=int, metavar="SEED", help="losses of a draw of the sweep's released model")
    options = parser.parse_args()

    frame = load(TABLES) if options.sweep == "step-law" else read_runs(sweep_path(options.sweep)).frame
    cells = cell_table(frame)
    full = model_inputs(frame, design_for(cells_of(cells)), cells=cells)
    optima = None
    if options.simulated is not None:
        frame, optima = simulated(usable(frame), full, options.sweep, options.simulated)
        cells = cell_table(frame)
        full = model_inputs(frame, design_for(cells_of(cells)), cells=cells)
    settings = SamplerSettings(draws=options.draws, tune=options.tune, chains=2, seed=1)
    records, first = [], None
    chosen = folds(options.protocol, cells)
    for k, (name, left_out) in enumerate(chosen):
        if options.only and k not in options.only:
            continue
        started = time.perf_counter()
        # The left-out cells keep their place without runs, so that one compiled model serves all folds.
        keep = ~left_out[cell_of_row(frame, cells)]
        fitted = fit(frame[keep], form=options.form, settings=settings, cells=cells, reuse=first)
        first = first or fitted
        draws, gate = fitted.draws(), fitted.gate
        for c in np.flatnonzero(left_out):
            record = score_cell(draws, full, fit_basin(full, int(c)), int(c))
            if optima is not None:
                record |= against(draws, full, int(c), optima[:, c])
            records.append(
                {"fold": name, "cell": cells["cell"].iloc[c], "arch": cells["arch"].iloc[c],
                 "edge": bool(cells["best_on_edge"].iloc[c]), **record}
            )  # fmt: skip
            last = records[-1]
            print(
                f"{last['cell']:52s} z {last['rate_z']:+.2f} {last['batch_z']:+.2f} joint {last['joint']:.2f} "
                f"regret {last['regret']:.4f} step law {last['step_law']:.4f}",
                flush=True,
            )
        print(
            f"  [{k + 1}/{len(chosen)}] {time.perf_counter() - started:.0f} s, worst R-hat {gate.rhat[0]:.3f}, "
            f"ESS {gate.ess_bulk[0]:.0f}, divergences {gate.divergences}",
            flush=True,
        )
    table = pd.DataFrame(records)
    RESULTS.mkdir(exist_ok=True)
    whose = "" if options.sweep == "step-law" else f"{options.sweep}_"
    made = "" if options.simulated is None else f"_simulated_{options.simulated}"
    file = RESULTS / f"held_out_{whose}{options.protocol}_{options.form}{made}.csv"
    table.to_csv(file, index=False, float_format="%.6g")
    what = f"{options.sweep}, protocol {options.protocol}, form {options.form}"
    print(f"\n{what}, seed 1, {options.draws} draws x 2 chains")
    dense = table["arch"] == "dense"
    for what, mask in (
        ("all", np.ones(len(table), bool)), ("dense", dense), ("MoE", ~dense),
        ("best run inside its grid", ~table["edge"]), ("best run on the edge", table["edge"]),
    ):  # fmt: skip
        if mask.any():
            summary(table[mask], what)
    if optima is not None:
        held = {h: (table[f"{h}_simulated"].sub(0.5).abs() <= 0.45).sum() for h in ("rate", "batch")}
        print(f"the simulated optimum itself: 90 % cover rate {held['rate']}, batch {held['batch']} of {len(table)}")


def against(draws: LawDraws, inputs: ModelInputs, c: int, optimum: np.ndarray) -> dict[str, float]:
    """The share of the draws of a cell's optimum that lie below a known one."""
    x = basins(draws, one_cell(inputs, c)).optimum[:, :, 0]
    return {f"{name}_simulated": float((x[:, h] < optimum[h]).mean()) for h, name in enumerate(("rate", "batch"))}


def cell_of_row(frame: pd.DataFrame, cells: pd.DataFrame) -> np.ndarray:
    """Cell of every row of the frame."""
    from scaleband.runs import cell_index

    return np.asarray(cell_index(frame, cells))


if __name__ == "__main__":
    main()
