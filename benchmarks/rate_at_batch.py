"""Teams that ran one batch a cell: is the best rate *at that batch* foretold by a model that never saw them?

    python benchmarks/rate_at_batch.py                       Marin and the misfitting study from `step-law`, which
                                                             never saw them (`public-sweeps` has both by now)
    python benchmarks/rate_at_batch.py --own --source marin  the same with most of the source's own cells added

Definition (fixed before the first figure was looked at):

- cells with runs at one batch, at least three rates, and the best rate inside them (rates run more than once count with
  their mean log loss);
- truth: the vertex of the parabola of log loss in log rate through the best rate and its two neighbours. Three points
  leave no error, so the truth's own is not counted;
- prediction: a team never seen, its architecture by name; the draws' best rate given that batch
  (`optimum_given_batch`). The source's offset is one draw: its cells are right or wrong together;
- regret: on that parabola, of the rate that `recommend` gives for that batch, and of published Step Law's; parabolas
  overstate walls, so the medians are the figures to read, and beside them stands the excess of the nearest recorded
  rate;
- `--own`: the model is the prior (trust 1) of a fit to three quarters of the source's cells, and the others are asked
  about as new cells of a known group; every cell is left out once, with every fourth of the table.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from common import RESULTS, load
from scaleband.bayes import cells_of, model_inputs
from scaleband.inference.fitting import fit
from scaleband.inference.prior import beliefs_from
from scaleband.inference.released import model_path
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.store import read_draws
from scaleband.laws import FORMS, REFERENCE, LawDraws, design_for, published_optimum
from scaleband.predict import basins, interval, optimum_given_batch, recommend, target_cells
from scaleband.runs import cell_index, cell_table, usable

FOLDS = 4
BASES = ("public-sweeps", "step-law")
SOURCES = {"marin": "marin_moe_lr", "misfitting": "misfitting_lr"}


def parabola(log_rate: np.ndarray, percent: np.ndarray) -> tuple[float, float] | None:
    """Vertex and curvature (percent of the loss per squared log rate) at the best rate; None if that is on the edge."""
    k = int(percent.argmin())
    if k in (0, len(percent) - 1):
        return None
    curvature, slope, _ = np.polyfit(log_rate[k - 1 : k + 2] - log_rate[k], percent[k - 1 : k + 2], 2)
    return float(log_rate[k] - slope / (2 * curvature)), float(curvature)


def score(draws: LawDraws, frame: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """One record for each cell that has a truth."""
    inputs = model_inputs(frame, design_for(cells_of(cells)), cells=cells)
    records = []
    for c, cell in cells.iterrows():
        rows = (inputs.cell == c) & ~inputs.censored
        rates, at = np.unique(inputs.log_lr[rows], return_inverse=True)
        if len(np.unique(inputs.log_batch[rows])) != 1 or len(rates) < 3:
            continue
        values = np.bincount(at, inputs.y[rows]) / np.bincount(at)
        truth = parabola(rates, values)
        if truth is None:
            continue
        batch = REFERENCE["batch_tokens"] * np.exp(inputs.log_batch[rows][0])
        b = basins(draws, target_cells(
            cell["n_params"], cell["n_tokens"], source=cell["source"], arch=cell["arch"], data=cell["data"],
            n_active=cell["n_active"],
        ))  # fmt: skip
        x = np.log(np.ravel(optimum_given_batch(b, batch)) / REFERENCE["lr_peak"])
        record = {"cell": cell["cell"], "batch_tokens": batch, "lr_truth": REFERENCE["lr_peak"] * np.exp(truth[0])}
        for mass in (0.5, 0.9):
            band = interval(x, mass)
            record[f"rate_{mass:.0%}"] = float(band.lower <= truth[0] <= band.upper)
        record["width"] = float(np.exp(band.upper - band.lower))
        record["off"] = float(np.exp(np.median(x) - truth[0]))
        ours = recommend(b, batch_tokens=batch).lr_peak[0]
        theirs = published_optimum(cell["n_params"], cell["n_tokens"])[0]
        for name, rate in (("regret", ours), ("step_law", theirs)):
            away = np.log(float(rate) / REFERENCE["lr_peak"])
            record[name] = truth[1] * (away - truth[0]) ** 2
            record[f"{name}_recorded"] = values[np.abs(rates - away).argmin()] - values.min()
        records.append(record)
    return pd.DataFrame(records)


def left_out_in_turn(prior: LawDraws, frame: pd.DataFrame, cells: pd.DataFrame, form: str, draws: int) -> pd.DataFrame:
    """`score` of every cell from a fit to the prior and the cells of the other folds."""
    index, tables = np.asarray(cell_index(frame, cells)), []
    for fold in range(FOLDS):
        out = np.arange(len(cells)) % FOLDS == fold
        fitted = fit(
            frame[~out[index]],
            form=form,
            beliefs=lambda design: beliefs_from(prior, design, FORMS[form], 1.0),
            settings=SamplerSettings(draws=draws, tune=500, chains=2, seed=1),
        )
        verdict = "passed" if fitted.gate.passed else "; ".join(fitted.gate.messages)
        print(f"  fold {fold + 1}: {(~out).sum()} cells fitted; gate {verdict}", flush=True)
        tables.append(score(fitted.draws(), frame[out[index]], cells[out].reset_index(drop=True)))
    return pd.concat(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="a released model that never saw the sources; public-sweeps, else step-law")
    parser.add_argument("--source", choices=tuple(SOURCES), action="append")
    parser.add_argument("--own", action="store_true", help="with the source's other cells fitted too")
    parser.add_argument("--form", choices=list(FORMS), default="quadratic", help="of the fits of --own")
    parser.add_argument("--draws", type=int, default=1000, help="of the fits of --own, a chain")
    options = parser.parse_args()
    known = {name: read_draws(model_path(name)) for name in ([options.base] if options.base else BASES)}
    for source in options.source or SOURCES:
        never = [name for name, draws in known.items() if source not in draws.sources]
        if not never:
            parser.error(f"{', '.join(known)} has seen {source}")
        base, draws = never[0], known[never[0]]
        frame = usable(load([SOURCES[source]]))
        cells = cell_table(frame)
        what = "own_" if options.own else ""
        if options.own:
            table = left_out_in_turn(draws, frame, cells, options.form, options.draws)
        else:
            table = score(draws, frame, cells)
        table.to_csv(RESULTS / f"rate_at_batch_{what}{source}.csv", index=False, float_format="%.6g")
        held, half = int(table["rate_90%"].sum()), int(table["rate_50%"].sum())
        at = table.median(numeric_only=True)
        base = f"{base} and its other cells" if options.own else base
        print(f"{source} from {base}: {len(table)} of {len(cells)} cells have a truth")
        print(f"  intervals of the rate at the batch that was run hold {held} at 90 %, {half} at 50 %")
        print(f"  medians: 90 % band {at['width']:.1f}x, end to end; foretold rate {at['off']:.2f} times the truth")
        print(f"  regret {at['regret']:.3f} % (published Step Law {at['step_law']:.3f} %)")
        print(f"  nearest recorded rate {at['regret_recorded']:.3f} % ({at['step_law_recorded']:.3f} %)")


if __name__ == "__main__":
    main()
