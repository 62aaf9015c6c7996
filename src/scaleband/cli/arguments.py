"""Flags that verbs share, and how their words become numbers."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path

from scaleband.cli.verb import UsageError
from scaleband.cli.words import REGRET_UNIT
from scaleband.nearest import did_you_mean

_COUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,3}))?\s*([kKmMbBtT]?)")
_POWERS = {"": 0, "k": 3, "m": 6, "b": 9, "t": 12}

_LIKE = "write it like 1e9, 1_000_000, 350M, 20B or 0.5T"


def count(text: str) -> float:
    """A count, > 0: 1e9, 1_000_000, 350M, 20B, 0.5T (powers of ten, not of two)."""
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; {_LIKE}")
    digits, exponent, mark = match.groups()
    value = float(f"{digits.replace('_', '')}e{int(exponent or 0) + _POWERS[mark.lower()]}")
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be positive and finite; {_LIKE}")
    return value


def names_among(flag: str, text: str, known: Collection[str], kind: str) -> list[str]:
    """Names after a flag, with commas between them.

    Raises
    ------
    UsageError
        One that is not known as of that kind ("loss law"), or none at all.
    """
    names = [w.strip() for w in text.split(",") if w.strip()]
    wrong = [w for w in names if w not in known]
    if wrong or not names:
        said = f"{flag}: there is no {kind} {wrong[0]!r}" if wrong else f"{flag} names no {kind.split()[-1]}"
        raise UsageError(f"{said}; choose of {', '.join(known)}{did_you_mean(wrong[0], known) if wrong else ''}")
    return names


def between(low: float, high: float, what: str, hint: str) -> Callable[[str], float]:
    """A count inside sane bounds: outside them it is a slip of units, and exponents would run away."""

    def parse(text: str) -> float:
        value = count(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} is {value:g} {what}, outside {low:g} to {high:g}; {hint}"
            )
        return value

    return parse


n_params = between(1e4, 1e15, "parameters", "write 7B for seven billion")
n_tokens = between(1e5, 1e18, "tokens", "write 20B for twenty billion")
batch = between(1, 1e12, "tokens per step", "write 0.5M for half a million")


def learning_rate(text: str) -> float:
    """A peak learning rate, a plain number such as 3e-4."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-12 <= value <= 1e3:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a learning rate; write a positive number such as 3e-4"
        )
    return value


def share(text: str) -> float:
    """A number strictly between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1; write 0.9 for 90 %")
    return value


def trust(text: str) -> float:
    """A number from 0 to 1, ends included."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0 (ignore the model) to 1 (take it as it is)")
    return value


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low:,} to {high:,}")
        return int(text)

    return parse


GRID_LIMIT = 40


def grid(entry: Callable[[str], float]) -> Callable[[str], list[float]]:
    """Comma-separated numbers: 5e-4,1e-3,2e-3."""

    def parse(text: str) -> list[float]:
        words = [word for word in text.split(",") if word.strip()]
        if not words or len(words) > GRID_LIMIT:
            raise argparse.ArgumentTypeError(
                f"{text!r} has {len(words)} entries; write 1 to {GRID_LIMIT} numbers with commas between them"
            )
        return sorted({entry(word) for word in words})

    return parse


def group_part(text: str) -> str:
    """The name of a source, an architecture or a data distribution."""
    name = text.strip()
    if not name or "/" in name or not name.isprintable():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name; write one part of a group (source, arch or data), without '/'"
        )
    return name


def path(text: str) -> Path:
    """A path that the system can be asked about."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("an empty path; name a file")
    return Path(text)


def take_negatives(parser: argparse.ArgumentParser) -> None:
    """Let -1e9 and -7B reach their flag, which says what it wants; argparse takes them for flags before Python 3.14."""
    parser._negative_number_matcher = re.compile(r"-\.?\d")


def add_fit(parser: argparse.ArgumentParser) -> None:
    """--fit or --model."""
    take_negatives(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--fit", type=path, metavar="FIT.nc", help="a fit of your own runs")
    which.add_argument("--model", metavar="NAME", help="a released model; `scaleband models list` names them")


def add_target(parser: argparse.ArgumentParser) -> None:
    """The cell that is asked about."""
    take_negatives(parser)
    parser.add_argument("--params", type=n_params, required=True, metavar="N",
                        help="non-embedding parameters; for MoE the total")  # fmt: skip
    parser.add_argument("--tokens", type=n_tokens, required=True, metavar="D", help="training tokens")
    parser.add_argument(
        "--source", type=group_part, metavar="S", help="whose recipe; left out: one never seen"
    )
    parser.add_argument(
        "--arch", type=group_part, metavar="A", help="dense (the default), moe, moe-1in8, ..."
    )
    parser.add_argument(
        "--data", type=group_part, metavar="G", help="data distribution; left out: one never seen"
    )
    parser.add_argument(
        "--active-params", type=n_params, metavar="NA", help="parameters used per token (MoE)"
    )


def add_interval(parser: argparse.ArgumentParser) -> None:
    """--interval."""
    parser.add_argument("--interval", type=share, default=0.9, metavar="MASS",
                        help="probability inside the intervals (equal tails); 0.9 by default")  # fmt: skip


def add_json(parser: argparse.ArgumentParser, *, regrets: bool = False) -> None:
    """--json; `regrets` says in the help which unit they have there."""
    unit = f"; regrets there are {REGRET_UNIT}" if regrets else ""
    parser.add_argument("--json", action="store_true", help=f"JSON on stdout{unit}")


def add_tables(parser: argparse.ArgumentParser) -> None:
    """RUNS and how to read them."""
    parser.add_argument(
        "runs", nargs="+", type=path, metavar="RUNS", help="CSV or Parquet; several are one table"
    )
    parser.add_argument(
        "--map", type=path, metavar="COLUMNS.toml", help="names, constants and units of columns"
    )
    parser.add_argument("--batch-in-sequences", action="store_true",
                        help="the batch column counts sequences: multiply it by seq_len")  # fmt: skip
