"""Priors as stated beliefs: every number with its reason, printable as a table.

Two kinds. *Shared* parameters (`SHARED`) are jointly normal on an unconstrained scale, so that a released
posterior can take their place (`fit --prior MODEL --trust t`). The law's coefficients are normal given the
offset scales: `mean + factor @ (scale * N(0, I))` for each response, with `factor` diagonal unless a released
posterior has something to say about their correlations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.laws import FEATURES, HYPERPARAMETERS, LEVEL, RESPONSES, ROLES, SCATTER_RATIO_SD, Design, Form

Array = NDArray[np.float64]

_OFFSETS = {  # role: (median of the offset's standard deviation, log sd, reason)
    "source": (0.40, 0.6, "another team's recipe moves the optimum by a third to threefold"),
    "family": (0.30, 0.6, "dense against MoE"),
    "variant": (0.15, 0.6, "one MoE variant against its family"),
    "data": (0.25, 0.6, "another data distribution, tokenizer included"),
    "size": (0.06, 0.7, "one model shape against the power law: depth, width, heads"),
    "exponent": (0.05, 0.7, "one group's exponent, or a family's bend in tokens, against the shared one"),
}

SHARED: dict[str, tuple[float, float, str]] = {
    "log_rho": (float(np.log(0.1)), 0.7, "misfit of the basin's shape, 5-20 % of the excess"),
    "log_nu_minus_1": (float(np.log(4.0)), 0.7, "tails: a few runs in a hundred are odd"),
    "log_scatter_log_lr": (float(np.log(0.1)), 0.7, "cells scatter around the law by 5-20 %"),
    "log_scatter_log_batch": (float(np.log(0.1)), 0.7, "cells scatter around the law by 5-20 %"),
    "log_scatter_log_curvature_1": (float(np.log(0.2)), 0.7, "curvatures scatter by 10-40 %"),
    "log_scatter_log_curvature_2": (float(np.log(0.2)), 0.7, "curvatures scatter by 10-40 %"),
    # As good as fixed: a quadratic basin has three numbers and four are here, so a cell can turn both axes at little
    # cost. Where the scatter is learned, a few cells that the basin's form fits badly make room for themselves and get
    # two modes, 25 to 40 degrees apart; left-out cells are foretold no better for it (docs/architecture.md).
    "log_scatter_angle": (float(np.log(0.04)), 0.1, "the basin's axes turn by two or three degrees from cell to cell"),
    "log_scatter_skew": (float(np.log(0.2)), 0.7, "skews scatter by 0.1-0.5"),
} | {
    f"log_offset_{role}_{hyper}": (float(np.log(median)), spread, reason)
    for hyper in HYPERPARAMETERS
    for role, (median, spread, reason) in _OFFSETS.items()
}
"""Unconstrained shared parameters: (mean, standard deviation, reason)."""

STATED = "stated beliefs"
"""Where the package's own beliefs come from (`Beliefs.origin`)."""

SHARED_INDEX = {name: k for k, name in enumerate(SHARED)}

SCATTER_NAMES = tuple(f"log_scatter_{name.removesuffix('_1').removesuffix('_2') if k > LEVEL else name}"
                      for k, name in enumerate(RESPONSES))  # fmt: skip
"""Which parameter is a response's scatter: both angles share one, and both skews; of levels it is each source's own.
In a table of several sources that of rate and batch is the one here times the source's own ratio."""

OWN: dict[str, tuple[float, float, str]] = {
    "log_sigma": (float(np.log(0.1)), 0.7, "noise of one source's runs near the optimum, 0.03-0.3 % of the loss"),
    "log_scatter_level": (float(np.log(0.5)), 0.7, "one source's cells against the simple level law, percent"),
    "log_scatter_ratio": (0.0, SCATTER_RATIO_SD, "one source's scatter of rate or batch over what several share"),
    "log_trunk": (float(np.log(0.1)), 0.7, "error shared by runs that branch off one trunk, percent"),
}
"""Parameters of one table alone; never taken from a released posterior."""

# response -> mean and standard deviation of each feature's coefficient; reasons below
_FEATURE_BELIEFS: dict[str, tuple[list[float], list[float]]] = {
    "log_lr": ([0, 0, 0, 0, 0, 0, 0], [1.0, 0.5, 0.5, 0.1, 0.1, 0.1, 0.5]),
    "log_batch": ([0, 0, 0, 0, 0, 0, 0], [1.0, 0.5, 0.5, 0.1, 0.1, 0.1, 0.5]),
    "log_curvature_1": ([0.5, 0, 0, 0, 0, 0, 0], [1.0, 0.3, 0.3, 0.1, 0.1, 0.1, 0.3]),
    "log_curvature_2": ([0.5, 0, 0, 0, 0, 0, 0], [1.0, 0.3, 0.3, 0.1, 0.1, 0.1, 0.3]),
    "level": ([90, -5, -5, 0, 0, 0, 2], [30.0, 5.0, 5.0, 2.0, 2.0, 2.0, 5.0]),
    # Axes: high rate with small batch (about -57 degrees) and high rate with large batch (about 17 degrees); the wall
    # of high rate is steeper than the far side.
    "angle_1": ([-1.0, 0, 0, 0, 0, 0, 0], [0.3, 0.05, 0.05, 0.02, 0.02, 0.02, 0.05]),
    "angle_2": ([0.3, 0, 0, 0, 0, 0, 0], [0.3, 0.05, 0.05, 0.02, 0.02, 0.02, 0.05]),
    "skew_1": ([0.5, 0, 0, 0, 0, 0, 0], [0.5, 0.15, 0.15, 0.05, 0.05, 0.05, 0.15]),
    "skew_2": ([0.5, 0, 0, 0, 0, 0, 0], [0.5, 0.15, 0.15, 0.05, 0.05, 0.05, 0.15]),
}
_FEATURE_REASONS = {
    "intercept": "at 5e8 parameters and 2e10 tokens: rate within e-fold of 1e-3, batch of 524,288 tokens",
    "n": "exponent on n_params: half a decade per decade either way",
    "d": "exponent on n_tokens: half a decade per decade either way",
    "n2": "bend over e-folds of size, small",
    "d2": "bend over e-folds of tokens, small",
    "nd": "interaction, small",
    "sparsity": "exponent on n_params / n_active, weakly known",
}
_FIXED_OFFSETS = {  # standard deviations of offsets in responses whose pooling is not learned
    "log_curvature_1": {"source": 0.5, "family": 0.3, "variant": 0.2, "data": 0.3, "size": 0.1, "exponent": 0.0},
    "log_curvature_2": {"source": 0.5, "family": 0.3, "variant": 0.2, "data": 0.3, "size": 0.1, "exponent": 0.0},
    # Loss levels of different groups are never compared: their offsets are as good as free.
    "level": {"source": 30.0, "family": 30.0, "variant": 10.0, "data": 30.0, "size": 1.0, "exponent": 2.0},
} | {
    f"{shape}_{j}": {
        "source": 2 * unit, "family": 2 * unit, "variant": unit, "data": unit, "size": unit, "exponent": 0.0
    }
    for shape, unit in (("angle", 0.05), ("skew", 0.15))
    for j in (1, 2)
}  # fmt: skip


@dataclass(frozen=True)
class Beliefs:
    """Prior of one fit.

    Attributes
    ----------
    shared_mean (shared,), shared_factor (shared, shared)
        The shared parameters are mean + factor @ N(0, I), in the order of `SHARED`.
    law_mean (response, coefficient), law_factor (response, coefficient, coefficient)
        The law's coefficients, as in the module's head.
    pooled (coefficient,)
        True where the coefficient of log rate and log batch is scaled by its role's learned offset scale.
    origin
        "stated beliefs", or the released model they come from and the trust in it.
    form
        Name of the form that a released model brings; empty where it is the one asked for.
    """

    shared_mean: Array
    shared_factor: Array
    law_mean: Array
    law_factor: Array
    pooled: NDArray[np.bool_]
    origin: str = STATED
    form: str = ""


def fixed_offset_scales() -> Array:
    """Standard deviations of offsets whose pooling is not learned: (response, role); 0 where it is learned."""
    table = np.zeros((len(RESPONSES), len(ROLES) - 1))
    for r, response in enumerate(RESPONSES):
        for k, role in enumerate(ROLES[1:]):
            table[r, k] = _FIXED_OFFSETS.get(response, {}).get(role, 0.0)
    return table


def feature_mask(design: Design, form: Form) -> NDArray[np.bool_]:
    """Which coefficients of (log rate, log batch) may be non-zero under `form`: (2, coefficient)."""
    mask = np.ones((2, len(design.columns)), bool)
    for h, allowed in enumerate((form.lr, form.batch)):
        for k, (name, role) in enumerate(zip(design.columns, design.roles, strict=True)):
            if role == "shared":
                mask[h, k] = name in allowed
            elif role == "exponent":
                mask[h, k] = ("bend" if _is_bend(name) else "exponent") in allowed
    return mask


def _is_bend(column: str) -> bool:
    return column.startswith("exponent:d2:")


def default_beliefs(design: Design, form: Form) -> Beliefs:
    """The stated beliefs for this design and form."""
    k_all = len(design.columns)
    mean, factor = np.zeros((len(RESPONSES), k_all)), np.zeros((len(RESPONSES), k_all, k_all))
    mask, bent = feature_mask(design, form), "bend" in form.lr | form.batch
    rest = np.array([bent or not _is_bend(name) for name in design.columns])  # of all other responses, the level's
    for r, response in enumerate(RESPONSES):
        means, sds = _FEATURE_BELIEFS[response]
        mean[r, : len(FEATURES)] = means
        for k, role in enumerate(design.roles):
            own = 1.0 if r < 2 else _FIXED_OFFSETS[response].get(role, 0.0)
            sd = sds[k] if role == "shared" else own
            factor[r, k, k] = sd * (mask[r, k] if r < 2 else rest[k])
    return Beliefs(
        shared_mean=np.array([b[0] for b in SHARED.values()]),
        shared_factor=np.diag([b[1] for b in SHARED.values()]),
        law_mean=mean,
        law_factor=factor,
        pooled=np.array([role != "shared" for role in design.roles]),
    )


def role_index(design: Design) -> NDArray[np.int64]:
    """Index into the offset scales (roles without `shared`) of each coefficient; 0 for shared ones."""
    return np.array([max(ROLES.index(role) - 1, 0) for role in design.roles], dtype=np.int64)


def offsets_in_use(design: Design, beliefs: Beliefs) -> NDArray[np.bool_]:
    """Which offset scales a fit may hand to a level never seen: (hyperparameter, role without `shared`).

    A form may switch a role off (`exponent`): then a new level has no offset either. A role without any column
    yet (no variant was fitted) stays in use.
    """
    on = np.ones((len(HYPERPARAMETERS), len(ROLES) - 1), bool)
    for k, role in enumerate(ROLES[1:]):
        columns = [c for c, r in enumerate(design.roles) if r == role]
        if columns:
            # a released posterior as a prior leaves 1e-6 where its form had nothing
            on[:, k] = (np.abs(beliefs.law_factor[: len(HYPERPARAMETERS)][:, columns]) > 1e-5).any(axis=(1, 2))
    return on


def beliefs_table() -> list[dict[str, str]]:
    """Every stated belief as a row: parameter, prior, its central 90 %, why."""
    rows: list[dict[str, str]] = []

    def row(name: str, prior: str, low: float, high: float, why: str) -> None:
        rows.append({"parameter": name, "prior": prior, "90 %": f"{low:.3g} to {high:.3g}", "why": why})

    z = 1.6449
    for name, (mean, sd, why) in (SHARED | OWN).items():
        low, high = mean - z * sd, mean + z * sd
        if name.startswith("log_"):
            shift = 1.0 if name.endswith("minus_1") else 0.0
            label = "nu" if shift else name.removeprefix("log_")
            prior = f"{'1 + ' if shift else ''}LogNormal(log {np.exp(mean):.3g}, {sd:g})"
            row(label, prior, shift + np.exp(low), shift + np.exp(high), why)
        else:
            row(name, f"Normal({mean:g}, {sd:g})", low, high, why)
    for response, (means, sds) in _FEATURE_BELIEFS.items():
        for feature, mean, sd in zip(FEATURES, means, sds, strict=True):
            row(
                f"{response}: {feature}",
                f"Normal({mean:g}, {sd:g})",
                mean - z * sd,
                mean + z * sd,
                _FEATURE_REASONS[feature],
            )
    for response, offsets in _FIXED_OFFSETS.items():
        for role, sd in offsets.items():
            why = "levels of groups are not compared" if response == "level" else "the basin of one group"
            row(f"{response}: {role} offset", f"Normal(0, {sd:g})", -z * sd, z * sd, why)
    return rows
