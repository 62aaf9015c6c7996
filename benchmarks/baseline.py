"""The baseline of the speed benchmark: the same model written plainly, everything non-centred.

Same data, same priors, same likelihood as `scaleband.bayes.model`; every coefficient, offset and cell effect is a
standard normal that the graph scales and adds up. This is how a careful first draft would be written in PyMC.
"""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from scaleband.bayes import SHARED, Beliefs, ModelInputs
from scaleband.bayes.basin import linex
from scaleband.bayes.beliefs import OWN, role_index
from scaleband.bayes.model import _run_logp
from scaleband.laws import RESPONSES, ROLES


def build_baseline(inputs: ModelInputs, beliefs: Beliefs) -> pm.Model:
    """Plain non-centred build for a table without trunks."""
    if inputs.n_trunks:
        raise ValueError("the baseline is written for tables whose runs share no trunks")
    index = {name: k for k, name in enumerate(SHARED)}
    n_roles = len(ROLES) - 1
    n_cells, n_columns = inputs.x.shape
    with pm.Model() as model:
        shared = beliefs.shared_mean + pt.dot(beliefs.shared_factor, pm.Normal("shared_std", 0, 1, shape=len(SHARED)))
        rho = pt.exp(shared[index["log_rho"]])
        nu = 1 + pt.exp(shared[index["log_nu_minus_1"]])
        start = index["log_scatter_log_lr"]
        scatter = pt.exp(shared[start : start + 4])
        start = index["log_offset_source_log_lr"]
        offset = pt.exp(shared[start : start + 2 * n_roles].reshape((2, n_roles)))
        mean, sd, _ = OWN["log_sigma"]
        sigma = pt.exp(mean + sd * pm.Normal("log_sigma_std", 0, 1, shape=len(inputs.sources)))
        mean, sd, _ = OWN["log_scatter_level"]
        scatter_level = pt.exp(mean + sd * pm.Normal("log_scatter_level_std", 0, 1, shape=len(inputs.sources)))
        mean, sd, _ = OWN["log_scatter_ratio"]
        ratio = np.ones((2, 1))
        if inputs.several_sources:
            ratio = pt.exp(mean + sd * pm.Normal("log_scatter_ratio_std", 0, 1, shape=(2, len(inputs.sources))))
        role = role_index(inputs.design)

        state = []
        own = ratio[:, inputs.cell_source]
        spreads = [scatter[0] * own[0], scatter[1] * own[1], scatter[2], scatter[3], scatter_level[inputs.cell_source]]
        spreads += [pt.exp(shared[index[f"log_scatter_{name}"]]) for name in ("angle", "angle", "skew", "skew")]
        for r in range(len(RESPONSES)):
            scale = pt.switch(beliefs.pooled, offset[r][role], 1.0) if r < 2 else np.ones(n_columns)
            b = pm.Normal(f"coefficient_std_{r}", 0, 1, shape=n_columns) * scale
            law = beliefs.law_mean[r] @ inputs.x.T + pt.dot(inputs.x @ beliefs.law_factor[r], b)
            effect = pm.Normal(f"effect_{r}", 0, 1, shape=n_cells)
            state.append(pm.Deterministic(f"state_{r}", law + spreads[r] * effect))

        cell = inputs.cell
        dx_lr, dx_batch = inputs.log_lr - state[0][cell], inputs.log_batch - state[1][cell]
        excess = sum(
            linex(
                pt.cos(state[5 + j])[cell] * dx_lr + pt.sin(state[5 + j])[cell] * dx_batch,
                pt.exp(state[2 + j])[cell],
                state[7 + j][cell],
            )
            for j in (0, 1)
        )
        base = state[4][cell]
        at = pt.switch(inputs.censored, inputs.y - base, excess)
        noise = pt.sqrt(sigma[inputs.source] ** 2 + inputs.y_se**2 + (rho * at) ** 2)
        density = _run_logp(pt.as_tensor(inputs.y), base + excess, noise, nu, inputs.censored, 1.0)
        pm.Potential("log_loss", density.sum())
    return model
