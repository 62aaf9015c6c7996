"""The law above the cells: what moves the optimum, the curvature and the level from cell to cell.

Every response (`RESPONSES`: optimum, curvatures, level, shape) is linear in the same columns:

    response_c = sum_k X[c, k] coefficient[k] + cell effect

Columns with role `shared` are features of the target; the others are offsets of one level of one role
(this source, this size, ...). A form of the law is a choice of the features that may be non-zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.labels import arch_family

Array = NDArray[np.float64]

REFERENCE: Mapping[str, float] = {
    "n_params": 5e8,
    "n_tokens": 2e10,
    "lr_peak": 1e-3,
    "batch_tokens": 524_288.0,
}
"""Where the logs are centred (natural logs of the ratio to these)."""

HYPERPARAMETERS = ("log_lr", "log_batch")
RESPONSES = (
    "log_lr", "log_batch", "log_curvature_1", "log_curvature_2", "level", "angle_1", "angle_2", "skew_1", "skew_2",
)  # fmt: skip
"""What a cell's state consists of: the optimum, the curvatures, the level, the basin's shape."""
CURVATURE, LEVEL, ANGLE, SKEW = slice(2, 4), 4, slice(5, 7), slice(7, 9)
"""Positions in `RESPONSES`."""

FEATURES = ("intercept", "n", "d", "n2", "d2", "nd", "sparsity")
"""n = log(n_params / 5e8), d = log(n_tokens / 2e10), sparsity = log(n_params / n_active)."""

ROLES = ("shared", "source", "family", "variant", "data", "size", "exponent")
"""What a column is an offset of. `variant` is an architecture inside its family; `size` is one n_params of
one source and architecture (its shape and its luck are shared by all its cells); `exponent` is a source's
or family's own deviation from the shared exponents (`DEVIATING`)."""

DEVIATING = {"source": ("n", "d"), "family": ("n", "d", "d2")}
"""Role: features that have columns of role `exponent` for its levels. How exponents change with tokens is told by the
MoE cells beside the dense ones; a team of its own bend would be anywhere at a hundredth of the tokens."""

SCATTER_RATIO_SD = 0.3
"""Standard deviation of log(one source's scatter of cells / what all share), rate and batch: by up to 1.6 times either
way. Other teams sweep other sizes, more or less finely, with other care."""


@dataclass(frozen=True)
class Form:
    """One form of the optimum's law: which features may be non-zero, for each hyperparameter.

    Attributes
    ----------
    lr, batch
        Names out of `FEATURES`; `exponent` switches the groups' own exponents on, `bend` how families' change with
        tokens.
    meaning
        One line for tables.
    """

    lr: frozenset[str]
    batch: frozenset[str]
    meaning: str


def _form(extra: str, meaning: str, drop_batch: str = "") -> Form:
    linear = {"intercept", "n", "d", "sparsity"} | set(extra.split())
    return Form(frozenset(linear), frozenset(linear - set(drop_batch.split())), meaning)


FORMS: Mapping[str, Form] = {
    "linear": _form("", "power laws in size and tokens"),
    "linear-batch-d": _form("", "as linear; the batch depends on tokens alone", drop_batch="n"),
    "curved-tokens": _form("d2", "log tokens squared as well"),
    "curved-size": _form("n2", "log size squared as well"),
    "interaction": _form("nd", "size times tokens as well"),
    "quadratic": _form("n2 d2 nd", "all second-order terms"),
    "group-exponents": _form("exponent", "power laws, from which sources and families deviate a little"),
    "quadratic-exponents": _form("n2 d2 nd exponent bend", "all second-order terms; groups deviate a little"),
}

STACK = "stack"
"""The name of a mixture of forms (`inference.forms`)."""

STACKED = ("linear", "curved-tokens", "interaction", "quadratic")
"""Forms that are stacked by default: power laws, one term of second order, all of them."""


def size_label(source: str, arch: str, n_params: float) -> str:
    """A level of the role `size`, three digits: what shares a model's depth and width."""
    return f"{source}/{arch}/{n_params:.3g}"


@dataclass(frozen=True)
class Cells:
    """Targets or fitted cells, one entry each, every field of shape (cell,).

    `n_params` is the total for MoE; `n_active` the parameters used per token; counts, not logs.
    """

    source: Sequence[str]
    arch: Sequence[str]
    data: Sequence[str]
    n_params: Array
    n_active: Array
    n_tokens: Array

    def __len__(self) -> int:
        return len(self.n_params)

    def take(self, at: slice | NDArray[np.int64]) -> Cells:
        """The cells at these positions, in this order."""
        rows = np.arange(len(self))[at]
        source, arch, data = (tuple(part[i] for i in rows) for part in (self.source, self.arch, self.data))
        return Cells(source, arch, data, self.n_params[rows], self.n_active[rows], self.n_tokens[rows])

    def n(self) -> Array:
        """log(n_params / 5e8)."""
        return np.log(self.n_params / REFERENCE["n_params"])

    def d(self) -> Array:
        """log(n_tokens / 2e10)."""
        return np.log(self.n_tokens / REFERENCE["n_tokens"])

    def labels(self, role: str) -> list[str]:
        """The level of `role` that each cell belongs to; '' where it belongs to none."""
        if role == "source":
            return list(self.source)
        if role == "data":
            return list(self.data)
        family = [arch_family(a) for a in self.arch]
        if role == "family":
            return family
        if role == "variant":
            return ["" if a == f else a for a, f in zip(self.arch, family, strict=True)]
        if role == "size":
            return [size_label(*part) for part in zip(self.source, self.arch, self.n_params, strict=True)]
        raise KeyError(role)


def features(cells: Cells) -> Array:
    """Feature matrix, (cell, feature) in the order of `FEATURES`."""
    n, d = cells.n(), cells.d()
    sparsity = np.log(cells.n_params / cells.n_active)
    return np.stack([np.ones_like(n), n, d, n * n, d * d, n * d, sparsity], axis=1)


@dataclass(frozen=True)
class Design:
    """The columns of the law: their names (`n`, `source:step-law`, `exponent:n:source:step-law`) and roles."""

    columns: tuple[str, ...]
    roles: tuple[str, ...]

    def matrix(self, cells: Cells) -> Array:
        """X (cell, coefficient). A level without a column contributes nothing here: see `missing`."""
        base = features(cells)
        index = {name: k for k, name in enumerate(self.columns)}
        x = np.zeros((len(cells), len(self.columns)))
        x[:, : len(FEATURES)] = base
        for role in ("source", "family", "variant", "data", "size"):
            for c, level in enumerate(cells.labels(role)):
                k = index.get(f"{role}:{level}")
                if k is not None:
                    x[c, k] = 1.0
                for feature in DEVIATING.get(role, ()):
                    k = index.get(f"exponent:{feature}:{role}:{level}")
                    if k is not None:
                        x[c, k] = base[c, FEATURES.index(feature)]
        return x

    def deviating(self, role: str) -> tuple[str, ...]:
        """Those of `DEVIATING[role]` that this design has: models of before 2026-11-28 have no `d2`."""
        names = {c.rsplit(":", 1)[0] for c in self.columns}
        return tuple(f for f in DEVIATING[role] if f"exponent:{f}:{role}" in names)

    def missing(self, cells: Cells, role: str) -> list[str]:
        """Per cell the level of `role` that has no column (a level never seen), else ''."""
        known = {c for c in self.columns if c.startswith(f"{role}:")}
        return ["" if not lv or f"{role}:{lv}" in known else lv for lv in cells.labels(role)]


def design_for(cells: Cells) -> Design:
    """The design whose offset columns are the levels that occur in `cells`, in sorted order."""
    columns, roles = list(FEATURES), ["shared"] * len(FEATURES)
    for role in ("source", "family", "variant", "data", "size"):
        for level in sorted({lv for lv in cells.labels(role) if lv}):
            columns.append(f"{role}:{level}")
            roles.append(role)
    for role, deviating in DEVIATING.items():
        for level in sorted(set(cells.labels(role))):
            for feature in deviating:
                columns.append(f"exponent:{feature}:{role}:{level}")
                roles.append("exponent")
    return Design(tuple(columns), tuple(roles))
