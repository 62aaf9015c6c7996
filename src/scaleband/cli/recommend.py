"""`scaleband recommend`: which peak rate and batch, and how sure we are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaleband.cli.arguments import (
    add_fit,
    add_interval,
    add_json,
    add_target,
    batch,
    grid,
    learning_rate,
    path,
)
from scaleband.cli.doubts import doubt_batch, doubt_distance, doubt_rate
from scaleband.cli.printing import print_json, print_rows
from scaleband.cli.question import Question, ask, band_json, band_text, common_json, common_rows, mark
from scaleband.cli.unrun import tell_unrun
from scaleband.cli.verb import UsageError, Verb
from scaleband.cli.words import chance, mass, rate, tokens
from scaleband.errors import UserError
from scaleband.labels import percent
from scaleband.predict import PLATEAU, Basins, Setting, optimum_given_batch, plateau, recommend, round_to_grid


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_fit(parser)
    add_target(parser)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--batch-max", type=batch, metavar="TOKENS", help="the largest batch that fits")
    limit.add_argument(
        "--batch-tokens", type=batch, metavar="B", help="the batch is given: the best rate for it"
    )
    parser.add_argument(
        "--lr-grid", type=grid(learning_rate), metavar="X,X,...", help="rates that can be used"
    )
    parser.add_argument("--batch-grid", type=grid(batch), metavar="B,B,...", help="batches that can be used")
    add_interval(parser)
    parser.add_argument(
        "--plot", type=path, metavar="FILE", help="a picture of the basin: .png, .svg or .pdf"
    )
    add_json(parser, regrets=True)


def run(asked: argparse.Namespace) -> int:
    """Answer and print."""
    if asked.batch_tokens is not None and asked.batch_grid is not None:
        raise UsageError(
            "--batch-tokens fixes the batch, so --batch-grid has nothing to choose; leave one out"
        )
    if (asked.batch_tokens or 0) > asked.tokens:
        raise UsageError("--batch-tokens is larger than --tokens; it is tokens per optimizer step")
    if asked.plot is not None:
        from scaleband.cli.pictures import check_picture, draw_basin

        check_picture(asked.plot, inputs=[p for p in (asked.fit,) if p is not None])
    q = ask(asked)
    setting = setting_of(q, asked)
    tell_doubts(q, setting, asked)
    answer = answer_of(q, setting, asked)
    if asked.plot is not None:
        draw_basin(q, asked, setting)
    if asked.json:
        print_json(answer)
    else:
        print_rows(q.title(), [*rows_of(answer), *common_rows(q, asked)])
    return mark(q.draws)


def tell_doubts(q: Question, setting: Setting, asked: argparse.Namespace) -> None:
    """Warnings about what was asked for, on stderr."""
    doubt_rate("--lr-grid", asked.lr_grid)
    batches = {"--batch-max": asked.batch_max, "--batch-tokens": asked.batch_tokens, "--batch-grid": asked.batch_grid}
    if any(batches.values()):
        best = float(recommend(q.basins).batch_tokens[0])
        for flag, given in batches.items():
            doubt_batch(flag, given, best)
        doubt_distance(float(setting.batch_tokens[0]), best, "the rate")
    chosen = {"lr_peak": asked.lr_grid, "batch_tokens": asked.batch_tokens or asked.batch_grid}
    tell_unrun(q, setting, [name for name, value in chosen.items() if value is not None])


def setting_of(q: Question, asked: argparse.Namespace) -> Setting:
    """The recommended setting under the constraints that were given."""
    free = recommend(q.basins, batch_max=asked.batch_max, batch_tokens=asked.batch_tokens)
    if not np.isfinite([free.lr_peak[0], free.batch_tokens[0], free.expected_regret[0]]).all():
        raise UserError(
            f"{q.group}: the fit gives no finite answer this far out; ask for a target nearer its cells"
        )
    if asked.lr_grid is None and asked.batch_grid is None:
        return free
    batches = asked.batch_grid if asked.batch_tokens is None else [asked.batch_tokens]
    if batches is not None and asked.batch_max is not None:
        batches = [b for b in batches if b <= asked.batch_max * (1 + 1e-9)]
        if not batches:
            raise UsageError("every batch of --batch-grid is above --batch-max; add a smaller one")
    rounded = round_to_grid(q.basins, asked.lr_grid, batches, batch_max=asked.batch_max)
    return Setting(
        rounded.lr_peak,
        rounded.batch_tokens,
        rounded.expected_regret,
        rounded.p_within_plateau,
        free.at_batch_bound,
    )


def answer_of(q: Question, setting: Setting, asked: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    b = q.basins
    optimum = {"lr_peak": b.lr_peak()[:, 0], "batch_tokens": b.batch_tokens()[:, 0]}
    given = None
    if setting.at_batch_bound[0]:
        # Under a cap, draws whose optimum is below it keep their own.
        bound = np.full((b.optimum.shape[0], 1), asked.batch_tokens or 0.0)
        if asked.batch_max is not None:
            bound = np.minimum(b.batch_tokens(), asked.batch_max)
        given = {
            "why": "batch_max" if asked.batch_max is not None else "batch_tokens",
            "lr_peak": band_json(optimum_given_batch(b, bound)[:, 0], asked.interval),
            "batch_tokens": band_json(bound[:, 0], asked.interval),
        }
    return {
        **{name: band_json(value, asked.interval) for name, value in optimum.items()},
        "interval": asked.interval,
        "interval_kind": "eti",
        "recommended": setting_json(setting),
        "constrained": given,
        "plateau": plateau_json(plateau(b, inside(b, setting))[0], batch_max=asked.batch_max,
                                within=float(setting.expected_regret[0]) <= PLATEAU),
        **common_json(q, asked),
    }


def setting_json(setting: Setting) -> dict[str, float]:
    """A setting and what it costs."""
    names = ("lr_peak", "batch_tokens", "expected_regret", "p_within_plateau")
    return {name: float(getattr(setting, name)[0]) for name in names}


def inside(b: Basins, setting: Setting) -> Setting:
    """Where to look for the edge from: a batch limit or a grid may leave the recommended setting outside."""
    return setting if setting.expected_regret[0] <= PLATEAU else recommend(b)


def plateau_json(edge: Any, *, within: bool, batch_max: float | None) -> dict[str, Any]:
    """Extent and edge of the region of small expected regret, up to a cap on the batch; nulls where there is none."""
    cut = False
    if batch_max is not None and (edge[:, 1] > batch_max).any():
        cut, edge = True, up_to_batch(edge, batch_max)
    known = len(edge) > 2 and bool(np.isfinite(edge).all())
    extents = {
        name: {"lower": edge[:, k].min(), "upper": edge[:, k].max()} if known else None
        for k, name in enumerate(("lr_peak", "batch_tokens"))
    }
    return {"threshold": PLATEAU, **extents, "holds_recommended": within, "cut_at_batch_max": cut,
            "polygon": edge if known else None}  # fmt: skip


def up_to_batch(edge: Any, batch_max: float) -> Any:
    """The edge (point, 2) of that part of a region, convex in logs, whose batches are at most `batch_max`."""
    logs, top, kept = np.log(edge), np.log(batch_max), []
    for here, there in zip(logs, np.roll(logs, -1, axis=0), strict=True):
        if here[1] <= top:
            kept.append(here)
        if (here[1] <= top) != (there[1] <= top):
            kept.append(here + (there - here) * (top - here[1]) / (there[1] - here[1]))
    return np.exp(np.reshape(kept, (-1, 2)))


def rows_of(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The answer for people."""
    r, p, share = answer["recommended"], answer["plateau"], mass(answer["interval"])
    rows = [
        ("recommended", f"lr_peak {rate(r['lr_peak'])}, batch_tokens {tokens(r['batch_tokens'])}"),
        ("expected regret", f"{percent(r['expected_regret'])} of the loss; "
                            f"P(regret <= {PLATEAU} %): {chance(r['p_within_plateau'])}"),
        ("optimum", f"lr_peak {band_text(answer['lr_peak'], rate)}; "
                    f"batch_tokens {band_text(answer['batch_tokens'], tokens)} ({share} intervals)"),
    ]  # fmt: skip
    given = answer["constrained"]
    if given is not None:
        why = "at most the given batch" if given["why"] == "batch_max" else "at the given batch"
        rows.append(("constrained", f"{why}: lr_peak {band_text(given['lr_peak'], rate)}"))
    if p["polygon"] is None:
        where = " up to --batch-max" if p["cut_at_batch_max"] else ""
        rows.append(("plateau", f"none: no setting{where} is known to lose at most {PLATEAU} % on average"))
    else:
        rows.append(("plateau", f"lr_peak {rate(p['lr_peak']['lower'])} to {rate(p['lr_peak']['upper'])}, batch_tokens "
                     f"{tokens(p['batch_tokens']['lower'])} to {tokens(p['batch_tokens']['upper'])} "
                     f"(expected regret <= {PLATEAU} %{', cut at --batch-max' if p['cut_at_batch_max'] else ''})"
                     f"{'' if p['holds_recommended'] else '; the recommended setting is outside'}"))  # fmt: skip
    return rows


VERB = Verb("recommend", "Recommend a peak learning rate and a batch size, with bands.", add, run)
