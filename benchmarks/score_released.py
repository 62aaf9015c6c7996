"""Leave-one-cell-out coverage and regret of a released model, from its own draws.

    python benchmarks/score_released.py
    python benchmarks/score_released.py --refit
    python benchmarks/score_released.py --model public-sweeps
    python benchmarks/score_released.py --model scaleband-tiny

The released draws (all of one form, which the file names) are weighed by
1 / p(cell | draw), and the cell's state comes from its law given the other cells. Where Pareto k is above 0.7 the
weights are not to be trusted; with `--refit` such cells are left out of a fit of their own (1,200 draws, seed 1, the
same form). The least effective number of draws is printed beside the count of such cells.
Cells whose runs share trunks are not scored: what the trunks have in common was learned from those runs too. Nor are
cells of one batch, or of fewer runs than a basin has numbers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd

from common import RESULTS, load
from held_out import TABLES, cell_of_row, score_cell, summary
from scaleband.bayes import ModelInputs, default_beliefs, model_inputs
from scaleband.inference.fitting import Fit, fit
from scaleband.inference.gate import Gate
from scaleband.inference.released import model_path
from scaleband.inference.scores import leave_one_cell_out, states_of_the_model
from scaleband.inference.store import DIMS, read_draws
from scaleband.inference.unpack import scatters_of_cells
from scaleband.laws import FORMS, LEVEL, RESPONSES, LawDraws
from scaleband.runs import cell_table, own_sweep, usable, without_repeated_losses
from score_forms import N_DRAWS, left_out_draws
from unpooled import fit_basin


def scatter_by_source(posterior: dict[str, np.ndarray], inputs: ModelInputs) -> str:
    """Scatter of rate and batch by source, beside how far its cells are from their law."""
    away = posterior["state"][..., :2, :] - posterior["law"][..., :2, :] @ inputs.x.T
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in posterior.items()}
    scatter = np.median(scatters_of_cells(flat, inputs)[:, :2], axis=0)
    lines = []
    for k, source in enumerate(inputs.sources):
        mine = inputs.cell_source == k
        (a, b), (rate, batch) = scatter[:, mine][:, 0], np.sqrt((away[..., mine] ** 2).mean(axis=(0, 1, 3)))
        lines.append(f"scatter of rate and batch, {source}: {a:.3f}, {b:.3f}; found, rms: {rate:.3f}, {batch:.3f}")
    return "\n".join(lines)


def released_draws(name: str) -> tuple[LawDraws, str, dict[str, np.ndarray]]:
    """A released model, the name of its form, and its posterior as the sampler left it."""
    model = read_draws(model_path(name))
    weights = model.meta["forms"]
    assert isinstance(weights, dict)
    (form,) = (each for each, weight in weights.items() if weight)
    with h5py.File(model_path(name)) as file:
        kept = file["posterior"]
        posterior = {each: np.asarray(kept[each], float) for each in kept if each in DIMS}
        # files of one source need not have it
        posterior.setdefault("scatter_level", posterior["scatter"][..., [LEVEL]])
        # nor have files of several sources from before 2026-11-28 their ratios
        posterior.setdefault("scatter_ratio", np.ones((*posterior["rho"].shape, 2, len(model.sources))))
    return model, form, posterior


def tables_of(name: str) -> list[str]:
    """The recorded sweeps that a released model was fitted to."""
    return TABLES + (["oellm_dense", "marin_moe_lr", "misfitting_lr"] if name == "public-sweeps" else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("step-law", "public-sweeps", "scaleband-tiny"), default="step-law")
    parser.add_argument("--refit", action="store_true", help="fit anew without a cell whose weights are rough")
    asked = parser.parse_args()
    name = asked.model
    tiny = name == "scaleband-tiny"
    model, form, posterior = released_draws(name)
    frame = without_repeated_losses(usable(own_sweep().frame if tiny else load(tables_of(name))))
    cells = cell_table(frame)
    full, beliefs = model_inputs(frame, model.design, cells=cells), default_beliefs(model.design, FORMS[form])
    gate = Gate(True, (1.0, ""), (0.0, ""), (0.0, ""), 0, ())
    fitted = Fit(posterior, {}, full, beliefs, gate, {})
    scores = leave_one_cell_out(posterior, full, beliefs, n_draws=N_DRAWS)
    # What `left_out_draws` asks of the laws given the other cells.
    fitted = replace(fitted, posterior=states_of_the_model(posterior, full, beliefs))
    print(scatter_by_source(fitted.posterior, full))
    # Not with runs of common trunks or of one batch, nor where fewer runs than numbers tell no basin of their own.
    told = np.flatnonzero(np.bincount(full.cell, minlength=len(cells)) >= len(RESPONSES))
    scored = np.setdiff1d(told, full.tied)
    effective, k = 1 / np.exp(2 * scores.log_weight[scored]).sum(axis=1), scores.pareto_k[scored]
    print(
        f"score {scores.log_density[scored].sum():.1f}, Pareto k > 0.7 in {(k > 0.7).sum()} of {len(scored)} cells "
        f"(max {k.max():.2f}), effective draws at least {effective.min():.0f}"
    )
    records, own_cell, again = [], cell_of_row(frame, cells), None
    for c in scored:
        cell = cells.iloc[c]
        if asked.refit and scores.pareto_k[c] > 0.7:
            again = fit(frame[own_cell != c], form=form, cells=cells, reuse=again)
            draws, gate = again.draws(), again.gate
            print(f"{cell['cell']}: refitted, {'gate passed' if gate.passed else gate.messages}", flush=True)
        else:
            draws = left_out_draws({form: fitted}, {form: scores}, np.ones(1), c, seed=1)
        own = {"cell": cell["cell"], "arch": cell["arch"], "edge": bool(cell["best_on_edge"])}
        records.append({**own, "pareto_k": scores.pareto_k[c], **score_cell(draws, full, fit_basin(full, c), c)})
    table = pd.DataFrame(records)
    whose = ("" if name == "step-law" else f"{name}_") + ("refit_" if asked.refit else "")
    table.to_csv(RESULTS / f"held_out_{whose}cell_released.csv", index=False, float_format="%.6g")
    dense = table["arch"] == "dense"
    for what, mask in (
        ("all", dense | ~dense), ("dense", dense), ("MoE", ~dense), ("best run inside its grid", ~table["edge"]),
    ):  # fmt: skip
        summary(table[mask], f"leave one cell out, {what}")


if __name__ == "__main__":
    main()
