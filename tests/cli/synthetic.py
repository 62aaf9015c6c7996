"""A fit made up in a second: draws around known laws, saved as `fit` saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scaleband.bayes import SHARED
from scaleband.bayes.beliefs import fixed_offset_scales
from scaleband.inference.store import to_tree, write_netcdf
from scaleband.laws import FEATURES, HYPERPARAMETERS, RESPONSES, ROLES, Cells, design_for

GROUPS = ("step-law/dense/web", "step-law/moe-1in8/web", "us/dense/code")
LAW = {  # intercept, n, d, n2, d2, nd, sparsity
    "log_lr": (0.0, -0.6, 0.25, 0, 0, 0, 0.1),
    "log_batch": (-0.3, -0.1, 0.53, 0, 0, 0, 0),
    "log_curvature_1": (0.5, 0, 0, 0, 0, 0, 0),
    "log_curvature_2": (0.5, 0, 0, 0, 0, 0, 0),
    "level": (90.0, -5, -5, 0, 0, 0, 2),
    "angle_1": (-0.97, 0, 0, 0, 0, 0, 0),
    "angle_2": (0.29, 0, 0, 0, 0, 0, 0),
    "skew_1": (0.5, 0, 0, 0, 0, 0, 0),
    "skew_2": (0.9, 0, 0, 0, 0, 0, 0),
}
GATE = {
    "passed": True, "rhat": [1.002, "sigma[0]"], "ess_bulk": [900.0, "sigma[0]"], "ess_tail": [800.0, "sigma[0]"],
    "divergences": 0, "messages": [],
}  # fmt: skip
STATED = {"schedule": "cosine", "loss_kind": "validation", "seq_len": "2048", "optimizer": "not stated"}


def made_up_cells() -> Cells:
    """Seven cells in three groups."""
    source, arch, data = zip(
        *(g.split("/") for g in [*[GROUPS[0]] * 4, *[GROUPS[1]] * 2, GROUPS[2]]), strict=True
    )
    n_params = np.array([2e8, 2e8, 1e9, 1e9, 2e9, 2e9, 5e8])
    n_active = np.where(np.array(arch) == "dense", n_params, n_params / 4)
    return Cells(source, arch, data, n_params, n_active, np.array([5e9, 5e10, 5e9, 5e10, 5e9, 2e10, 1e10]))


def write_fit(path: Path, *, seed: int = 0, **meta: Any) -> Path:
    """Write the fit; `meta` replaces facts that travel with it."""
    rng = np.random.default_rng(seed)
    shape, cells = (2, 100), made_up_cells()
    design = design_for(cells)

    def normal(mean: Any, sd: Any, *dims: int) -> np.ndarray:
        return np.asarray(mean) + np.asarray(sd) * rng.standard_normal((*shape, *dims))

    law = normal(0.0, 0.02, len(RESPONSES), len(design.columns))
    for r, response in enumerate(RESPONSES):
        law[:, :, r, : len(FEATURES)] += LAW.get(response, (0.0,) * len(FEATURES))
    law[..., 3:6] = 0.0  # no curvature of the law
    scatter = np.exp(normal(np.log(0.03), 0.1, len(RESPONSES)))
    x = design.matrix(cells)
    posterior = {
        "angle": normal([-0.97, 0.29], 0.01, 2),
        "skew": normal([0.5, 0.9], 0.02, 2),
        "rho": np.exp(normal(np.log(0.1), 0.1)),
        "nu": 1 + np.exp(normal(np.log(4), 0.1)),
        "sigma": np.exp(normal(np.log(0.1), 0.1, 2)),
        "scatter": scatter,
        "offset_scale": np.exp(normal(np.log(0.2), 0.2, 2, len(ROLES) - 1)),
        "state": np.einsum("cdrk,nk->cdrn", law, x)
        + scatter[..., None] * normal(0, 1, len(RESPONSES), len(x)),
        "law": law,
        "shared": normal(0, 1, len(SHARED)) * 0.1 + np.array([b[0] for b in SHARED.values()]),
    }

    def text(values: Any) -> np.ndarray:
        return np.array(list(values), dtype=object)

    constant = {
        "response": (("response",), text(RESPONSES)),
        "hyperparameter": (("hyperparameter",), text(HYPERPARAMETERS)),
        "role": (("role",), text(ROLES[1:])),
        "source": (("source",), text(["step-law", "us"])),
        "shared_parameter": (("shared_parameter",), text(SHARED)),
        "coefficient": (("coefficient",), text(design.columns)),
        "coefficient_role": (("coefficient",), text(design.roles)),
        "fixed_offset_scale": (("response", "role"), fixed_offset_scales()),
        **{f"cell_{k}": (("cell",), text(getattr(cells, k))) for k in ("source", "arch", "data")},
        **{f"cell_{k}": (("cell",), getattr(cells, k)) for k in ("n_params", "n_active", "n_tokens")},
    }
    facts = {
        "name": "made up", "scaleband": "0.1.0", "n_runs": 70, "n_cells": 7, "form": "linear",
        "prior": "stated beliefs", "gate": GATE, "conventions": {g: STATED for g in GROUPS}, "run_ids_sha256": [],
    }  # fmt: skip
    write_netcdf(to_tree(posterior, constant, facts | meta), path)
    return path
