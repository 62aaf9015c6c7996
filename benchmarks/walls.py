"""How high a basin's walls are beside what the runs on them lost.

    python benchmarks/walls.py
    python benchmarks/walls.py --model public-sweeps

For every completed run of a released model's sweeps: the excess over its cell's best loss that the posterior means say,
with the walls as they are and going on straight above 3, 6 and 10 % a direction, beside the excess recorded. Medians,
by what the walls as they are say. These runs were fitted, with an error that grows with the excess; runs that diverged
have no loss, so the highest walls show the milder half of what happens there.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from common import load
from scaleband.bayes import default_beliefs, model_inputs
from scaleband.inference.scores import states_of_the_model
from scaleband.laws import ANGLE, CURVATURE, FORMS, LEVEL, SKEW, ends, excess
from scaleband.runs import cell_table, usable, without_repeated_losses
from score_released import released_draws, tables_of

LEVELS = (3.0, 6.0, 10.0)
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
        | {f"straight_{level:g}": excess(*away, *shape, ends(level, *shape[1:])) for level in LEVELS}
        | {"recorded": inputs.y - own[LEVEL]}
    )[~inputs.censored]  # fmt: skip
    table["bin"] = pd.cut(table["walls"], EDGES)
    print(f"{name}: {len(table)} completed runs, {inputs.censored.sum()} diverged; medians, percent of the loss")
    for by in ("bin", ["source", "bin"]) if len(inputs.sources) > 1 else ("bin",):
        groups = table.groupby(by, observed=True)
        medians = groups.median(numeric_only=True)
        medians.insert(0, "runs", groups.size())
        print(medians.round(2).to_string())


if __name__ == "__main__":
    main()
