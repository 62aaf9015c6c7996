"""Score the forms of the optimum's law, stack them, and check the stack cell by cell.

    python benchmarks/score_forms.py            all forms, leave one cell out (importance) and one size out (refits)

Leave-one-cell-out uses one fit per form and integrated importance weights; where Pareto k is above `--refit-above`
(0.7), in a form that the stack uses, the form is fitted again without the cell: those scores and draws are exact.
Leave-one-size-out refits without each size (dense) or variant (MoE). Weights come from both scores together. The last
table asks what the readers ask: coverage and regret of the *stack* at each cell, its weights and draws recomputed
without that cell. Same truth and definitions as `benchmarks/held_out.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from common import RESULTS, load
from held_out import TABLES, cell_of_row, score_cell, summary
from scaleband.bayes import cells_of, default_beliefs, model_inputs
from scaleband.inference.fitting import Fit
from scaleband.inference.gate import diagnose
from scaleband.inference.sampler import SamplerSettings, compile_model, sample
from scaleband.inference.scores import (
    BASIN,
    CellScores,
    held_out_density,
    law_given_others,
    leave_one_cell_out,
    thin,
)
from scaleband.inference.stacking import stacking_weights
from scaleband.inference.unpack import unpack
from scaleband.laws import FORMS, LawDraws, design_for
from scaleband.runs import cell_table
from unpooled import fit_basin

N_DRAWS = 400


def left_out_draws(
    fits: dict[str, Fit], scores: dict[str, CellScores], weights: np.ndarray, c: int, seed: int,
    exact: Mapping[tuple[str, int], Fit] | None = None,
) -> LawDraws:
    """Draws of the stack without cell c: forms by weight, draws by their importance, the cell from its law.

    `exact` holds refits (form, cell) that take the place of importance weights.
    """
    rng = np.random.default_rng([seed, c])
    parts = []
    for (name, fitted), w in zip(fits.items(), weights, strict=True):
        count = round(2000 * w)
        if not count:
            continue
        if (name, c) in (exact or {}):
            parts.append(thin(exact[name, c].posterior, count))
            continue
        flat = thin(fitted.posterior, N_DRAWS)
        chosen = rng.choice(len(flat["rho"]), size=count, p=np.exp(scores[name].log_weight[c]))
        law = law_given_others(flat, fitted.inputs, fitted.beliefs)
        part = {k: v[chosen] for k, v in flat.items()}
        part["state"] = part["state"].copy()
        noise = rng.standard_normal((count, len(BASIN)))
        part["state"][:, list(BASIN), c] = law.mean[chosen][:, :, c] + np.sqrt(law.variance[chosen][:, :, c]) * noise
        parts.append(part)
    joined = {k: np.concatenate([p[k] for p in parts])[None] for k in parts[0]}
    some = next(iter(fits.values()))
    return Fit(joined, {}, some.inputs, some.beliefs, some.gate, {}).draws()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tune", type=int, default=350)
    parser.add_argument("--refit-above", type=float, default=0.7, metavar="K", help="refit cells of a larger Pareto k")
    parser.add_argument("--skip-sizes", action="store_true", help="leave-one-cell-out scores alone")
    options = parser.parse_args()

    frame = load(TABLES)
    cells = cell_table(frame)
    design = design_for(cells_of(cells))
    full = model_inputs(frame, design, cells=cells)
    settings = SamplerSettings(draws=options.draws, tune=options.tune, chains=2, seed=1)
    compiled = compile_model(full, default_beliefs(design, FORMS[options.forms[0]]))
    rows = cell_of_row(frame, cells)
    sizes = cells["arch"] + cells["n_params"].map(" {:.3g}".format)

    def run(form: str, keep: np.ndarray) -> Fit:
        beliefs = default_beliefs(design, FORMS[form])
        inputs = model_inputs(frame[keep], design, cells=cells)
        raw = sample(compiled, settings, inputs=inputs, beliefs=beliefs)
        posterior = unpack(raw, inputs, beliefs, seed=1)
        return Fit(posterior, raw.stats, inputs, beliefs, diagnose(posterior, raw.stats["diverging"]), {})

    fits, scores = {}, {}
    by_cell = np.empty((len(cells), len(options.forms)))
    by_size = np.full((len(cells), len(options.forms)), np.nan)
    for f, form in enumerate(options.forms):
        fits[form] = run(form, np.ones(len(frame), bool))
        scores[form] = leave_one_cell_out(
            fits[form].posterior, fits[form].inputs, fits[form].beliefs, n_draws=N_DRAWS
        )
        by_cell[:, f] = scores[form].log_density
        k = scores[form].pareto_k
        gate = fits[form].gate
        print(
            f"{form:18s} cell score {by_cell[:, f].sum():9.1f}  Pareto k > 0.7 in {(k > 0.7).sum()} cells "
            f"(max {k.max():.2f})  R-hat {gate.rhat[0]:.3f} ESS {gate.ess_bulk[0]:.0f}",
            flush=True,
        )
        if not options.skip_sizes:
            own = thin(fits[form].posterior, 800)["state"]
            for size in sorted(set(sizes)):
                out = np.flatnonzero(sizes == size)
                fitted = run(form, ~np.isin(rows, out))
                by_size[out, f] = held_out_density(fitted.posterior, fitted.beliefs, full, out, own)
            print(f"{'':18s} size score {by_size[:, f].sum():9.1f}", flush=True)

    def joint() -> np.ndarray:
        return by_cell if options.skip_sizes else np.concatenate([by_cell, by_size])

    weights, exact = stacking_weights(joint()), {}
    for f, form in enumerate(options.forms):
        bad = np.flatnonzero(scores[form].pareto_k > options.refit_above) if weights[f] else []
        own = thin(fits[form].posterior, 800)["state"]
        for c in bad:
            fitted = run(form, rows != c)
            exact[form, int(c)] = fitted
            before = by_cell[c, f]
            by_cell[c, f] = held_out_density(fitted.posterior, fitted.beliefs, full, np.array([c]), own)[0]
            print(
                f"{form:18s} refitted without {cells['cell'].iloc[c]}: score {before:.1f} -> {by_cell[c, f]:.1f}, "
                f"R-hat {fitted.gate.rhat[0]:.3f} ESS {fitted.gate.ess_bulk[0]:.0f}",
                flush=True,
            )
    both = joint()
    weights = stacking_weights(both)
    print("\nforms", dict(zip(options.forms, weights.round(3).tolist(), strict=True)))
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(
        {"form": options.forms, "cell_score": by_cell.sum(0), "size_score": by_size.sum(0), "weight": weights}
    ).to_csv(RESULTS / "form_scores.csv", index=False, float_format="%.6g")

    records = []
    for c in range(len(cells)):
        others = np.arange(len(both)) % len(cells) != c
        w = stacking_weights(both[others])
        draws = left_out_draws(fits, scores, w, c, 1, exact)
        record = score_cell(draws, full, fit_basin(full, c), c)
        records.append(
            {"cell": cells["cell"].iloc[c], "arch": cells["arch"].iloc[c],
             "edge": bool(cells["best_on_edge"].iloc[c]),
             "exact": all((form, c) in exact for form, v in zip(options.forms, w, strict=True) if v), **record}
        )
    table = pd.DataFrame(records)
    table.to_csv(RESULTS / "held_out_cell_stack.csv", index=False, float_format="%.6g")
    stack = logsumexp(both + np.log(np.maximum(weights, 1e-300)), axis=1)
    print(f"score of the stack {stack.sum():.1f} beside the best form's {both.sum(0).max():.1f}")
    dense = table["arch"] == "dense"
    for what, mask in (
        ("all", dense | ~dense), ("dense", dense), ("MoE", ~dense), ("best run inside its grid", ~table["edge"]),
    ):  # fmt: skip
        summary(table[mask], f"stack, leave one cell out, {what}")


if __name__ == "__main__":
    main()
