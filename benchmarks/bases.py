"""Models that never saw one source: the other teams of `public-sweeps`, fitted together and kept beside the results.

    python benchmarks/bases.py open-euro-llm

Definition (fixed before anything was asked of such a model): the tables, the form and the way of `models/refit.py
public-sweeps`, without the source's own tables; two chains of 500 draws after 500 to tune, seed 1, moved on until the
gate passes or four times. Whether it passed is printed and kept: fewer draws than in a released model seldom pass.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from common import RESULTS, data_folder
from scaleband.inference.fitting import tree_of
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.store import read_draws, write_netcdf
from scaleband.laws import LawDraws

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from refit import RECIPES, fits_of

TABLES = {
    "step-law": ("steplaw_dense", "steplaw_dense_small", "steplaw_moe"),
    "open-euro-llm": ("oellm_dense",),
    "marin": ("marin_moe_lr",),
    "misfitting": ("misfitting_lr",),
}


@cache
def without(source: str) -> LawDraws:
    """Draws of the model that never saw `source`; fitted when asked for first, in ten minutes on two cores."""
    path = RESULTS / f"without_{source}.nc"
    if not path.is_file():
        recipe = RECIPES["public-sweeps"]
        recipe = replace(
            recipe,
            tables=tuple(name for name in recipe.tables if name not in TABLES[source]),
            settings=SamplerSettings(draws=500, tune=500, chains=2, seed=1, copies=1),
        )
        (fitted,) = fits_of(recipe, data_folder()).values()
        RESULTS.mkdir(exist_ok=True)
        write_netcdf(tree_of(fitted), path)
    draws = read_draws(path)
    gate = draws.meta["gate"]
    assert isinstance(gate, dict)
    said = "gate passed" if gate["passed"] else "; ".join(gate["messages"])
    print(f"model without {source}: {', '.join(draws.sources)}; {len(draws.cells)} cells; {said}", flush=True)
    return draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="+", choices=list(TABLES))
    for source in parser.parse_args().source:
        without(source)


if __name__ == "__main__":
    main()
