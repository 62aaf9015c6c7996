"""`scaleband campaign init`: target, budget, what can be run, prior."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from typing import Any

import numpy as np

from scaleband.cli.arguments import add_json, add_target, count, path, trust, whole
from scaleband.cli.grid_limits import (
    add_limits,
    flops,
    of_batch_and_memory,
    refuse_limits_of_a_table,
    run_max,
)
from scaleband.cli.prices import add_prices, device_of
from scaleband.cli.printing import print_json, say
from scaleband.cli.verb import Exit, UsageError
from scaleband.errors import UserError
from scaleband.inference.released import is_path, prior_path
from scaleband.labels import arch_family, counted, flops_label

STRATEGIES = ("evsi", "random", "cost-weighted", "cheapest-first")


def add_init(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_target(parser)
    parser.add_argument(
        "--budget", type=flops, required=True, metavar="FLOPS", help="what all runs together may cost"
    )
    parser.add_argument("--target-runs", type=count, default=1.0, metavar="K",
                        help="final runs that the setting will serve; 1")  # fmt: skip
    parser.add_argument("--candidates", type=path, metavar="C.csv",
                        help="runs that can be made: columns as in scaleband propose --candidates")  # fmt: skip
    add_limits(parser)
    add_prices(parser)
    parser.add_argument(
        "--runs", nargs="+", type=path, metavar="RUNS", help="runs that you have: CSV or Parquet, at no cost"
    )
    parser.add_argument(
        "--map", type=path, metavar="COLUMNS.toml", help="names, constants and units of their columns"
    )
    parser.add_argument(
        "--prior", metavar="MODEL", help="start from a released model (a name) or a fit (a file)"
    )
    parser.add_argument("--trust", type=trust, metavar="0..1", help="how far to trust it; 1 by default")
    parser.add_argument("--strategy", choices=STRATEGIES, default="evsi", help="who chooses; evsi")
    parser.add_argument("--state", action="append", default=[], metavar="KEY=VALUE",
                        help="a convention of all runs: loss_kind, schedule, tokenizer, optimizer, ...")  # fmt: skip
    parser.add_argument(
        "--retries", type=whole(0, 100), default=2, metavar="N", help="tries after a failure; 2"
    )
    parser.add_argument("--name", metavar="NAME", help="begins every run_id; the folder's name by default")
    parser.add_argument("--storage", metavar="URL", help="a PostgreSQL database; a file in DIR by default")
    parser.add_argument("--draws", type=whole(50, 100_000), default=1000, metavar="N", help="per chain; 1000")
    parser.add_argument("--tune", type=whole(50, 100_000), default=500, metavar="N", help="per chain; 500")
    parser.add_argument("--chains", type=whole(1, 64), default=2, metavar="N", help="2")
    parser.add_argument("--seed", type=whole(0, 2**31 - 1), default=1, metavar="N", help="1")
    add_json(parser)


def run_init(asked: argparse.Namespace) -> int:
    """Start."""
    if asked.trust is not None and asked.prior is None:
        raise UsageError(
            "--trust says how far to trust --prior; give --prior MODEL too, or leave --trust out"
        )
    if asked.source is None or asked.data is None:
        raise UsageError("a campaign answers for one group: name it with --source and --data")
    refuse_limits_of_a_table(asked)
    if asked.candidates is None and (asked.sizes is None or asked.lengths is None):
        raise UsageError("say what can be run: --candidates C.csv, or --sizes and --lengths")

    device = device_of(asked)

    from scaleband.campaign import Campaign, Settings

    given = given_of(asked)
    target = {"source": asked.source, "arch": asked.arch or "dense", "data": asked.data, "n_params": asked.params,
              "n_active": asked.active_params or usual_active(asked, given), "n_tokens": asked.tokens}  # fmt: skip
    settings = Settings(
        name=asked.name
        or re.sub(r"[^A-Za-z0-9._-]+", "-", asked.dir.resolve().name).strip("-._")
        or "campaign",
        target=target,
        budget_flops=asked.budget,
        candidates={} if asked.candidates is None else candidates_of(asked, target),
        limits=limits_of(asked, target) if asked.candidates is None else {},
        given=given,
        device={} if device is None else asdict(device),
        target_runs=asked.target_runs,
        strategy=asked.strategy,
        prior="" if asked.prior is None else prior_of(asked.prior),
        trust=1.0 if asked.trust is None else asked.trust,
        draws=asked.draws,
        tune=asked.tune,
        chains=asked.chains,
        seed=asked.seed,
        retries=asked.retries,
        stated=stated_of(asked.state),
    )
    with Campaign.create(asked.dir, settings, storage=asked.storage) as campaign:
        made = campaign.settings
    n_candidates, n_given = len(made.candidates["lr_peak"]), len(made.given.get("run_id", ()))
    if asked.json:
        print_json({"dir": str(asked.dir), "name": made.name, "candidates": n_candidates, "given_runs": n_given,
                    "target": dict(made.target), "budget_flops": made.budget_flops, "strategy": made.strategy,
                    "prior": made.prior, "trust": made.trust})  # fmt: skip
    else:
        counts = f"{counted(n_candidates, 'candidate')}, {counted(n_given, 'earlier run')}"
        say(f"started {made.name} in {asked.dir}: {counts}, "
            f"{flops_label(made.budget_flops, 3)} FLOP; next: scaleband campaign ask {asked.dir}")  # fmt: skip
    if made.strategy == "evsi" and not made.prior and not n_given:
        say("note: nothing but the stated beliefs is known of this target, and under bands that wide no first bundle "
            "may look worth its price: begin with --prior step-law --trust 0.5, with earlier runs (--runs), or with "
            "`ask --past-stop`")  # fmt: skip
    return Exit.DONE


def usual_active(asked: argparse.Namespace, given: dict[str, list[Any]]) -> float:
    """n_active of a target that leaves it out: as in the runs that are there, else in the prior, else n_params."""
    from scaleband.cli.question import with_usual_active
    from scaleband.inference.store import read_draws
    from scaleband.laws import Cells
    from scaleband.predict import target_cells

    arch = asked.arch or "dense"
    if arch_family(arch) == "dense":
        return float(asked.params)
    known = [] if asked.prior is None else [read_draws(prior_path(asked.prior)).cells]
    if given:
        params, active, tokens = (np.asarray(given[name], float) for name in ("n_params", "n_active", "n_tokens"))
        known.insert(0, Cells(given["source"], given["arch"], given["data"], params, active, tokens))
    cells = target_cells(asked.params, asked.tokens, source=asked.source, arch=arch, data=asked.data)
    return float(with_usual_active(known, cells, "--active-params").n_active[0])


def prior_of(text: str) -> str:
    """A released model's name as it is; a file by its whole path, since the next command may run elsewhere."""
    found = prior_path(text)  # refuses a name that no released model has
    return str(found.resolve()) if is_path(text) else text


def stated_of(words: list[str]) -> dict[str, str]:
    """KEY=VALUE words."""
    pairs = [word.partition("=") for word in words]
    bad = [key for key, sign, value in pairs if not sign or not value.strip()]
    if bad:
        raise UsageError(
            f"--state {bad[0]!r} states nothing; write it like --state 'loss_kind=validation, nats'"
        )
    return {key.strip(): value.strip() for key, _, value in pairs}


def limits_of(asked: argparse.Namespace, target: dict[str, Any]) -> dict[str, Any]:
    """Limits of the generated grid."""
    from scaleband.design import flops_cost

    share = target["n_active"] / target["n_params"]
    most = run_max(asked, float(flops_cost(target["n_active"], target["n_tokens"])))
    sizes = [[n, n * share] for n in asked.sizes]
    return {"sizes": sizes, "tokens": asked.lengths, "flops_max": most} | of_batch_and_memory(asked)


def candidates_of(asked: argparse.Namespace, target: dict[str, Any]) -> dict[str, list[Any]]:
    """The candidate table, read as `scaleband propose` reads it; a part of the group left out is the target's."""
    from scaleband.campaign.settings import checked_candidates
    from scaleband.cli.propose import candidate_frame
    from scaleband.design import candidates_from_table
    from scaleband.runs.files import read_raw

    name = asked.candidates.name
    frame = candidate_frame(asked.candidates, target)
    if target["n_active"] != target["n_params"] and "n_active" not in read_raw(asked.candidates, name):
        raise UserError(f"{name}: the target is sparse and the table has no n_active; add it")
    try:
        candidates_from_table(frame)  # bundles and ids
    except UserError as error:
        raise UserError([f"{name}: {problem}" for problem in error.problems]) from None
    return checked_candidates({str(c): frame[c].tolist() for c in frame}, name)


def given_of(asked: argparse.Namespace) -> dict[str, list[Any]]:
    """Runs that are there already, checked."""
    if not asked.runs:
        return {}
    from scaleband.cli.check import tell_warnings
    from scaleband.runs import COLUMNS, read_runs

    table = read_runs(asked.runs, mapping=asked.map, purpose="loss")
    tell_warnings(table)
    failed = int((table.frame["status"] == "failed").sum())
    if failed:
        say(f"note: {failed:,} of the earlier runs failed and say nothing: left out")
    # columns that nobody filled say nothing, and a campaign keeps this in one line of its storage
    names = [c.name for c in COLUMNS if c.name in table.frame]
    kept = [n for n in names if table.frame[n].notna().any() and (table.frame[n].astype(str) != "").any()]
    return {n: table.frame[n].tolist() for n in kept}
