"""The program: the table of verbs, and what happens to errors, interrupts and closed pipes."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from scaleband import __version__
from scaleband.cli import (
    allocate,
    campaign,
    check,
    compare,
    data,
    fit,
    models,
    predict,
    propose,
    recommend,
    regret,
)
from scaleband.cli.printing import say, settle_streams
from scaleband.cli.verb import Exit, UsageError, Verb
from scaleband.errors import UserError

VERBS: tuple[Verb, ...] = (
    check.VERB,
    fit.VERB,
    recommend.VERB,
    regret.VERB,
    predict.VERB,
    allocate.VERB,
    compare.VERB,
    propose.VERB,
    campaign.VERB,
    models.VERB,
    data.VERB,
)

DEBUG_VARIABLE = "SCALEBAND_DEBUG"

NUMBERS = (
    "Counts may be written 1e9, 1_000_000, 350M, 20B or 0.5T (k, M, B, T: powers of ten). Answers go to stdout, "
    "all else to stderr. Exit codes: 0 done, 1 bad input, 2 bad usage, 3 done but the diagnostic gate failed."
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line as one parser."""
    parser = argparse.ArgumentParser(
        prog="scaleband",
        description="Learning rate, batch size and compute for LLM pretraining, with honest bands.",
        epilog=NUMBERS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"scaleband {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        sub = verbs.add_parser(
            verb.name, help=verb.summary, description=verb.summary, epilog=NUMBERS, allow_abbrev=False
        )
        verb.add(sub)
        sub.set_defaults(run=verb.run, parser=sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Words after the program's name; those of the process by default.

    Returns
    -------
    Exit code: see `scaleband.cli.verb.Exit`.
    """
    settle_streams()
    try:
        asked = build_parser().parse_args(argv)
        code = _guarded(asked)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: --help, --version, bad usage
        return int(stop.code or 0)
    except OSError as error:
        # Python would complain again when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return Exit.DONE  # whoever read the output has enough
        say(f"error: the answer cannot be written ({error.strerror}); free some space, or send it elsewhere")
        return Exit.BAD_INPUT


def _guarded(asked: argparse.Namespace) -> int:
    """Run a verb; every way to fail becomes a sentence and an exit code."""
    try:
        return int(asked.run(asked))
    except UsageError as error:
        asked.parser.error(str(error))  # leaves with exit code 2
        return Exit.BAD_USAGE
    except UserError as error:
        for problem in error.problems:
            say(f"error: {problem}")
        return Exit.BAD_INPUT
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        return Exit.INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC):
            raise
        if os.environ.get(DEBUG_VARIABLE):
            raise
        say(
            f"error: scaleband met something it did not expect ({type(error).__name__}: {error}); this is a defect, "
            f"please report it with the command. {DEBUG_VARIABLE}=1 shows where it happened"
        )
        return Exit.BAD_INPUT
