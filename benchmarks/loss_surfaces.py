"""Whole surfaces of held-out Step Law cells: level from the stacked loss laws and basin, jointly.

    python benchmarks/loss_surfaces.py size       all dense cells of 1.07B left out
    python benchmarks/loss_surfaces.py horizon    all dense cells of 49B tokens and more left out
    python benchmarks/loss_surfaces.py dev-size dev-horizon   two folds among the other cells, to try things on
    python benchmarks/loss_surfaces.py dev-cells  the 30 cells of neither fold, five at a time, to try things on
    python benchmarks/loss_surfaces.py largest    the nine cells of most compute, one at a time

Definitions (fixed before the first held-out figure was looked at):

- rows: the 41 dense Step Law cells; the basin model (form quadratic, stated beliefs, 2 chains of 1,500 draws, seed 1)
  sees the cells that remain and nothing else; loss laws are stacked on those cells' levels (the default family, weights
  from leave-one-scale-out among them); the term in steps is fitted to those cells' runs. Fits are kept in `out/`;
- `dev-cells` and `largest` came later, with fits of 1,200 draws: `dev-cells` chose the field and the family's share in
  a new cell's shape; `largest` asks what a fit of all cells knows of one more large one. What was chosen from had
  been seen on six of its nine cells too, before and after the choice, and the misses of one of them (1.07B/56.9B);
- a cell's truth is its unpooled basin (`benchmarks/unpooled.py`);
- optimum: median of the predicted expected loss at the cell's own optimum over the truth's level, minus one, percent;
- R^2: over all completed runs of the cell, in nats, of the predictive median of one new run; nothing is shifted;
- coverage: equal-tailed 90 % interval of one new run, pooled over all completed runs of the fold;
- joint PIT of a cell: T = mean over its completed runs of (y - median) / half the 68 % width, y and predictive in logs;
  the share of joint predictive draws (one error shared by the cell, noise of each run) whose own T is below;
- more tables show where an error comes from: without the term in steps, with the level of the basin model, with the
  truth's level.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from common import RESULTS, load
from scaleband.bayes import cells_of, model_inputs
from scaleband.inference.far_fit import fit_far
from scaleband.inference.fitting import constants, fit
from scaleband.inference.loss_fit import laws_for, quick_stack
from scaleband.inference.loss_table import table_from_basins
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.store import read_draws, to_tree, write_netcdf
from scaleband.laws import Cells, LawDraws, design_for
from scaleband.laws.far import NAMES, FarDraws
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict import Basins, basins, predict_log_loss
from scaleband.predict.loss import with_loss_law
from scaleband.runs import cell_index, cell_table
from unpooled import fit_basin

TABLES = ["steplaw_dense", "steplaw_dense_small"]
SETTINGS = SamplerSettings(draws=1500, tune=500, chains=2, seed=1)
FITS = Path(__file__).resolve().parents[1] / "out"


def left_out(fold: str, frame: pd.DataFrame) -> np.ndarray:
    """True for the rows of a fold. The last two are for development: no cell of the first two is in either side."""
    n, d = frame["n_params"].to_numpy(float), frame["n_tokens"].to_numpy(float)
    if "/" in fold:
        table = cell_table(frame)
        return np.isin(np.asarray(cell_index(frame, table)), parts_of(fold.partition("/")[0], table)[fold])
    return {
        "size": n > 1e9,
        "horizon": d >= 4.9e10,
        "dev-size": (n > 5e8) | (d >= 4.9e10),
        "dev-horizon": (n > 1e9) | (d >= 1.9e10),
    }[fold]


def parts_of(fold: str, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The cells that are left out together, by name, where a fold has several parts."""
    n, d = table["n_params"].to_numpy(float), table["n_tokens"].to_numpy(float)
    if fold == "largest":
        return {f"largest/{k}": np.array([c]) for k, c in enumerate(np.argsort(-n * d)[:9])}
    others = np.random.default_rng(0).permutation(np.flatnonzero((n <= 1e9) & (d < 4.9e10)))
    return {f"dev-cells/{k}": others[k::6] for k in range(6)}


def scored_rows(fold: str, frame: pd.DataFrame) -> np.ndarray:
    """The held-out rows that are scored: development folds never look at the real ones."""
    out = left_out(fold, frame)
    real = left_out("size", frame) | left_out("horizon", frame)
    return out & ~real if fold in ("dev-size", "dev-horizon") else out


def fitted_basins(fold: str, frame: pd.DataFrame) -> LawDraws:
    """The basin fit of the remaining cells, kept in a file."""
    path = FITS / f"steplaw_{fold.replace('/', '_')}.nc"
    if not path.is_file():
        started = time.perf_counter()
        settings = SamplerSettings(seed=1) if "/" in fold else SETTINGS
        fitted = fit(frame[~left_out(fold, frame)].reset_index(drop=True), settings=settings)
        path.parent.mkdir(exist_ok=True)
        write_netcdf(to_tree(fitted.posterior, constants(fitted.inputs), fitted.meta), path)
        print(
            f"{fold}: {time.perf_counter() - started:.0f} s, gate passed {fitted.gate.passed}, R-hat "
            f"{fitted.gate.rhat[0]:.3f}, bulk ESS {fitted.gate.ess_bulk[0]:.0f}",
            flush=True,
        )
    return read_draws(path)


def repeated(cells: Cells, c: int, count: int) -> Cells:
    """Cell `c`, `count` times."""
    def times(value):  # type: ignore[no-untyped-def]
        return tuple([value[c]] * count) if isinstance(value, tuple) else np.repeat(value[c], count)

    return Cells(*(times(getattr(cells, n)) for n in ("source", "arch", "data", "n_params", "n_active", "n_tokens")))


def score_cell(
    draws: LawDraws, laws: LossDraws | None, cells: Cells, c: int, rows: pd.DataFrame, level: float,
    *, given_level: bool = False, far: FarDraws | None = None,
) -> tuple[dict[str, float], np.ndarray]:
    """Figures of one held-out cell, and which of its runs are inside their interval."""
    def basins_at(at: Cells) -> Basins:
        b = basins(draws, at)
        if given_level:
            return replace(b, level=np.full_like(b.level, level))
        return b if laws is None else with_loss_law(draws, b, laws)

    at = repeated(cells, c, len(rows))
    logs = predict_log_loss(draws, basins_at(at), rows["lr_peak"], rows["batch_tokens"], seed=1, far=far)
    y = np.log(rows["loss"].to_numpy(float))
    low, s_low, middle, s_high, high = np.quantile(logs, [0.05, 0.16, 0.5, 0.84, 0.95], axis=0)
    loss, told = np.exp(y), np.exp(middle)
    scale = (s_high - s_low) / 2
    own, others = ((y - middle) / scale).mean(), ((logs - middle) / scale).mean(1)
    best = np.median(predict_log_loss(draws, basins_at(repeated(cells, c, 1)), mean=True)[:, 0])
    inside = (y >= low) & (y <= high)
    return {
        "n_params": float(cells.n_params[c]),
        "n_tokens": float(cells.n_tokens[c]),
        "runs": len(rows),
        "optimum_percent": 100 * (np.exp(best - level / 100) - 1),
        "r2": 1 - ((loss - told) ** 2).sum() / ((loss - loss.mean()) ** 2).sum(),
        "rms_percent": 100 * float(np.sqrt(((y - middle) ** 2).mean())),
        "joint_pit": float((others < own).mean()),
        "coverage": float(inside.mean()),
    }, inside


def surfaces(fold: str) -> pd.DataFrame:
    """Print and keep the figures of one fold."""
    frame = load(TABLES)
    draws = fitted_basins(fold, frame)
    observed = table_from_basins(draws)
    laws, weights = quick_stack(observed, laws_for(observed, None))
    far = fit_far(draws, frame[~left_out(fold, frame)].reset_index(drop=True))
    assert far is not None
    print("far surface: " + ", ".join(f"{n} {v:.2f}" for n, v in zip(NAMES, far.theta.mean(0), strict=True)))
    print(f"{fold}: " + ", ".join(f"{n} {w:.2f}" for n, w in weights.items() if w > 0), flush=True)
    out = frame[scored_rows(fold, frame)].reset_index(drop=True)
    table = cell_table(out)
    cells = cells_of(table)
    inputs = model_inputs(out, design_for(cells), cells=table)
    index = np.asarray(cell_index(out, table))
    whole = {
        "as predicted": (laws, False, far), "without the term in steps": (laws, False, None),
        "level of the basin model": (None, False, far), "level of the truth": (None, True, far),
    }  # fmt: skip
    parts = []
    for what, (used, given, term) in whole.items():
        records, inside = [], []
        for c in range(len(table)):
            rows = out[(index == c) & (out["status"] == "completed")]
            level = fit_basin(inputs, c).level
            record, hit = score_cell(draws, used, cells, c, rows, level, given_level=given, far=term)
            records.append({"fold": fold, "what": what, **record})
            inside.append(hit)
        part = pd.DataFrame(records)
        print(f"\n{what}: pooled coverage {np.concatenate(inside).mean():.1%} of {sum(map(len, inside))} runs")
        print(part.drop(columns=["fold", "what"]).to_string(index=False, float_format="{:.4g}".format), flush=True)
        parts.append(part)
    return pd.concat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = ["size", "horizon", "dev-size", "dev-horizon", "dev-cells", "largest"]
    parser.add_argument("folds", nargs="+", choices=choices)
    for fold in parser.parse_args().folds:
        several = list(parts_of(fold, cell_table(load(TABLES)))) if fold in ("dev-cells", "largest") else [fold]
        table = pd.concat([surfaces(part) for part in several])
        RESULTS.mkdir(exist_ok=True)
        table.to_csv(RESULTS / f"loss_surfaces_{fold}.csv", index=False, float_format="%.4g")
        for what, rows in table.groupby("what", sort=False):
            inside = rows.joint_pit.between(0.02, 0.98).sum()
            print(
                f"\n{fold}, {what}: {len(rows)} cells, R^2 mean {rows.r2.mean():.3f}, median {rows.r2.median():.3f}, "
                f"rms {rows.rms_percent.mean():.3f} %, optimum off by up to {rows.optimum_percent.abs().max():.3f} %, "
                f"joint PIT inside in {inside}, runs covered {np.average(rows.coverage, weights=rows.runs):.1%}"
            )


if __name__ == "__main__":
    main()
