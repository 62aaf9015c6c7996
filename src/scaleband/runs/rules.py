"""What cannot be true of a run (errors) and what probably is not (warnings), one rule a line of thought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scaleband import slips
from scaleband.runs.columns import COLUMNS, GROUP, STATUSES, required_columns
from scaleband.runs.problems import Places, Severity, shown_value


@dataclass(frozen=True)
class Rule:
    """One check of every row at once.

    Parameters
    ----------
    name
        Unique; names the check of the schema.
    column
        The column it is about.
    severity
        "error" or "warning".
    bad
        frame -> (row,) bool, True where the rule is broken. NaN compares false: missing values break nothing
        but the rules about missing values.
    says
        (frame, position) -> what is wrong there.
    remedy
        What to do.
    """

    name: str
    column: str
    severity: Severity
    bad: Callable[[pd.DataFrame], np.ndarray]
    says: Callable[[pd.DataFrame, int], str]
    remedy: str


def field(frame: pd.DataFrame, column: str, position: int) -> str:
    """``batch_tokens = 256``, for a message."""
    value = frame[column].iloc[position]
    return f"{column} = {shown_value(float(value) if not isinstance(value, str) else repr(value))}"


def number_rules(purpose: str) -> list[Rule]:
    """Sign, finiteness and presence of every number."""
    rules: list[Rule] = []
    required = required_columns(purpose)
    for column in COLUMNS:
        if column.dtype != "number":
            continue
        name, positive = column.name, column.sign == "positive"

        def infinite(frame: pd.DataFrame, name: str = name) -> np.ndarray:
            bad = np.isinf(frame[name].to_numpy())
            # a diverged run has no final loss, and many trainers write inf for it
            return bad & completed(frame) if name == "loss" else bad

        def low(frame: pd.DataFrame, name: str = name, positive: bool = positive) -> np.ndarray:
            values = frame[name].to_numpy()
            return ((values <= 0) if positive else (values < 0)) & np.isfinite(values)

        def absent(frame: pd.DataFrame, name: str = name) -> np.ndarray:
            bad = np.isnan(frame[name].to_numpy())
            return bad & completed(frame) if name == "loss" else bad

        def says_infinite(frame: pd.DataFrame, i: int, name: str = name) -> str:
            return f"{field(frame, name, i)} is not finite"

        def says_low(frame: pd.DataFrame, i: int, name: str = name, positive: bool = positive) -> str:
            return f"{field(frame, name, i)} is {'not positive' if positive else 'negative'}"

        def says_absent(frame: pd.DataFrame, i: int, name: str = name) -> str:
            return f"{name} is missing (empty or NaN)"

        hint = f"{name} is {column.meaning}" + (f", in {column.unit}" if column.unit != "-" else "")
        rules.append(
            Rule(
                f"{name} is finite",
                name,
                "error",
                infinite,
                says_infinite,
                f"correct it or remove the row: {hint}",
            )
        )
        rules.append(
            Rule(
                f"{name} has its sign", name, "error", low, says_low, f"correct it or remove the row: {hint}"
            )
        )
        if name in required:
            remedy = "give the value, or remove the row"
            if name == "loss":
                remedy = "give the loss, or set status to diverged, failed or running"
            rules.append(Rule(f"{name} is there", name, "error", absent, says_absent, remedy))
    return rules


def exceeds(left: str, right: str) -> Callable[[pd.DataFrame], np.ndarray]:
    """Rows where ``left > right``, with room for the rounding of float64.

    Numbers that are impossible by themselves are left to their own rule.
    """

    def bad(frame: pd.DataFrame) -> np.ndarray:
        big, small = frame[left].to_numpy(), frame[right].to_numpy()
        return (big > small * (1 + 1e-9)) & np.isfinite(big) & (small > 0)

    return bad


def says_pair(left: str, word: str, right: str) -> Callable[[pd.DataFrame, int], str]:
    """``batch_tokens = 256 is smaller than seq_len = 2048``."""
    return lambda frame, i: f"{field(frame, left, i)} is {word} than {field(frame, right, i)}"


def pair_rules() -> list[Rule]:
    """Two columns that cannot both be right."""
    return [
        Rule(
            "n_active <= n_params",
            "n_active",
            "error",
            exceeds("n_active", "n_params"),
            says_pair("n_active", "larger", "n_params"),
            "n_params is the total, n_active what one token uses; swap them?",
        ),
        Rule(
            "batch_tokens >= seq_len",
            "batch_tokens",
            "error",
            exceeds("seq_len", "batch_tokens"),
            says_pair("batch_tokens", "smaller", "seq_len"),
            "multiply by seq_len if it counts sequences (--batch-in-sequences)",
        ),
        Rule(
            "batch_tokens <= n_tokens",
            "batch_tokens",
            "error",
            exceeds("batch_tokens", "n_tokens"),
            says_pair("batch_tokens", "larger", "n_tokens"),
            "n_tokens counts tokens, not billions; batch_tokens is per optimizer step",
        ),
    ]


def text_rules() -> list[Rule]:
    """Names and states."""
    rules = [
        Rule(
            "status is known",
            "status",
            "error",
            lambda f: ~f["status"].isin(STATUSES).to_numpy(dtype=bool),
            lambda f, i: f"{field(f, 'status', i)} is not known",
            "write one of " + ", ".join(STATUSES),
        ),
        Rule(
            "seed is whole",
            "seed",
            "error",
            lambda f: (f["seed"] % 1 != 0).to_numpy() & np.isfinite(f["seed"].to_numpy()),
            lambda f, i: f"{field(f, 'seed', i)} is not a whole number",
            "write an integer, or leave it empty",
        ),
    ]
    return rules + [slash_rule(name) for name in GROUP]


def slash_rule(name: str) -> Rule:
    """A part of a group's name may not hold what separates the parts."""
    return Rule(
        f"{name} has no slash",
        name,
        "error",
        lambda f: f[name].str.contains("/", regex=False).to_numpy(dtype=bool),
        lambda f, i: f"{field(f, name, i)} contains '/'",
        "use another character: a group is written source/arch/data",
    )


def unique_rule(places: Places) -> Rule:
    """Two rows with one ``run_id``; the message names both places."""

    def says(frame: pd.DataFrame, i: int) -> str:
        first = int(np.flatnonzero((frame["run_id"] == frame["run_id"].iloc[i]).to_numpy())[0])
        return f"{field(frame, 'run_id', i)} is already used in {places.of(first)}"

    return Rule(
        "run_id is unique",
        "run_id",
        "error",
        lambda f: f["run_id"].duplicated().to_numpy(),
        says,
        "give every run its own id, or remove the copy",
    )


def completed(frame: pd.DataFrame) -> np.ndarray:
    """(row,) bool: the run ran to its end."""
    return (frame["status"] == "completed").to_numpy(dtype=bool)


def doubts() -> list[Rule]:
    """Probable unit slips, which a table alone cannot prove."""

    def check(name: str, column: str, bad: Callable[[pd.DataFrame], object], why: str, remedy: str) -> Rule:
        return Rule(
            name,
            column,
            "warning",
            lambda f: np.asarray(bad(f), dtype=bool),
            lambda f, i: f"{field(f, column, i)} {why}",
            remedy,
        )

    def billions(name: str) -> Rule:
        remedy = f"write tokens, or scale the column in a map: [scale] {name} = 1e9"
        why = "looks like billions or millions of tokens"
        return check(f"{name} looks like billions", name, lambda f: f[name] < 1e5, why, remedy)

    return [
        check(
            "batch looks like sequences",
            "batch_tokens",
            lambda f: (f["batch_tokens"] <= slips.MOST_SEQUENCES) & f["seq_len"].isna(),
            f"{slips.SEQUENCES}, and there is no seq_len to check it",
            "give seq_len, and use --batch-in-sequences if it counts sequences",
        ),
        *(billions(name) for name in ("n_tokens", "unique_tokens")),
        check(
            "parameters look like billions",
            "n_params",
            lambda f: f["n_params"] < 1e4,
            "looks like billions or millions of parameters",
            "write parameters, or scale the column in a map: [scale] n_params = 1e9",
        ),
        check(
            "rate above 1",
            "lr_peak",
            lambda f: f["lr_peak"] > slips.HIGHEST_RATE,
            slips.TOO_HIGH,
            slips.TOO_HIGH_REMEDY,
        ),
        check(
            "loss range",
            "loss",
            lambda f: ~f["loss"].between(*slips.LOSS_RANGE) & f["loss"].notna() & completed(f),
            slips.NO_LOSS,
            slips.NO_LOSS_REMEDY,
        ),
    ]
