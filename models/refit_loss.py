"""Fit the loss laws that a released model ships beside its basins: `models/NAME/loss.nc`.

    python models/refit_loss.py step-law --tables FOLDER

After `models/refit.py`: the laws are fitted to the levels of the released posterior's own cells, stacked over scales
left out, and the surface far from the optimum to the runs' residuals in its basins. FOLDER holds the tables of the
recipe. The card gets a paragraph between two marks.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from refit import MAX_BYTES, RECIPES

from scaleband.inference.far_fit import fit_far
from scaleband.inference.loss_fit import LOSS_SETTINGS, LossFit, fit_loss
from scaleband.inference.loss_store import write_loss
from scaleband.inference.loss_table import table_from_basins
from scaleband.inference.store import read_draws
from scaleband.laws.far import NAMES
from scaleband.laws.loss.draws import LawSamples
from scaleband.runs import conventions, read_runs

HERE = Path(__file__).resolve().parent
SETTINGS = replace(LOSS_SETTINGS, draws=4000, tune=800, target_accept=0.97)
"""Four MoE groups of four cells each hardly know their own shares: long chains with small steps."""

KEPT = 2
"""Every second of the stacked draws is shipped."""

BEGIN, END = "<!-- loss laws -->", "<!-- end of loss laws -->"


def paragraph(name: str, fitted: LossFit, n_samples: int, far: np.ndarray | None) -> str:
    """What the card says of the laws."""
    weights = ", ".join(f"{law} {w:.2f}" for law, w in fitted.weights.items() if w)
    gates = [fitted.gates[law] for law, w in fitted.weights.items() if w]
    used = fitted.draws.table
    verdict = "passed" if all(g.passed for g in gates) else "FAILED"
    text = (
        f"**Loss laws** (`loss.nc`: `allocate`, `compare`, levels of `predict`). Fitted to the levels of {len(used)} "
        f"cells in {len(set(used.groups()))} groups, stacked over scales left out: {weights}. Gate {verdict}: R-hat "
        f"{max(g.rhat[0] for g in gates):.3f}, least bulk ESS {min(g.ess_bulk[0] for g in gates):.0f}, divergences "
        f"{sum(g.divergences for g in gates)}. Shipped: {n_samples} draws, float32."
    )
    if far is not None:
        shown = ", ".join(f"{n} {v:.2f}" for n, v in zip(NAMES, far.mean(0), strict=True))
        text += f" Far from the optimum: {shown}."
    return f"{BEGIN}\n{text} Refit: `python models/refit_loss.py {name} --tables FOLDER`\n{END}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--tables", type=Path, required=True, help="folder with the public run tables")
    options = parser.parse_args()
    folder = HERE / options.name
    basins = read_draws(folder / "posterior.nc")
    frame = read_runs([options.tables / f"{t}.csv" for t in RECIPES[options.name].tables]).frame
    observed = table_from_basins(basins)
    meta: dict[str, object] = {
        "name": options.name, "scaleband": version("scaleband"), "n_runs": len(frame), "conventions": conventions(frame)
    }  # fmt: skip
    fitted = fit_loss(observed, settings=SETTINGS, meta=meta)
    for law, gate in fitted.gates.items():
        verdict = "gate passed" if gate.passed else "; ".join(gate.messages)
        score = np.nansum(fitted.scores[law])
        print(f"{law}: weight {fitted.weights[law]:.3f}, score {score:.1f}, {verdict}", flush=True)
    print(f"{fitted.seconds:.0f} s")
    if not fitted.draws.meta["gate"]["passed"]:  # type: ignore[index]
        raise SystemExit(f"not released, the gate failed: {fitted.draws.meta['gate']}")
    far = fit_far(basins, frame)
    parts = tuple(LawSamples(p.law, p.names, p.theta[::KEPT]) for p in fitted.draws.parts)
    draws = replace(fitted.draws, parts=parts, far=far)
    path = folder / "loss.nc"
    write_loss(draws, path)
    size = path.stat().st_size
    print(f"{path}: {size / 1e6:.2f} MB, {draws.n_samples} draws")
    if sum(file.stat().st_size for file in folder.glob("*.nc")) > MAX_BYTES:
        raise SystemExit(f"{folder} is above {MAX_BYTES} bytes: keep fewer draws")
    card = folder / "card.md"
    own = paragraph(options.name, fitted, draws.n_samples, None if far is None else far.theta)
    text = re.sub(rf"\n*{BEGIN}.*?{END}\n*", "\n\n", card.read_text(), flags=re.DOTALL).rstrip("\n")
    card.write_text(f"{text}\n\n{own}\n")


if __name__ == "__main__":
    main()
