"""Loss laws on the command line: fitting them with or without basins, and finding those of a fit or a model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleband.cli.arguments import names_among
from scaleband.cli.check import tell_warnings
from scaleband.cli.printing import say
from scaleband.cli.progress import interruptible
from scaleband.cli.question import mark
from scaleband.cli.verb import Exit, UsageError
from scaleband.errors import UserError
from scaleband.inference.loss_store import read_loss, write_loss
from scaleband.inference.released import model_path
from scaleband.laws.loss import LAWS
from scaleband.laws.loss.draws import LossDraws

if TYPE_CHECKING:
    from scaleband.inference.fitting import Fit
    from scaleband.inference.loss_fit import LossFit
    from scaleband.runs import RunTable

LOSS_DRAWS = 2500
"""A chain, where --draws does not say."""

MODES = ("auto", "only", "also", "none")

# What the laws of a sweep ask for before they are fitted without being asked: cells, sizes, token counts.
ENOUGH = (8, 3, 3)


def read_loss_table(asked: argparse.Namespace) -> RunTable | None:
    """The table, if it is to be fitted by loss laws alone: asked for, or without any rate."""
    from scaleband.runs import read_runs

    if asked.loss not in ("auto", "only"):
        return None
    try:
        table = read_runs(
            asked.runs, mapping=asked.map, batch_in_sequences=asked.batch_in_sequences, purpose="loss"
        )
    except UserError:
        if asked.loss == "only":
            raise
        return None  # the reader for sweeps says what is wrong
    rates = table.frame["lr_peak"].notna() & table.frame["batch_tokens"].notna()
    return table if asked.loss == "only" or not rates.any() else None


def fit_loss_only(asked: argparse.Namespace, table: RunTable) -> int:
    """Fit the loss laws to the runs themselves and write them."""
    from scaleband.inference.loss_fit import fit_loss
    from scaleband.inference.loss_table import table_from_runs

    if asked.prior is not None:
        raise UsageError("--prior is about rates and batches; this table is fitted by loss laws alone")
    tell_warnings(table)
    observed = table_from_runs(table.frame)
    with interruptible(asked.quiet) as each_step:
        fitted = fit_loss(
            observed, laws=laws_asked(asked), settings=settings_of(asked), meta=facts_of(table), progress=each_step
        )
    write_loss(fitted.draws, asked.out)
    say(f"wrote {asked.out}: loss laws of {len(observed)} observations, {fitted.seconds:.0f} s")
    return tell_loss(fitted)


def laws_asked(asked: argparse.Namespace) -> list[str] | None:
    """Names after --laws.

    Raises
    ------
    UsageError
        One that is no law, or none at all.
    """
    if asked.laws is None:
        return None
    return names_among("--laws", asked.laws, LAWS, "loss law")


def settings_of(asked: argparse.Namespace) -> Any:
    """The sampler as asked for."""
    from scaleband.inference.sampler import SamplerSettings

    return SamplerSettings(
        draws=asked.draws or LOSS_DRAWS, tune=asked.tune, chains=asked.chains, seed=asked.seed, target_accept=0.95
    )  # fmt: skip


def facts_of(table: RunTable) -> dict[str, object]:
    """Facts that travel with loss laws."""
    from importlib.metadata import version

    from scaleband.runs import conventions

    return {
        "name": "own fit",
        "scaleband": version("scaleband"),
        "n_runs": len(table.frame),
        "conventions": conventions(table.frame),
    }


def loss_follows(asked: argparse.Namespace, table: RunTable) -> bool:
    """Whether loss laws are fitted on the levels of this sweep's cells, once these are known.

    Raises
    ------
    UserError
        What is asked for cannot be had of these cells: said before the work, not after it.
    """
    from scaleband.bayes import cells_of
    from scaleband.inference.loss_fit import laws_for
    from scaleband.inference.loss_table import MIN_OBSERVATIONS, table_of_cells
    from scaleband.runs import cell_table, comparable, usable

    if asked.loss == "none":
        return False
    cells = cells_of(cell_table(comparable(usable(table.frame))))  # those that a fit has
    counts = (len(cells), *(len(set(np.round(np.log(v), 2))) for v in (cells.n_params, cells.n_tokens)))
    if asked.loss == "auto" and any(have < need for have, need in zip(counts, ENOUGH, strict=True)):
        return False
    if len(cells) < MIN_OBSERVATIONS:
        raise UserError(
            f"--loss also: {len(cells)} cells are too few for a loss law; give runs of at least {MIN_OBSERVATIONS}, at "
            "several sizes and token counts, or leave --loss out"
        )
    nothing = np.zeros(len(cells))
    # The optimal batches are not known yet, but they will differ.
    laws_for(table_of_cells(cells, nothing, nothing, np.arange(1.0, len(cells) + 1), {}), laws_asked(asked))
    return True


def add_loss(asked: argparse.Namespace, fitted: Fit, table: RunTable) -> int:
    """Loss laws on the levels of the fitted cells, into the fit's file: the exit code they call for."""
    from scaleband.inference.far_fit import fit_far
    from scaleband.inference.loss_fit import fit_loss
    from scaleband.inference.loss_table import table_from_basins

    observed = table_from_basins(fitted.draws())
    try:
        with interruptible(asked.quiet) as each_step:
            laws = fit_loss(
                observed, laws=laws_asked(asked), settings=settings_of(asked), meta=facts_of(table), progress=each_step
            )
            told = replace(laws.draws, far=fit_far(fitted.draws(), table.frame, seed=asked.seed))
        write_loss(told, asked.out, beside=asked.out)
    except KeyboardInterrupt:
        say(f"interrupted: {asked.out} holds the fit, without loss laws")
        return Exit.INTERRUPTED
    say(f"added loss laws of {len(observed)} cells to {asked.out}, {laws.seconds:.0f} s")
    return tell_loss(laws)


def tell_loss(fitted: LossFit) -> int:
    """Weights on stderr, and what failed of the laws that have any."""
    say("weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in fitted.weights.items()))
    return mark(fitted.draws)


def loss_path(asked: argparse.Namespace) -> Path:
    """The file that may hold loss laws: of a fit, or of a released model (a file of its own beside the posterior)."""
    if asked.model is None:
        return Path(asked.fit)
    posterior = model_path(asked.model)
    own = posterior.with_name("loss.nc")
    return own if own.is_file() else posterior


def open_loss(asked: argparse.Namespace) -> LossDraws:
    """The loss laws behind --fit or --model.

    Raises
    ------
    UserError
        There are none.
    """
    path = loss_path(asked)
    draws = read_loss(path)
    if draws is None:
        raise UserError(
            f"{path}: this fit holds no loss laws; fit again with --loss also (a sweep of at least {ENOUGH[0]} cells), "
            "or fit a table of losses alone"
        )
    return draws


def knows_batch(draws: LossDraws) -> bool:
    """Whether a law of the fit asks for the batch."""
    return any("b" in p.law.needs for p in draws.parts)


def loss_model_json(draws: LossDraws, asked: argparse.Namespace) -> dict[str, object]:
    """Which laws answered."""
    return {
        "name": asked.model or str(asked.fit),
        "n_runs": draws.meta.get("n_runs"),
        "n_observations": len(draws.table),
        "weights": draws.meta["weights"],
        "n_draws": draws.n_samples,
    }
