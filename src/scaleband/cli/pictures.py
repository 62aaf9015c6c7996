"""Pictures asked for on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleband.cli.places import check_output
from scaleband.cli.question import Question
from scaleband.errors import UserError
from scaleband.laws import LawDraws
from scaleband.predict import Setting

if TYPE_CHECKING:
    import pandas as pd

    from scaleband.design import Candidates

ENDINGS = (".png", ".svg", ".pdf")


def check_picture(out: Path, *, inputs: list[Path]) -> None:
    """Refuse a picture that cannot be written, before the work.

    Raises
    ------
    UserError
        Another ending than those of `ENDINGS`, or a place that cannot be written.
    """
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"{out}: a picture can be written as {', '.join(ENDINGS)}; end the name of --plot so")
    check_output(out, "--plot", inputs=inputs)


def draw_basin(q: Question, asked: argparse.Namespace, setting: Setting) -> None:
    """The basin at the target, with the optimum's draws, the recommended setting and the plateau."""
    from scaleband.plots import plot_basin

    figure = plot_basin(
        q.draws, q.cells, batch_max=asked.batch_max, batch_tokens=asked.batch_tokens, setting=setting,
        mass=asked.interval,
    )  # fmt: skip
    write_picture(figure, asked.plot)


def draw_batch(q: Question, asked: argparse.Namespace, candidates: Candidates, **given: Any) -> None:
    """What the proposed runs would teach, bundle by bundle; `given` as in `design.propose`."""
    from scaleband.plots import plot_batch

    figure = plot_batch(
        q.draws, q.cells, candidates, budget_flops=asked.budget, n_runs=asked.n, seed=asked.seed, **given
    )
    write_picture(figure, asked.plot)


def draw_contrasts(out: Path, runs: pd.DataFrame, sets: Mapping[str, LawDraws]) -> None:
    """What every set of draws expects of the runs, beside these."""
    from scaleband.plots import plot_contrasts

    write_picture(plot_contrasts(runs, sets), out)


def write_picture(figure: Any, out: Path) -> None:
    """Save.

    Raises
    ------
    UserError
        The place cannot be written after all.
    """
    from scaleband.plots import save

    try:
        save(figure, out)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(f"{out}: cannot be written ({why}); choose another --plot") from None
