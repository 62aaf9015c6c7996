"""What loss laws are fitted to: one observation per run, or per cell whose level a basin fit has told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.laws.design import REFERENCE, Cells
from scaleband.laws.loss.form import Covariates

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """The point that a table's laws are written around: parameters used per token, tokens, tokens per step; no logs."""

    n_active: float
    n_tokens: float
    batch_tokens: float


@dataclass(frozen=True)
class LossTable:
    """Observed losses and where they were observed; every field of shape (observation,).

    Attributes
    ----------
    cells
        Group, size and tokens of each observation.
    batch_tokens, unique_tokens
        NaN where not stated; unique tokens not stated means that nothing repeats.
    log_loss, log_loss_se
        Natural log of the loss and its standard error.
    kind
        What the loss is (`loss_kind`): levels of different kinds are never compared.
    trunk
        '' or the name of what several observations branch off.
    of_cells
        True if these are levels at the optimum of fitted basins, False if they are runs.
    """

    cells: Cells
    batch_tokens: Array
    unique_tokens: Array
    log_loss: Array
    log_loss_se: Array
    kind: Sequence[str]
    trunk: Sequence[str]
    of_cells: bool

    def __len__(self) -> int:
        return len(self.log_loss)

    def groups(self) -> list[str]:
        """source/arch/data of each observation."""
        return group_names(self.cells)

    def take(self, at: NDArray[np.int64]) -> LossTable:
        """The observations at these positions."""
        return LossTable(
            self.cells.take(at), self.batch_tokens[at], self.unique_tokens[at], self.log_loss[at], self.log_loss_se[at],
            [self.kind[i] for i in at], [self.trunk[i] for i in at], self.of_cells,
        )  # fmt: skip


def group_names(cells: Cells) -> list[str]:
    """source/arch/data of each entry."""
    return [f"{s}/{a}/{d}" for s, a, d in zip(cells.source, cells.arch, cells.data, strict=True)]


def trunk_names(table: LossTable) -> list[str]:
    """source/trunk of each observation, '' where it shares none: two teams may both call a trunk "1"."""
    return [f"{s}/{t}" if t else "" for s, t in zip(table.cells.source, table.trunk, strict=True)]


def sizes_told_apart(cells: Cells) -> tuple[str, ...]:
    """Names of the sizes whose effect can be told from their group's level: of recipes with three sizes or more."""
    names = set(cells.labels("size"))
    count = {own: sum(n.startswith(f"{own}/") for n in names) for own in {n.rsplit("/", 1)[0] for n in names}}
    return tuple(sorted(n for n in names if count[n.rsplit("/", 1)[0]] >= 3))


def reference_of(table: LossTable) -> Reference:
    """The table's centre: medians of the logs, rounded to two digits so that it reads well.

    Where no batch is stated any will do: `laws.REFERENCE`'s.
    """

    def middle(value: Array) -> float:
        value = value[np.isfinite(value)]
        return float(f"{np.exp(np.median(np.log(value))):.2g}") if value.size else REFERENCE["batch_tokens"]

    return Reference(
        middle(table.cells.n_active), middle(table.cells.n_tokens), middle(np.asarray(table.batch_tokens))
    )


def covariates(
    cells: Cells, reference: Reference, batch_tokens: Array | None = None, unique_tokens: Array | None = None
) -> Covariates:
    """Covariates of cells relative to a reference: each (cell,). A batch that is not stated is NaN: the best one."""
    n = np.log(cells.n_active / reference.n_active)
    d = np.log(cells.n_tokens / reference.n_tokens)
    s = np.log(cells.n_params / cells.n_active)
    nothing = np.full(len(n), np.nan)
    b = np.log((nothing if batch_tokens is None else batch_tokens) / reference.batch_tokens)
    u = np.log((nothing if unique_tokens is None else unique_tokens) / reference.n_tokens)
    return Covariates(n, d, s, b, np.where(np.isfinite(u), np.minimum(u, d), d))
