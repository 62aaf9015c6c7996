"""`scaleband fit`: sample the posterior of a run table and save it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleband.cli.arguments import add_tables, names_among, path, trust, whole
from scaleband.cli.check import read_tables, tell_warnings
from scaleband.cli.interrupts import interrupts
from scaleband.cli.loss_laws import (
    LOSS_DRAWS,
    MODES,
    add_loss,
    fit_loss_only,
    laws_asked,
    loss_follows,
    read_loss_table,
)
from scaleband.cli.pictures import check_picture, draw_contrasts
from scaleband.cli.places import check_output
from scaleband.cli.printing import say
from scaleband.cli.progress import progress
from scaleband.cli.question import form_words, mark
from scaleband.cli.verb import Exit, UsageError, Verb
from scaleband.errors import UserError
from scaleband.inference.released import prior_path
from scaleband.inference.store import read_draws, write_netcdf
from scaleband.labels import counted
from scaleband.laws import FORMS, STACK, STACKED, LawDraws
from scaleband.laws.loss import LAWS

if TYPE_CHECKING:
    from scaleband.bayes import Beliefs
    from scaleband.inference.fitting import Fit
    from scaleband.runs import RunTable

_DRAWS = 1200

_FORM = "quadratic"

FEW_RUNS = 200
"""Below this, a fit whose gate failed is told of `--prior`."""


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_tables(parser)
    parser.add_argument("--out", type=path, required=True, metavar="FIT.nc", help="the file to write")
    parser.add_argument(
        "--prior", metavar="MODEL", help="start from a released model (a name) or a fit (a file)"
    )
    parser.add_argument("--trust", type=trust, metavar="0..1", help="how far to trust it; 1 by default")
    parser.add_argument("--form", choices=[*FORMS, STACK],
                        help="form of the law; quadratic, or the prior's. stack: several are sampled, and weighed by "
                             "how well they foretell cells left out")  # fmt: skip
    parser.add_argument("--forms", metavar="FORM,...", help="which forms --form stack weighs; " + ", ".join(STACKED))
    parser.add_argument("--draws", type=whole(20, 100_000), metavar="N",
                        help=f"per chain; {_DRAWS} ({LOSS_DRAWS} for loss laws), once more with as many as the gate "
                             "asks for")  # fmt: skip
    parser.add_argument("--tune", type=whole(20, 100_000), default=300, metavar="N", help="per chain; 300")
    parser.add_argument("--chains", type=whole(1, 64), default=2, metavar="N", help="2")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=1, metavar="N", help="1")
    parser.add_argument("--loss", choices=MODES, default="auto",
                        help="loss laws: only (no basins), also (on the basins' cells), none; auto: only for a table "
                             "without rates, also where a sweep has cells enough")  # fmt: skip
    parser.add_argument("--laws", metavar="LAW,...", help=f"which loss laws: {', '.join(LAWS)}; the general ones")
    parser.add_argument("--plot", type=path, metavar="FILE",
                        help="the runs, and what prior and posterior expect of them: .png, .svg or .pdf")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(asked: argparse.Namespace) -> int:
    """Read, sample, judge, save."""
    if asked.trust is not None and asked.prior is None:
        raise UsageError(
            "--trust says how far to trust --prior; give --prior MODEL too, or leave --trust out"
        )
    laws_asked(asked)  # before the work
    forms = forms_asked(asked)
    prior_file = None if asked.prior is None else prior_path(asked.prior)
    given = [*asked.runs, asked.map, prior_file]
    check_output(asked.out, "--out", inputs=[p for p in given if p is not None])
    if asked.plot is not None:
        check_picture(asked.plot, inputs=[p for p in given if p is not None])
        if asked.plot.resolve() == asked.out.resolve():
            raise UsageError("--plot and --out name the same file; give the picture another name")
    prior = None if prior_file is None else read_draws(prior_file)
    if prior is not None and asked.trust != 0 and asked.form not in (None, prior.meta.get("form")):
        raise UsageError(
            f"--prior {asked.prior} is of form {prior.meta.get('form')}, and that is what is fitted, not --form "
            f"{asked.form}; leave --form out, or --prior"
        )
    alone = read_loss_table(asked)
    if alone is not None:
        if asked.plot is not None:
            raise UserError("--plot shows the runs of a sweep, and this table is for loss laws alone; leave it out")
        return fit_loss_only(asked, alone)
    table = read_tables(asked)
    tell_warnings(table)
    with_loss = loss_follows(asked, table)
    beliefs = None if prior is None else beliefs_of(prior, table, asked)

    from scaleband.inference.fitting import fit, tree_of
    from scaleband.inference.forms import check_stackable, stack_forms
    from scaleband.inference.gate import more_draws
    from scaleband.inference.sampler import SamplerSettings

    if len(forms) > 1:
        check_stackable(table.frame)
    believed = None if asked.plot is None else believed_before(table, asked, beliefs, forms[0])
    settings = SamplerSettings(draws=asked.draws or _DRAWS, tune=asked.tune, chains=asked.chains, seed=asked.seed)
    with interrupts() as insist, progress(asked.quiet) as report:

        def each_step(stage: str, done: int, total: int) -> None:
            insist()
            report(stage, done, total)

        def fit_with(form: str, settings: SamplerSettings, reuse: Fit | None) -> Fit:
            def of_form(stage: str, done: int, total: int) -> None:
                each_step(stage if len(forms) == 1 else f"{form}, {stage}", done, total)

            return fit(table.frame, form=form, settings=settings, beliefs=beliefs, progress=of_form, reuse=reuse)

        fits: dict[str, Fit] = {}
        for form in forms:
            fitted = fit_with(form, settings, reuse=next(iter(fits.values()), None))
            insist()
            more = more_draws(fitted.gate, fitted.settings.draws) if asked.draws is None else None
            if more is not None:
                # As many draws of NUTS as these would be made from, each kept once.
                more = -(-more // fitted.settings.copies)
                what = fitted.gate.messages[0].split("; try")[0]
                say(f"note: {what}; sampling again, {more:,} draws of NUTS a chain")
                fitted = fit_with(form, replace(settings, draws=more, copies=1), reuse=fitted)
            fits[form] = fitted
        if asked.form == STACK:
            fitted = stack_forms(fits, progress=each_step)
    write_fit(tree_of(fitted), asked.out)
    code = tell_outcome(fitted, asked)
    if prior is not None:
        from scaleband.inference.prior import prior_data_conflict

        for sentence in prior_data_conflict(fitted):
            say(f"warning: {sentence}")
        # A prior whose own draws may not be reported taints what starts from it.
        code = max(code, mark(prior, "the diagnostic gate of the prior"))
    # Late: whatever becomes of the loss laws and of the picture, the fit has been written and judged.
    code = max(code, add_loss(asked, fitted, table)) if with_loss else code
    if believed is not None:
        named = {f"prior ({believed.meta['prior']})": believed, "posterior": fitted.draws()}
        draw_contrasts(asked.plot, table.frame, named)
    return code


def forms_asked(asked: argparse.Namespace) -> list[str]:
    """Names after --form, or those that --form stack weighs.

    Raises
    ------
    UsageError
        --forms without --form stack, or beside a prior; a name that is no form, or none at all.
    """
    if asked.form != STACK:
        if asked.forms is not None:
            raise UsageError("--forms says which forms --form stack weighs; add --form stack, or leave --forms out")
        return [asked.form or _FORM]
    if asked.prior is not None:
        raise UsageError("--form stack weighs forms, and --prior MODEL brings its own; leave one of them out")
    return list(dict.fromkeys(names_among("--forms", asked.forms or ",".join(STACKED), FORMS, "form")))


def beliefs_of(prior: LawDraws, table: RunTable, asked: argparse.Namespace) -> Callable[[Any], Beliefs]:
    """From a design to a prior that starts at the model.

    Raises
    ------
    UserError
        Runs of the table are among those that the model was fitted to.
    """
    from scaleband.inference.prior import beliefs_from, overlapping_runs
    from scaleband.runs.defaults import is_filled

    names = [str(v) for v in table.frame["run_id"] if not is_filled(str(v))]
    if len(names) < len(table.frame):
        say(
            f"note: some runs have no run_id, so whether {asked.prior} was fitted to them already cannot be seen"
        )
    twice = overlapping_runs(prior, names)
    if twice:
        raise UserError(
            f"{len(twice):,} runs of the table (run_id {twice[0]}, ...) are among those that {asked.prior} was fitted "
            "to and would count twice; leave them out, or fit without --prior"
        )
    share = 1.0 if asked.trust is None else asked.trust
    return lambda design: beliefs_from(prior, design, FORMS[asked.form or _FORM], share)


def believed_before(
    table: RunTable, asked: argparse.Namespace, beliefs: Callable[[Any], Beliefs] | None, form: str
) -> LawDraws:
    """The prior as draws; of several forms that of the first.

    Raises
    ------
    UserError
        The table has no runs that a picture could compare; said before the work.
    """
    from scaleband.inference.prior import prior_of
    from scaleband.predict import contrasts

    believed = prior_of(table.frame, form=form, beliefs=beliefs, seed=asked.seed)
    contrasts(believed.take(slice(1)), table.frame)
    return believed


def write_fit(tree: Any, out: Path) -> None:
    """Save, whole or not at all."""
    try:
        write_netcdf(tree, out)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(
            f"{out}: cannot be written ({why}); free some space, or choose another --out"
        ) from None


def tell_outcome(fitted: Fit, asked: argparse.Namespace) -> int:
    """What was fitted and how far it can be trusted, on stderr."""
    meta: Any = fitted.meta
    seconds = sum(meta["seconds"].values())
    what = f"{counted(meta['n_runs'], 'run')} in {counted(meta['n_cells'], 'cell')}, form {form_words(meta)}"
    say(f"wrote {asked.out}: {what}, {seconds:.0f} s")
    if meta.get("scores"):
        best = max(meta["scores"].values())
        say(f"scores of {meta['n_scored']} cells left out, log density under the best: "
            + ", ".join(f"{form} {best - score:.1f}" for form, score in meta["scores"].items()))  # fmt: skip
        rough = {form: n for form, n in meta["rough_scores"].items() if n}
        if rough:
            say("note: rough scores (a cell's own runs decide the draws that are to foretell it): "
                + ", ".join(f"{form} in {n} cells" for form, n in rough.items()))  # fmt: skip
    if fitted.gate.passed:
        return Exit.DONE
    for message in fitted.gate.messages:
        say(f"warning: the diagnostic gate failed: {message}")
    if asked.prior is None and meta["n_runs"] < FEW_RUNS:
        say("note: few runs tell little of a basin's shape, and vague priors leave the sampler much room; with --prior "
            "step-law --trust 0.5 such tables are sampled well")  # fmt: skip
    return Exit.GATE_FAILED


VERB = Verb("fit", "Fit the model to a run table and save the draws.", add, run)
