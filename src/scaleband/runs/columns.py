"""The columns of a run table: one list that the schema, the defaults, the messages and the docs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

STATUSES = ("completed", "diverged", "failed", "running")

#: Two rates (or two batches) closer than this are one value of a grid: 0.00195 and 0.001953 are.
GRID_TOLERANCE = 0.01


@dataclass(frozen=True)
class Column:
    """One known column.

    Parameters
    ----------
    name
        Its name in the run table.
    unit
        Unit, or "-".
    dtype
        "number" (float64, NaN is missing) or "text" (str, "" is not stated).
    required
        True if a table that asks for an optimum must have it.
    default
        What an absent column or an empty field means, in words; the code of it is in ``defaults.py``.
    meaning
        One line.
    sign
        What a number may be: "positive" or "nonnegative".
    """

    name: str
    unit: str
    dtype: Literal["number", "text"]
    required: bool
    default: str
    meaning: str
    sign: Literal["positive", "nonnegative"] = "positive"


COLUMNS: tuple[Column, ...] = (
    Column("run_id", "-", "text", False, "row-000001, row-000002, ...", "names the run; unique"),
    Column("source", "-", "text", False, "own", "whose recipe: a team, a paper, a code base"),
    Column("arch", "-", "text", False, "dense", "architecture; the family is the text before the first '-'"),
    Column("data", "-", "text", False, "unknown", "data distribution"),
    Column("n_params", "parameters", "number", True, "", "non-embedding parameters; for MoE the total"),
    Column("n_active", "parameters", "number", False, "n_params", "non-embedding parameters used per token"),
    Column("n_tokens", "tokens", "number", True, "", "training tokens"),
    Column("unique_tokens", "tokens", "number", False, "missing: no data is repeated", "different tokens in the data"),
    Column("seq_len", "tokens", "number", False, "missing", "tokens per sequence"),
    Column("lr_peak", "-", "number", True, "", "peak learning rate"),
    Column("batch_tokens", "tokens", "number", True, "", "tokens per optimizer step, never sequences"),
    Column("loss", "nats per token", "number", True, "", "final loss; optional unless the run completed"),
    Column("loss_se", "nats per token", "number", False, "0", "standard error of the loss", "nonnegative"),
    Column("status", "-", "text", False, "completed", "one of " + ", ".join(STATUSES)),
    Column("seed", "-", "number", False, "missing", "random seed, a whole number", "nonnegative"),
    Column("trunk", "-", "text", False, "not stated", "runs that branch off one trunk share their error"),
    Column("flops", "FLOP", "number", False, "6 * n_active * n_tokens", "training compute"),
    Column("gpu_hours", "hours", "number", False, "missing", "what the run cost", "nonnegative"),
    Column("schedule", "-", "text", False, "not stated", "learning-rate schedule"),
    Column("lr_final", "-", "text", False, "not stated", "final learning rate, or its share of the peak"),
    Column("warmup", "-", "text", False, "not stated", "warmup length, as the team states it"),
    Column("optimizer", "-", "text", False, "not stated", "optimizer and its constants"),
    Column("weight_decay", "-", "text", False, "not stated", "weight decay"),
    Column("tokenizer", "-", "text", False, "not stated", "tokenizer"),
    Column("loss_kind", "-", "text", False, "not stated", "training or validation, on what, in which unit"),
    Column("n_params_kind", "-", "text", False, "not stated", "what n_params counts"),
)

BY_NAME: dict[str, Column] = {column.name: column for column in COLUMNS}
NUMBERS: tuple[str, ...] = tuple(c.name for c in COLUMNS if c.dtype == "number")
TEXTS: tuple[str, ...] = tuple(c.name for c in COLUMNS if c.dtype == "text")
GROUP: tuple[str, ...] = ("source", "arch", "data")

#: What a recipe leaves implicit. Printed beside every recommendation and kept with every fit.
CONVENTIONS: tuple[str, ...] = (
    "schedule", "lr_final", "warmup", "optimizer", "weight_decay", "tokenizer", "loss_kind", "n_params_kind",
)  # fmt: skip
#: Two of these inside one group make its rates, batches or losses incomparable: an error.
#: lr_final and warmup often follow the rate or the length of the run, so they may vary;
#: weight decay moves the optimal rate but a table that sweeps it is still a table: a warning.
MUST_AGREE: tuple[str, ...] = ("loss_kind", "n_params_kind", "schedule", "tokenizer", "optimizer")
SHOULD_AGREE: tuple[str, ...] = ("weight_decay",)


def required_columns(purpose: str) -> tuple[str, ...]:
    """Names of the columns that ``purpose`` ("optimum" or "loss") cannot do without."""
    names = tuple(c.name for c in COLUMNS if c.required)
    return names if purpose == "optimum" else tuple(n for n in names if n not in ("lr_peak", "batch_tokens"))
