"""`scaleband propose`: which runs to pay for next, and whether to pay at all.

A fit keeps its runs, so a candidate whose setting it has seen is priced and marked as a replicate. A released model
keeps none: there every candidate counts as new.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleband.cli.arguments import add_fit, add_json, add_target, count, path, whole
from scaleband.cli.doubts import doubt_batch
from scaleband.cli.grid_limits import (
    add_limits,
    flops,
    of_batch_and_memory,
    refuse_limits_of_a_table,
    run_max,
)
from scaleband.cli.prices import add_prices, device_of
from scaleband.cli.printing import print_json, print_rows, print_table
from scaleband.cli.question import Question, ask, common_json, common_rows, mark, with_usual_active
from scaleband.cli.verb import Verb
from scaleband.cli.words import chance, rate, tokens
from scaleband.errors import UserError
from scaleband.labels import flops_label, percent, quantity

if TYPE_CHECKING:
    import pandas as pd

    from scaleband.design import Candidates, Device, Proposals
    from scaleband.laws import Cells


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_fit(parser)
    add_target(parser)
    parser.add_argument("--budget", type=flops, required=True, metavar="FLOPS", help="the most that they may cost")
    parser.add_argument(
        "--candidates", type=path, metavar="C.csv",
        help="runs that can be made: n_params, n_tokens, lr_peak, batch_tokens; optionally source, arch, data, "
        "n_active, flops, run_id, bundle",
    )  # fmt: skip
    parser.add_argument("-n", "--n", type=whole(1, 1000), default=8, metavar="K", help="the most runs; 8")
    parser.add_argument("--pending", type=path, metavar="P.csv", help="runs under way, columns as in --candidates")
    parser.add_argument("--target-runs", type=count, default=1.0, metavar="K",
                        help="final runs that the setting will serve; 1")  # fmt: skip
    add_limits(parser, otherwise="; those of the fit")
    add_prices(parser)
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=1, metavar="N", help="of the outcome draws; 1")
    parser.add_argument("--plot", type=path, metavar="FILE",
                        help="a picture of what the runs would teach: .png, .svg or .pdf")  # fmt: skip
    add_json(parser, regrets=True)


def run(asked: argparse.Namespace) -> int:
    """Choose and print."""
    from scaleband.design import propose

    refuse_limits_of_a_table(asked)
    doubt_batch("--batch-max", asked.batch_max)
    if asked.plot is not None:
        from scaleband.cli.pictures import check_picture, draw_batch

        given = (asked.fit, asked.candidates, asked.pending)
        check_picture(asked.plot, inputs=[p for p in given if p is not None])
    device = device_of(asked)
    q = ask(asked)
    candidates = from_table(q, asked) if asked.candidates is not None else from_limits(q, asked)
    pending = None if asked.pending is None else read_candidates(q, asked.pending)
    made = None if asked.fit is None else made_of(asked.fit, candidates)
    price = None if device is None else candidates.flops + device.overhead_flops
    found = propose(
        q.draws, q.cells, candidates, n_runs=asked.n, pending=pending, seed=asked.seed, target_runs=asked.target_runs,
        budget_flops=asked.budget, price=price, made=made,
    )  # fmt: skip
    if asked.plot is not None:
        draw_batch(q, asked, candidates, pending=pending, price=price, made=made)
    if asked.json:
        print_json(answer_of(q, found, asked, device))
    else:
        show(q, found, asked, device)
    return mark(q.draws)


def made_of(fit: Path, candidates: Candidates) -> pd.DataFrame | None:
    """The runs behind a fit that lie in the candidates' cells, under the candidates' own counts; None if it keeps none.

    A fit names a cell by the smallest counts of its runs, which need not be those of a candidate in it.
    """
    import pandas as pd

    from scaleband.inference.kept_runs import kept_runs
    from scaleband.runs import cell_index
    from scaleband.runs.cells import PARAMS_TOLERANCE

    kept = kept_runs(fit)
    if kept is None:
        return None
    place = ["source", "arch", "data", "n_params", "n_active", "n_tokens"]
    cells = kept[place].drop_duplicates().reset_index(drop=True)
    wanted = pd.DataFrame([candidates.inputs(k) for k in range(len(candidates.cell))])[place].drop_duplicates()
    wanted = wanted.assign(at=cell_index(wanted, cells))
    kept = kept.merge(cells.assign(at=cells.index), on=place).rename(columns={"n_active": "active"})
    both = kept.drop(columns=["source", "arch", "data", "n_params", "n_tokens"]).merge(wanted, on="at")
    same = (both["n_active"] / both["active"] - 1).abs() <= PARAMS_TOLERANCE
    return both[same].reset_index(drop=True)


def from_limits(q: Question, asked: argparse.Namespace) -> Candidates:
    """A grid inside the limits that were given; sizes and lengths of the fit where none were."""
    from scaleband.design import flops_cost, grid_candidates, limits_from

    target_flops = float(flops_cost(q.cells.n_active, q.cells.n_tokens)[0])
    limits = limits_from(q.draws, q.cells, flops_max=run_max(asked, target_flops))
    share = float(q.cells.n_active[0] / q.cells.n_params[0])
    changes = of_batch_and_memory(asked)
    if asked.sizes is not None:
        changes["sizes"] = tuple((n, n * share) for n in asked.sizes)
    if asked.lengths is not None:
        changes["tokens"] = tuple(asked.lengths)
    return grid_candidates(q.draws, q.cells, replace(limits, **changes))


def from_table(q: Question, asked: argparse.Namespace) -> Candidates:
    """The runs of --candidates, and mini-sweeps of them."""
    from scaleband.design import with_mini_sweeps
    from scaleband.predict import basins

    found = read_candidates(q, asked.candidates)
    return with_mini_sweeps(found, basins(q.draws, found.cells))


def read_candidates(q: Question, file: Any) -> Candidates:
    """Runs out of a CSV or Parquet file as `candidate_frame` reads them; raises what it does."""
    from scaleband.design import candidates_from_table

    group = {k: getattr(q.cells, k)[0] for k in ("source", "arch", "data")}
    return candidates_from_table(candidate_frame(file, group, [q.draws.cells]))


def candidate_frame(file: Path, group: Mapping[str, str], fitted: Sequence[Cells] = ()) -> pd.DataFrame:
    """Runs that can be made out of a CSV or Parquet file; a part of the group left out is that of `group`.

    Where n_active is left out it is that of the `fitted` cells that are built like the run, else n_params.

    Raises
    ------
    UserError
        Everything wrong with the rows, see `cli.points`; a row without a setting; a price that is not positive.
    """
    import pandas as pd

    from scaleband.cli.points import read_points

    points = read_points(file, arch=group["arch"], also=("run_id", "bundle", "flops"), fewest_tokens=1e3)
    unset = np.flatnonzero(np.isnan(points.lr_peak) | np.isnan(points.batch_tokens))
    if unset.size:
        raise UserError(
            f"{file.name}: row {unset[0] + 1} has no lr_peak and batch_tokens; a run that can be made needs both "
            f"({unset.size} such rows)"
        )
    frame = pd.DataFrame({"n_params": points.cells.n_params, "n_active": points.cells.n_active,
                          "n_tokens": points.cells.n_tokens, "lr_peak": points.lr_peak,
                          "batch_tokens": points.batch_tokens})  # fmt: skip
    for part in ("source", "arch", "data"):
        named = points.raw[part] if part in points.raw else pd.Series("", frame.index)
        given = named.fillna("").astype(str).str.strip()
        frame[part] = given.where(given != "", group[part]).to_numpy()
    source, arch, data = (tuple(frame[part]) for part in ("source", "arch", "data"))
    cells = replace(points.cells, source=source, arch=arch, data=data)
    frame["n_active"] = with_usual_active(fitted, cells, "n_active", points.active_left_out).n_active
    for name in ("run_id", "bundle"):
        if name in points.raw:
            frame[name] = points.raw[name].fillna("").astype(str).to_numpy()
    if "flops" in points.raw:
        price = pd.to_numeric(points.raw["flops"], errors="coerce").to_numpy(float)
        blank = points.raw["flops"].isna() | (points.raw["flops"].astype(str).str.strip() == "")
        bad = np.flatnonzero(~((price > 0) & np.isfinite(price)) & ~blank.to_numpy())
        if bad.size:
            raise UserError(
                f"{file.name}: row {bad[0] + 1}: flops = {points.raw['flops'].iloc[bad[0]]} cannot be; give a positive "
                "number, or leave the column out (6 FLOPs per active parameter and token)"
            )
        frame["flops"] = price
    return frame


def answer_of(q: Question, found: Proposals, asked: argparse.Namespace, device: Device | None) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    plain, worth = found.to_json(), {p.run_id for p in found.worthwhile()}
    rows = [
        {"run_id": p["run_id"], **p["inputs"], **{k: p[k] for k in (
            "flops", "evsi", "evsi_error", "bundle", "replicate", "p_diverged")},
         "worth_its_price": p["run_id"] in worth}
        for p in plain["proposals"]
    ]  # fmt: skip
    budget: dict[str, Any] = {"flops": found.budget_flops, "left_flops": found.budget_left_flops}
    if device is not None:
        budget |= {"price": device.price(found.budget_flops), "left_price": device.price(found.budget_left_flops),
                   "price_unit": device.unit}  # fmt: skip
        rows = [
            row | {"price": device.price(p.price_flops)} for row, p in zip(rows, found.proposals, strict=True)
        ]
    return {
        "proposals": rows,
        "verdict": plain["verdict"],
        "budget": budget,
        "pending": plain["pending"],
        "seed": found.seed,
        "draws_digest": found.draws_digest,
        "decision": plain["target"],
        **common_json(q, asked),
    }


def worth_words(found: Proposals) -> str:
    """Which of the bundles the verdict speaks of, and what they and all of them take off the regret."""
    if not found.proposals:
        return "none"
    v, gains = found.verdict, {p.bundle: p.evsi for p in found.proposals}
    n, many = len({p.bundle for p in found.worthwhile()}), len(gains)
    by = f"it by {percent(v.evsi)} (EVSI, Monte-Carlo error {percent(v.evsi_error)})"
    if not n:
        return f"none is worth its price; those that cost {flops_label(v.cost_flops)} FLOP, see the verdict, lower {by}"
    few = "the first bundle is worth its price and lowers" if n == 1 else (
        f"the first {n} bundles are worth their price and lower")  # fmt: skip
    return f"{few} {by}" + ("" if n == many else f"; all {many} by {percent(sum(gains.values()))}")


def show(q: Question, found: Proposals, asked: argparse.Namespace, device: Device | None) -> None:
    """The answer for people: the verdict, then the runs."""
    v, left, n = found.verdict, found.budget_left_flops, len(found.pending)
    lost = f"{percent(v.evpi)} of the loss is expected to be lost at the target (EVPI)"
    known = [("regret now", lost)]
    if n:
        runs = "the pending run is" if n == 1 else f"the {n} pending runs are"
        names = [name for name in found.pending if name]
        listed = f": {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""
        known = [("pending", f"{n} run{'' if n == 1 else 's'}, paid, taken as known before any other{listed}"),
                 ("regret then", f"once {runs} in, {lost}")]  # fmt: skip
    rows = [
        ("verdict", v.why),
        *known,
        ("the runs below", worth_words(found)),
        ("budget", f"{flops_label(asked.budget)} FLOP, {flops_label(left)} left after all of them"),
    ]  # fmt: skip
    if device is not None:
        rows.append((
            "in " + device.unit,
            f"{device.words(found.budget_flops)}, {device.words(left)} left after all of them, overhead counted; the "
            f"verdict weighs {device.words(v.cost_flops)} against {device.words(v.saving_flops)}",
        ))  # fmt: skip
    print_rows(q.title(), [*rows, *common_rows(q, asked)])
    if found.proposals:
        worth = found.worthwhile()
        columns = ["run_id", "bundle", "params", "tokens", "lr_peak", "batch", "FLOP", "EVSI", "worth it", "diverges",
                   "note"]
        columns += [] if device is None else [device.unit]
        print_table(columns, [
            [p.run_id, p.bundle, quantity(float(p.inputs["n_params"])), quantity(float(p.inputs["n_tokens"])),
             rate(float(p.inputs["lr_peak"])), tokens(float(p.inputs["batch_tokens"])), flops_label(p.flops),
             f"{percent(p.evsi)} +- {percent(p.evsi_error)}", "yes" if p in worth else "no",
             chance(p.p_diverged),
             "replicate" if p.replicate else "", *([] if device is None else [device.words(p.price_flops)])]
            for p in found.proposals
        ])  # fmt: skip


VERB = Verb("propose", "Propose the next runs under a budget, and say whether they are worth it.", add, run)
