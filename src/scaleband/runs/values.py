"""Fields become float64 numbers or clean text, column by column; what cannot is reported with its row."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from scaleband.runs.columns import BY_NAME, COLUMNS, CONVENTIONS
from scaleband.runs.problems import Places, Problem, listed, shown_value

#: Plain numbers only: no thousands separators, no hexadecimal, no underscores.
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?(?i:inf|infinity|nan)$"
#: How tables write "no value"; all of it is missing, never zero.
MISSING = ("", "na", "n/a", "nan", "null", "none", "<na>", "nat", "-")
#: Where "none" says something: no decay, no warmup. Elsewhere it would make one trunk, or one team, of all such rows.
NONE_IS_SAID = ("schedule", "warmup", "weight_decay", "tokenizer")


def as_numbers(series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of one column, NaN where the field is missing.

    Returns
    -------
    values
        (row,) float64.
    bad
        (row,) bool, the fields that hold something else than a number; NaN in ``values``.
    """
    import pyarrow as pa
    import pyarrow.compute as compute

    kind = series.dtype
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_complex_dtype(kind):
        return np.full(len(series), np.nan), series.notna().to_numpy()
    if pd.api.types.is_numeric_dtype(kind):
        return series.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(series), dtype=bool)
    if is_object(kind):
        series = pd.Series([written(value) for value in series], dtype=object)
    elif not pd.api.types.is_string_dtype(kind):
        series = series.astype(str)
    text = compute.utf8_trim_whitespace(
        pa.array(series.to_numpy() if is_object(kind) else series, type=pa.string(), from_pandas=True)
    )
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    missing = compute.or_kleene(
        compute.is_null(text), compute.is_in(compute.utf8_lower(text), value_set=pa.array(MISSING))
    )
    numeric = compute.fill_null(compute.match_substring_regex(text, NUMBER), False)
    bad = compute.and_not(compute.invert(numeric), compute.fill_null(missing, True))
    keep = compute.and_not(numeric, compute.fill_null(missing, True))
    values = compute.cast(compute.if_else(keep, text, pa.scalar(None, pa.string())), pa.float64())
    return values.to_numpy(zero_copy_only=False).astype(np.float64), bad.to_numpy(zero_copy_only=False)


def written(value: object) -> str | None:
    """One Python object as the text a table would hold; None if missing."""
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int) and not -(10**300) < value < 10**300:
        return "inf"  # beyond float64, and beyond the digits Python agrees to print
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return str(value)


def as_text(series: pd.Series, name: str) -> tuple[pd.Series, np.ndarray]:
    """Text of one column, stripped, "" where missing.

    Returns
    -------
    text
        (row,) str.
    bad
        (row,) bool: fields with control characters, or that are neither text nor a number.
    """
    kind = series.dtype
    bad = np.zeros(len(series), dtype=bool)
    if is_object(kind):
        held = series.map(lambda v: isinstance(v, str | int | float | np.number) or written(v) is None)
        bad = ~held.to_numpy(dtype=bool)
        text = series.map(label)
    elif pd.api.types.is_float_dtype(kind) or pd.api.types.is_integer_dtype(kind):
        text = series.astype(object).map(label)
    else:
        text = (
            series.astype(object).where(series.notna(), "")
            if not is_plain_text(series)
            else series.fillna("")
        )
        text = text.astype(str)
    text = text.astype(str).str.strip()
    # a surrogate cannot be written back to any file, so it counts as a control character
    bad = bad | text.str.contains(r"[\x00-\x1f\x7f]").to_numpy(dtype=bool)
    missing = [m for m in MISSING if m != "none" or name not in NONE_IS_SAID]
    text = text.where(~text.str.lower().isin(missing), "")
    if name in CONVENTIONS:
        text = text.map({value: tidy_number(value) for value in text.unique()}).astype(str)
    return text, bad


def is_object(kind: Any) -> bool:
    """Whether a column holds arbitrary Python objects."""
    return pd.api.types.is_object_dtype(kind)


def is_plain_text(series: pd.Series) -> bool:
    """Whether a column is of a string dtype already."""
    return bool(pd.api.types.is_string_dtype(series.dtype)) and not is_object(series.dtype)


def label(value: object) -> str:
    """One object as text: 3.0 is "3", so that a column of ids survives a missing value."""
    if isinstance(value, float | np.floating) and not np.isnan(value):
        return f"{float(value):.15g}"
    text = written(value)
    return "" if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def tidy_number(text: str) -> str:
    """A convention that is a number in one spelling: "0.10" and "1e-1" are one value."""
    return f"{float(text):.12g}" if re.match(NUMBER, text) else text


def normalised(
    raw: pd.DataFrame, file: str, scale: dict[str, float]
) -> tuple[pd.DataFrame, list[Problem], dict[str, np.ndarray]]:
    """Turn one raw frame into the known columns (those it has) and its extra ones.

    Parameters
    ----------
    raw
        Text and number columns under run-table names.
    file
        Display name.
    scale
        Run-table name -> factor.

    Returns
    -------
    frame
        Known columns as float64 or str, extras after them; index 0, 1, ...
    problems
        Fields that are not what their column holds.
    unreadable
        Column -> (row,) bool, so that later checks do not call those fields missing.
    """
    places = Places((file,), np.zeros(len(raw), dtype=int), np.arange(1, len(raw) + 1))
    problems: list[Problem] = []
    unreadable: dict[str, np.ndarray] = {}
    columns: dict[str, object] = {}
    for column in COLUMNS:
        if column.name not in raw.columns:
            continue
        series = raw[column.name]
        if column.dtype == "number":
            values, bad = as_numbers(series)
            columns[column.name] = values * scale.get(column.name, 1.0)
            word = "a number"
        else:
            text, bad = as_text(series, column.name)
            columns[column.name] = text.reset_index(drop=True)
            word = "text on one line without control characters"
        if bad.any():
            unreadable[column.name] = bad
        for position, more in listed(np.flatnonzero(bad), places):
            value = shown_value(series.iloc[position])
            problems.append(
                Problem(
                    "error",
                    file,
                    position + 1,
                    column.name,
                    value,
                    f"{column.name} = {value!r} is not {word}",
                    remedy_for(value, column.dtype),
                    more,
                )
            )
    for name in raw.columns:
        if name not in BY_NAME:
            columns[name] = extra(raw[name].reset_index(drop=True))
    return pd.DataFrame(columns, index=pd.RangeIndex(len(raw))), problems, unreadable


def extra(series: pd.Series) -> pd.Series:
    """An unknown column: numbers if every field is one, else as it came."""
    if not is_plain_text(series):
        return series
    values, bad = as_numbers(series)
    return series if bad.any() or np.isnan(values).all() else pd.Series(values, index=series.index)


def remedy_for(value: str, dtype: str) -> str:
    """What to write instead of a field that is no number."""
    if dtype == "text":
        return "write plain text"
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", value):
        return f"write it without thousands separators: {value.replace(',', '')}"
    if re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", value):
        return f"write a decimal point: {value.replace(',', '.')}"
    suffixed = re.fullmatch(r"([\d.]+)\s*([kKmMbBgGtT])", value)
    if suffixed:
        power = {"k": 3, "m": 6, "b": 9, "g": 9, "t": 12}[suffixed[2].lower()]
        return f"write the number out: {suffixed[1]}e{power}"
    return "write a plain number such as 0.001 or 2.1e9, or leave an optional field empty"
