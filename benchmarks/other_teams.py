"""Another team's runs: leave one source out, then add ten of its runs.

    python benchmarks/other_teams.py                       each source from the others, zero-shot
    python benchmarks/other_teams.py --source open-euro-llm --few-shot
    python benchmarks/other_teams.py --source open-euro-llm --few-shot --base step-law    the released model as base

Definition (fixed before the first held-out figure was looked at):

- zero-shot: the model is fitted to the other sources of `public-sweeps` (`benchmarks/bases.py`); every cell of
  the source is predicted as a new group of known architecture. Coverage counts are joint: the source's offset is
  one draw, so its cells are right or wrong together;
- few-shot: that fit is the prior (trust 1; `--trust 0.25`, every scale of the prior doubled, is a second look, chosen
  before it was run because bands at full trust were too sure of larger cells). Ten runs drawn from the cheapest fifth
  (by FLOPs) of the source's completed runs, redrawn until they lie in at least three cells; ten seeds. Every other
  cell with at least eight runs is predicted;
- Marin and the misfitting study were out of all fits while `public-sweeps` did not mix with them (figures of before
  2026-11-28). Their cells of one batch are asked about in `benchmarks/rate_at_batch.py`;
- truth and regret as in `benchmarks/held_out.py`. Cells with fewer than eight runs or one batch have no basin of
  their own to compare with and are left out of the scores (never out of the fits).
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from bases import TABLES, without
from common import RESULTS, load
from held_out import score_cell, summary
from scaleband.bayes import cells_of, model_inputs
from scaleband.inference.fitting import fit
from scaleband.inference.prior import beliefs_from
from scaleband.inference.released import model_path
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.store import read_draws
from scaleband.laws import FORMS, LawDraws, design_for
from scaleband.runs import cell_table, without_repeated_losses
from unpooled import fit_basin

FORM = "quadratic"


def score_source(draws: LawDraws, frame: pd.DataFrame, skip: set[str] | None = None) -> pd.DataFrame:
    """Coverage and regret on every cell of one source's frame that has a basin of its own."""
    cells = cell_table(frame)
    inputs = model_inputs(frame, design_for(cells_of(cells)), cells=cells)
    records = []
    for c in range(len(cells)):
        row = cells.iloc[c]
        if row["n_runs"] < 8 or row["n_batch"] < 2 or row["n_lr"] < 2 or row["cell"] in (skip or set()):
            continue
        record = score_cell(draws, inputs, fit_basin(inputs, c), c)
        records.append({"cell": row["cell"], "edge": bool(row["best_on_edge"]), **record})
    return pd.DataFrame(records)


def report(table: pd.DataFrame, what: str) -> None:
    """Summary of all cells and of those whose best run is inside the grid."""
    if table.empty:
        print(f"{what}: no cell with a basin of its own (one batch each): see rate coverage elsewhere")
        return
    summary(table, what)
    if (~table["edge"]).any():
        summary(table[~table["edge"]], f"{what}, best run inside its grid")


def few_shot(prior: LawDraws, frame: pd.DataFrame, seeds: range, trust: float, at: str) -> None:
    """Ten of the source's cheapest runs on top of draws that never saw it."""
    completed = frame[frame["status"] == "completed"]
    cheap = completed.nsmallest(len(completed) // 5, "flops")
    tables = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        while True:
            chosen = cheap.iloc[np.sort(rng.choice(len(cheap), 10, replace=False))]
            own = cell_table(chosen)
            if len(own) >= 3:
                break
        fitted = fit(
            chosen,
            beliefs=lambda design: beliefs_from(prior, design, FORMS[FORM], trust),
            settings=SamplerSettings(draws=1000, tune=400, chains=2, seed=seed + 1, target_accept=0.9),
        )
        table = score_source(fitted.draws(), frame, skip=set(own["cell"]))
        tables.append(table.assign(seed=seed))
        print(
            f"seed {seed}: {len(own)} cells seen; regret median {table.regret.median():.4f} "
            f"mean {table.regret.mean():.4f}; rate band {table.rate_width.median():.2f}x; "
            f"joint 90 % covers {(table.joint <= 0.9).sum()} of {len(table)}; "
            f"published {table.step_law.median():.4f}; "
            f"gate {'passed' if fitted.gate.passed else fitted.gate.messages}",
            flush=True,
        )
    everything = pd.concat(tables)
    at += "" if trust == 1 else f"_trust_{trust:g}"
    everything.to_csv(RESULTS / f"few_shot_{seeds[0]}_to_{seeds[-1]}{at}.csv", index=False, float_format="%.6g")
    medians = everything.groupby("seed")["regret"].median()
    print(
        f"few-shot, 10 runs, trust {trust:g}, seeds {seeds[0]} to {seeds[-1]}: median regret {medians.median():.4f} "
        f"(seeds {medians.min():.4f} to {medians.max():.4f}); pooled median {everything.regret.median():.4f}; "
        f"published Step Law {everything.step_law.median():.4f}"
    )
    report(everything, "few-shot, all seeds pooled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", nargs="+", choices=list(TABLES), default=["open-euro-llm", "step-law"])
    parser.add_argument("--few-shot", action="store_true")
    parser.add_argument("--base", help="a released model that never saw the source, instead of a fit to the others")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0, help="two visits of five seeds make ten")
    parser.add_argument("--trust", type=float, default=1.0, help="how far the ten runs' fit trusts the base")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for source in options.source:
        frame = without_repeated_losses(load(list(TABLES[source])))
        if options.base:
            draws = read_draws(model_path(options.base))
            if source in draws.sources:
                parser.error(f"{options.base} has seen {source}")
            print(f"\n{source} from the released model {options.base}", flush=True)
        else:
            draws = without(source)
        at = f"_from_{options.base}" if options.base else ""
        table = score_source(draws, frame)
        table.to_csv(RESULTS / f"zero_shot_{source}{at}.csv", index=False, float_format="%.6g")
        report(table, f"zero-shot {source}")
        if options.few_shot:
            first = options.first_seed
            few_shot(draws, frame, range(first, first + options.seeds), options.trust, at)


if __name__ == "__main__":
    main()
