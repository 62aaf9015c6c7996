"""What a verb of the command line is, and what its exit code means."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, a contract with scripts."""

    DONE = 0
    BAD_INPUT = 1
    BAD_USAGE = 2
    GATE_FAILED = 3
    INTERRUPTED = 130


@dataclass(frozen=True)
class Verb:
    """One row of the table of verbs.

    Attributes
    ----------
    name, summary
        What is typed, and one line of help.
    add
        Adds the verb's flags to its parser.
    run
        Does it; gets the parsed flags, returns an `Exit`.
    """

    name: str
    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """Flags that are fine one by one and make no sense together: one sentence, exit 2."""
