"""`scaleband predict`: the loss of runs that have not been made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from scaleband.cli.arguments import add_fit, add_interval, path
from scaleband.cli.loss_laws import knows_batch, loss_path
from scaleband.cli.places import check_output, write_whole
from scaleband.cli.points import ADDED, Points, read_points, with_known_active
from scaleband.cli.printing import say
from scaleband.cli.question import (
    PARTS,
    convention_lines,
    conventions_for,
    mark,
    meant,
    names_like,
    open_draws,
)
from scaleband.cli.reaching import tell_repeats
from scaleband.cli.verb import Verb
from scaleband.cli.words import mass
from scaleband.inference.loss_store import holds_basins, read_loss
from scaleband.labels import quantity
from scaleband.laws import Cells, LawDraws
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict import Extrapolation, basins, extrapolation, interval, predict_log_loss
from scaleband.predict.loss import with_loss_law
from scaleband.predict.repeats import cost_of_repeats
from scaleband.predict.targets import UNSEEN, outside

CHUNK = 200
"""Points predicted at a time, so that memory does not grow with the file."""


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_fit(parser)
    parser.add_argument("--points", type=path, required=True, metavar="POINTS.csv",
                        help="n_params, n_tokens; source, arch, data, n_active, unique_tokens; lr_peak with "
                             "batch_tokens, or neither for the optimum (of losses alone: either)")  # fmt: skip
    parser.add_argument(
        "--out", type=path, required=True, metavar="PREDICTIONS.csv",
        help="the points and their loss; Parquet if the name ends so",
    )
    parser.add_argument("--mean", action="store_true", help="the expected loss, not that of one new run")
    add_interval(parser)


def run(asked: argparse.Namespace) -> int:
    """Read, predict, write."""
    given = [p for p in (asked.points, asked.fit) if p is not None]
    check_output(asked.out, "--out", inputs=given)
    laws = read_loss(loss_path(asked))
    alone = laws is not None and not holds_basins(loss_path(asked)) and asked.model is None
    points = read_points(asked.points, pairs=not alone)
    behind: LawDraws | LossDraws
    if laws is not None and alone:
        behind = laws
        points = with_known_active(points, laws.table.cells)
        aside = {"rates": points.lr_peak} | ({} if knows_batch(laws) else {"batches": points.batch_tokens})
        if any(np.isfinite(v).any() for v in aside.values()):
            say(f"note: this fit knows losses alone, so {' and '.join(aside)} of the points are left aside")
        tell_new_groups(laws.table.cells, points.cells)
        tell_distance(partial(outside, laws.table.cells), points.cells)
        bands = predicted_by_laws(laws, points, asked.mean, asked.interval)
        done = mark(laws)
    else:
        behind = draws = open_draws(asked)[0]
        points = with_known_active(points, draws.cells)
        tell_new_groups(draws.cells, points.cells)
        tell_distance(partial(extrapolation, draws), points.cells)
        bands = predicted(draws, points, asked.mean, asked.interval, laws)
        done = mark(draws) if laws is None else max(mark(draws), mark(laws))
    if (points.unique_tokens < points.cells.n_tokens).any():
        if laws is None:
            say("note: this fit has no loss laws to say what repeats cost, so the points' unique_tokens are left aside")
        else:
            tell_repeats(laws)
    tell_conventions(behind, points.cells)
    table = points.raw.assign(**{name: bands[:, k] for k, name in enumerate(ADDED)})
    parquet = asked.out.suffix.lower() == ".parquet"
    write_whole(asked.out, "--out", lambda p: (table.to_parquet if parquet else table.to_csv)(p, index=False))
    what = "expected loss" if asked.mean else "loss of one new run"
    say(
        f"wrote {len(table):,} predictions ({what}, {mass(asked.interval)} intervals, equal tails) to {asked.out}"
    )
    return done


def predicted_by_laws(laws: LossDraws, points: Points, mean: bool, share: float) -> np.ndarray:
    """Median, lower and upper loss of each point from loss laws alone: (point, 3)."""
    logs = laws.log_loss(points.cells, batch_tokens=points.batch_tokens, new_run=not mean)
    logs = logs + cost_of_repeats(laws, points.cells, points.unique_tokens, points.batch_tokens)
    return np.exp(np.stack(interval(logs, share), axis=1))


def predicted(
    draws: LawDraws, points: Points, mean: bool, share: float, laws: LossDraws | None = None
) -> np.ndarray:
    """Median, lower and upper loss of each point: (point, 3)."""
    out = np.empty((len(points.cells), 3))
    for begin in range(0, len(out), CHUNK):
        rows = slice(begin, begin + CHUNK)
        b = basins(draws, points.cells.take(rows))
        if laws is not None:
            b = with_loss_law(draws, b, laws, points.unique_tokens[rows])
        logs = predict_log_loss(
            draws, b, points.lr_peak[rows], points.batch_tokens[rows], mean=mean, seed=begin,
            far=None if laws is None else laws.far,
        )  # fmt: skip
        # Quantiles of the log are quantiles of the loss. Beyond exp(700) no float holds the loss.
        out[rows] = np.exp(np.minimum(np.stack(interval(logs, share), axis=1), 700.0))
        if sys.stderr.isatty() and len(out) > 10 * CHUNK:
            print(
                f"\r{min(begin + CHUNK, len(out)):,} of {len(out):,} points",
                end="",
                file=sys.stderr,
                flush=True,
            )
    if sys.stderr.isatty() and len(out) > 10 * CHUNK:
        print(file=sys.stderr)
    return out


def tell_new_groups(fitted: Cells, cells: Cells) -> None:
    """Say which names of the points the fit does not know: their bands are those of any new group."""
    for part in PARTS:
        known = sorted(set(getattr(fitted, part)))
        new = sorted(set(getattr(cells, part)) - set(known))
        if new:
            names = ", ".join("left out" if v == UNSEEN else v for v in new[:8]) + (
                ", ..." if len(new) > 8 else ""
            )
            hint = next((hint for v in new if (hint := meant(v, names_like(part, known)))), "")
            say(f"note: {part} not in the fit: {names}; the fit knows {', '.join(known[:8])}{hint}")


def tell_distance(place: Callable[[Cells, int], Extrapolation], cells: Cells) -> None:
    """Say how many points lie outside the fitted cells, and where the farthest is; `place` measures one of them."""
    parts = (cells.source, cells.arch, cells.data, cells.n_params, cells.n_active, cells.n_tokens)
    keys = list(zip(*parts, strict=True))
    once = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))  # the first point of each cell
    where = {key: place(cells, c) for key, c in once.items()}
    out = [(c, where[key]) for c, key in enumerate(keys) if where[key].verdict in ("near", "far")]
    if not out:
        return
    far = sum(w.verdict == "far" for _, w in out)
    c, farthest = max(out, key=lambda e: e[1].farthest)
    say(
        f"note: {len(out):,} of {len(cells):,} points lie outside the fitted cells, {far:,} of them far; the farthest, "
        f"{quantity(cells.n_params[c])} parameters on {quantity(cells.n_tokens[c])} tokens: {farthest.sentence()}"
    )


def tell_conventions(draws: LawDraws | LossDraws, cells: Cells) -> None:
    """Say under which conventions the runs behind the answers were made."""
    groups = dict.fromkeys("/".join(v) for v in zip(cells.source, cells.arch, cells.data, strict=True))
    stated = {k: v for group in groups for k, v in conventions_for(draws, group).items()}
    for line in convention_lines(stated):
        say(f"conventions: {line}")


VERB = Verb("predict", "Predict the loss at points of your own, with bands.", add, run)
