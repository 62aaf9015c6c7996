"""`scaleband fit`: sample the posterior of a run table and save it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from scaleband.cli.arguments import add_tables, path, whole
from scaleband.cli.check import read_tables, tell_warnings
from scaleband.cli.places import check_output
from scaleband.cli.printing import say
from scaleband.cli.progress import progress
from scaleband.cli.verb import Exit, Verb
from scaleband.laws import FORMS

if TYPE_CHECKING:
    from scaleband.inference.fitting import Fit


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_tables(parser)
    parser.add_argument("--out", type=path, required=True, metavar="FIT.nc", help="the file to write")
    parser.add_argument("--form", choices=list(FORMS), default="linear", help="form of the law; linear by default")
    parser.add_argument("--draws", type=whole(20, 100_000), default=1000, metavar="N", help="per chain; 1000")
    parser.add_argument("--tune", type=whole(20, 100_000), default=400, metavar="N", help="per chain; 400")
    parser.add_argument("--chains", type=whole(1, 64), default=2, metavar="N", help="2")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=1, metavar="N", help="1")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(asked: argparse.Namespace) -> int:
    """Read, sample, judge, save."""
    inputs = [*asked.runs, *(p for p in (asked.map,) if p is not None)]
    check_output(asked.out, "--out", inputs=inputs)
    table = read_tables(asked)
    tell_warnings(table)

    from scaleband.inference.fitting import fit, tree_of
    from scaleband.inference.sampler import SamplerSettings
    from scaleband.inference.store import write_netcdf

    settings = SamplerSettings(draws=asked.draws, tune=asked.tune, chains=asked.chains, seed=asked.seed)
    with progress(asked.quiet) as report:
        fitted = fit(table.frame, form=asked.form, settings=settings, progress=report)
    write_netcdf(tree_of(fitted), asked.out)
    return tell_outcome(fitted, asked)


def tell_outcome(fitted: Fit, asked: argparse.Namespace) -> int:
    """What was fitted and how far it can be trusted, on stderr."""
    meta: Any = fitted.meta
    seconds = sum(meta["seconds"].values())
    what = f"{meta['n_runs']:,} runs in {meta['n_cells']:,} cells, form {meta['form']}"
    say(f"wrote {asked.out}: {what}, {seconds:.0f} s")
    if fitted.gate.passed:
        return Exit.DONE
    for message in fitted.gate.messages:
        say(f"warning: the diagnostic gate failed: {message}")
    return Exit.GATE_FAILED


VERB = Verb("fit", "Fit the model to a run table and save the draws.", add, run)
