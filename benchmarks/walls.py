"""How high a basin's walls are beside what the runs on them lost.

    python benchmarks/walls.py
    python benchmarks/walls.py --model public-sweeps

For every completed run of a released model's sweeps: the excess over its cell's best loss that the posterior means say,
with the walls as they are and going on straight above some level a direction, beside the excess recorded. Medians, by
what the walls as they are say, and how many runs diverged there: they have no loss, so that the completed ones show the
milder part of what happens. All these runs were fitted, with an error that grows with the excess.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from common import load
from scaleband.bayes import default_beliefs, model_inputs
from scaleband.inference.scores import states_of_the_model
from scaleband.laws import ANGLE, CURVATURE, FORMS, LEVEL, SKEW, ends, excess
from scaleband.predict.targets import STRAIGHT_ABOVE
from scaleband.runs import cell_table, usable, without_repeated_losses
from score_released import released_draws, tables_of

LEVELS = (3.0, 6.0, 10.0, STRAIGHT_ABOVE)
EDGES = (0.0, 1.0, 3.0, 6.0, 10.0, 20.0, 40.0, np.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("step-law", "public-sweeps"), default="step-law")
    name = parser.parse_args().model
    model, form, posterior = released_draws(name)
    frame = without_repeated_losses(usable(load(tables_of(name))))
    inputs = model_inputs(frame, model.design, cells=cell_table(frame))
    state = states_of_the_model(posterior, inputs, default_beliefs(model.design, FORMS[form]))["state"]
    own = state.reshape(-1, *state.shape[2:]).mean(axis=0)[:, inputs.cell]
    away = inputs.log_lr - own[0], inputs.log_batch - own[1]
    shape = own[ANGLE], np.exp(own[CURVATURE]), own[SKEW]
    table = pd.DataFrame(
        {"source": np.array(inputs.sources)[inputs.source], "walls": excess(*away, *shape)}
        | {f"straight_{level:.0f}": excess(*away, *shape, ends(level, *shape[1:])) for level in LEVELS}
        | {"recorded": inputs.y - own[LEVEL]}
    )  # fmt: skip
    table["bin"] = pd.cut(table["walls"], EDGES)
    table["diverged"] = inputs.censored
    completed = table[~inputs.censored].drop(columns="diverged")
    print(f"{name}: {len(completed)} completed runs, {inputs.censored.sum()} diverged; medians, percent of the loss")
    for by in ("bin", ["source", "bin"]) if len(inputs.sources) > 1 else ("bin",):
        groups = completed.groupby(by, observed=True)
        medians = groups.median(numeric_only=True)
        medians.insert(0, "completed", groups.size())
        medians.insert(1, "diverged", table.groupby(by, observed=True)["diverged"].sum())
        print(medians.round(2).to_string())


if __name__ == "__main__":
    main()
