"""Splits of a budget: the laws that make them, how far they lie from their cells, which sparsity they may have."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from scaleband.cli.loss_laws import open_loss
from scaleband.cli.models import has_loss_laws
from scaleband.cli.question import extrapolation_json
from scaleband.cli.verb import UsageError
from scaleband.errors import UserError
from scaleband.inference.released import model_names
from scaleband.labels import arch_family
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict.targets import outside, peers, target_cells

_ROUNDING = 1e-3


def open_laws(asked: argparse.Namespace) -> LossDraws:
    """The loss laws behind --fit or --model.

    Raises
    ------
    UserError
        There are none.
    """
    if asked.model is not None and not has_loss_laws(asked.model):
        able = " or ".join(f"--model {name}" for name in model_names() if has_loss_laws(name))
        raise UserError(f"{asked.model}: this model has no loss laws, so it knows rates and batches alone; "
                        f"{f'ask {able}' if able else 'ask a fit of your own (--fit)'}")  # fmt: skip
    return open_loss(asked)


def split_json(draws: LossDraws, group: str, n_params: float, n_tokens: float, sparsity: float) -> dict[str, Any]:
    """How far a split is from the fitted cells of its group (or family, or of all): parameters, tokens, FLOP."""
    source, arch, data = group.split("/")
    at = target_cells(n_params, n_tokens, source=source, arch=arch, data=data, n_active=n_params / sparsity)
    cells = draws.table.cells
    own = peers(cells, at)[1]
    fitted = (6 * np.asarray(cells.n_active) * cells.n_tokens)[own]
    spent = 6 * n_params / sparsity * n_tokens  # training alone, whatever the budget also pays
    beyond = float(np.log10(spent / np.clip(spent, fitted.min(), fitted.max())))
    return {
        **extrapolation_json(outside(cells, at)),
        "decades_flops": beyond if abs(beyond) > _ROUNDING else 0.0,
        "largest_fitted_flops": float(fitted.max()),
        "smallest_fitted_flops": float(fitted.min()),
    }


def split_words(where: dict[str, Any]) -> str:
    """The same for people."""
    beyond = where["decades_flops"]
    if not beyond:
        return str(where["sentence"])
    end = "beyond the largest" if beyond > 0 else "below the smallest"
    return f"{where['sentence']}; in FLOP {abs(beyond):.2g} decades {end} fitted run"


def refuse_sparse_dense(flag: str, group: str, sparsity: float | None, *, remedy: str) -> None:
    """A dense model uses every parameter for every token.

    Raises
    ------
    UsageError
        A sparsity above 1 of a dense group.
    """
    parts = group.split("/")
    if sparsity is not None and sparsity > 1 + 1e-9 and len(parts) == 3 and arch_family(parts[1]) == "dense":
        raise UsageError(f"{flag} is {sparsity:g}, and {parts[1]} uses all parameters; {remedy}, or leave {flag} out")
