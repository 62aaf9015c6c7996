# ruff: noqa: E501 (a table of cases reads best one a line)
"""Tables that must be refused with a sentence: ``(name, builder(folder) -> paths, regex of what is said)``.

The same list serves the reader's tests and the command line's. Every builder writes into the folder it is given;
``OPTIONS`` holds the keyword arguments of `read_runs` that a case needs (a map is written by its builder).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Builder = Callable[[Path], Sequence[Path]]


def good(n_rates: int = 3, n_batches: int = 3) -> pd.DataFrame:
    """A valid table: one cell, a grid of rates and batches."""
    rows = [
        {
            "run_id": f"r{i}{j}", "source": "us", "arch": "dense", "data": "web", "n_params": 1e8, "n_tokens": 2e9,
            "seq_len": 2048, "lr_peak": 1e-3 * 2.0**i, "batch_tokens": 65536 * 2**j,
            "loss": 3.0 + 0.01 * (i - 1) ** 2 + 0.01 * (j - 1) ** 2, "status": "completed",
        }
        for i in range(n_rates) for j in range(n_batches)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def table(edit: Callable[[pd.DataFrame], pd.DataFrame | None], file: str = "runs.csv") -> Builder:
    """Write the valid table after ``edit``."""

    def build(folder: Path) -> list[Path]:
        frame = good().astype(object)
        edited = edit(frame)
        (frame if edited is None else edited).to_csv(folder / file, index=False)
        return [folder / file]

    return build


def cell(column: str, value: object, row: int = 4) -> Builder:
    """Write the valid table with one field changed, in the row a person would count as ``row``."""

    def edit(frame: pd.DataFrame) -> None:
        frame.loc[row - 1, column] = value

    return table(
        lambda frame: frame.assign(**{column: frame.get(column)}).pipe(with_cell, row - 1, column, value)
    )


def with_cell(frame: pd.DataFrame, index: int, column: str, value: object) -> pd.DataFrame:
    """``frame`` with one field set."""
    frame[column] = frame[column].astype(object)
    frame.loc[index, column] = value
    return frame


def raw(content: bytes, file: str = "runs.csv") -> Builder:
    """Write these bytes."""

    def build(folder: Path) -> list[Path]:
        (folder / file).write_bytes(content)
        return [folder / file]

    return build


def mapped(toml: str | bytes, edit: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame) -> Builder:
    """Write the valid table and a column map ``map.toml`` beside it."""

    def build(folder: Path) -> list[Path]:
        (folder / "map.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())
        return list(table(edit)(folder))

    return build


def parquet(frame: pd.DataFrame, cut: int = 0) -> Builder:
    """Write a Parquet file, without its last ``cut`` bytes."""

    def build(folder: Path) -> list[Path]:
        path = folder / "runs.parquet"
        frame.to_parquet(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - cut])
        return [path]

    return build


def two(left: pd.DataFrame, right: pd.DataFrame) -> Builder:
    """Write two files."""

    def build(folder: Path) -> list[Path]:
        left.to_csv(folder / "a.csv", index=False)
        right.to_csv(folder / "b.csv", index=False)
        return [folder / "a.csv", folder / "b.csv"]

    return build


def folder_as_table(folder: Path) -> list[Path]:
    """A directory where a file should be."""
    (folder / "runs.csv").mkdir()
    return [folder / "runs.csv"]


def at(row: int, column: str, value: str, says: str, remedy: str) -> str:
    """The regex of a message about one field."""
    return rf"runs\.csv row {row}: {column} = {value} {says}.*; .*{remedy}"


HEAD = b"run_id,n_params,n_tokens,lr_peak,batch_tokens,loss\n"
TEXT = good().to_csv(index=False)
PLAIN = TEXT.encode()
CUT = good().drop(columns="run_id")

MALFORMED: list[tuple[str, Builder, str]] = [
    # fields that cannot be true
    ("negative loss", cell("loss", -2.1), at(4, "loss", "-2.1", "is not positive", "correct it")),
    ("zero rate", cell("lr_peak", 0), at(4, "lr_peak", "0", "is not positive", "correct it")),
    ("negative tokens", cell("n_tokens", -1e9), at(4, "n_tokens", "-1000000000", "is not positive", "tokens")),
    ("negative unique", cell("unique_tokens", -1e9), at(4, "unique_tokens", "-1000000000", "is not positive", "tokens")),
    ("suffix B", cell("unique_tokens", "1.3B"), at(4, "unique_tokens", "'1.3B'", "is not a number", "1.3e9")),
    ("NaN loss", cell("loss", "nan"), r"runs\.csv row 4: loss is missing.*; give the loss, or set status"),
    ("infinite loss", cell("loss", "inf"), at(4, "loss", "inf", "is not finite", "correct it")),
    ("huge integer", cell("n_params", "1" + "0" * 400), at(4, "n_params", "inf", "is not finite", "correct it")),
    ("empty rate", cell("lr_peak", ""), r"runs\.csv row 4: lr_peak is missing.*; give the value"),
    ("negative error", cell("loss_se", -0.1), at(4, "loss_se", "-0.1", "is negative", "correct it")),
    ("thousands", cell("n_tokens", "2,000,000,000"), at(4, "n_tokens", "'2,000,000,000'", "is not", "2000000000")),
    ("one thousand", cell("n_params", "1,000"), at(4, "n_params", "'1,000'", "is not", "separators: 1000")),
    ("suffix", cell("n_params", "1B"), at(4, "n_params", "'1B'", "is not a number", "1e9")),
    ("suffix M", cell("n_params", "124 M"), at(4, "n_params", "'124 M'", "is not a number", "124e6")),
    ("decimal comma", cell("lr_peak", "0,00125"), at(4, "lr_peak", "'0,00125'", "is not a number", "0.00125")),
    ("text", cell("loss", "lost"), at(4, "loss", "'lost'", "is not a number", "plain number")),
    ("boolean", cell("loss", True), at(4, "loss", "'True'", "is not a number", "plain number")),
    ("complex", cell("loss", "(2+1j)"), at(4, "loss", r"'\(2\+1j\)'", "is not a number", "plain number")),
    ("date", cell("n_tokens", "2026-11-02"), at(4, "n_tokens", "'2026-11-02'", "is not a number", "plain")),
    ("hexadecimal", cell("n_tokens", "0x77359400"), at(4, "n_tokens", "'0x77359400'", "is not", "plain number")),
    ("underscores", cell("n_tokens", "2_000_000_000"), at(4, "n_tokens", "'2_000_000_000'", "is not", "plain")),
    ("formula", cell("loss", "=1+2"), at(4, "loss", r"'=1\+2'", "is not a number", "plain number")),
    ("unit", cell("n_tokens", "2e9 tokens"), at(4, "n_tokens", "'2e9 tokens'", "is not a number", "plain")),
    ("fractional seed", cell("seed", 1.5), at(4, "seed", "1.5", "is not a whole number", "integer")),
    ("unknown status", cell("status", "done"), at(4, "status", "'done'", "is not known", "completed, diverged")),
    ("slash", cell("source", "us/them"), at(4, "source", "'us/them'", "contains '/'", "source/arch/data")),
    ("control character", cell("data", "we\x07b"), r"runs\.csv row 4: data = 'we\\+x07b' is not text.*; write plain"),
    ("line break", cell("data", "we\nb"), r"runs\.csv row 4: data = 'we\\+nb' is not text on one line.*; write"),
    ("active above total", cell("n_active", 2e8),
     at(4, "n_active", "200000000", "is larger than n_params = 100000000", "swap")),
    ("sequences", cell("batch_tokens", 256),
     at(4, "batch_tokens", "256", "is smaller than seq_len = 2048", "multiply by seq_len")),
    ("batch above tokens", cell("batch_tokens", 4e9),
     at(4, "batch_tokens", "4000000000", "is larger than n_tokens = 2000000000", "per optimizer step")),
    ("same id", cell("run_id", "r00"), r"runs\.csv row 4: run_id = 'r00' is already used in runs\.csv row 1; give"),
    ("same id in two files", two(good(), good().iloc[[4]]),
     r"b\.csv row 1: run_id = 'r11' is already used in a\.csv row 5; give"),
    # the whole table
    ("mixed loss kinds", table(lambda f: f.assign(loss_kind=["val"] * 5 + ["train"] * 4)),
     r"runs\.csv row 6: the group us/dense/web mixes 2 values of loss_kind: 'val' and 'train'.*row 1\); give them"),
    ("mixed parameter counts", table(lambda f: f.assign(n_params_kind=["total"] * 8 + ["non-embedding"])),
     r"runs\.csv row 9: the group us/dense/web mixes 2 values of n_params_kind.*; give them"),
    ("mixed schedules in two files",
     two(CUT.assign(schedule="wsd"), CUT.assign(schedule="cosine")),
     r"b\.csv row 1: the group us/dense/web mixes 2 values of schedule.*a\.csv row 1\); give them"),
    ("one row", table(lambda f: f.head(1)), r"runs\.csv: there is only one usable run.*optimum; add runs"),
    ("one rate", table(lambda f: f.assign(lr_peak=0.001)), r"runs\.csv: every run has the same lr_peak = 0\.001.*; add"),
    ("one rate a cell", table(lambda f: f.assign(n_tokens=1e9 * f["lr_peak"].astype(float) * 1000)),
     r"runs\.csv: no two runs of one cell .* differ in lr_peak.*; add runs"),
    ("all failed", table(lambda f: f.assign(status="failed")), r"runs\.csv: none of the 9 runs completed; .*at least one"),
    ("missing column", table(lambda f: f.drop(columns="n_tokens")),
     r"runs\.csv: there is no column n_tokens \(training tokens\); add it, or map one.*--map"),
    ("misspelt column", table(lambda f: f.rename(columns={"n_tokens": "n_token"})),
     r"runs\.csv: there is no column n_tokens.*; add it.*\"n_token\"\?"),
    # files that are no tables
    ("empty file", raw(b""), r"runs\.csv: the file is empty; it needs a header"),
    ("blank file", raw(b"\n \n\n"), r"runs\.csv: the file is empty; it needs a header"),
    ("header only", raw(HEAD), r"runs\.csv: the table has no rows; add one line"),
    ("only one column", raw(b"loss\n2.1\n2.2\n"), r"runs\.csv: there is only one column, \"loss\"; .*commas"),
    ("semicolons", raw(PLAIN.replace(b",", b";")), r"runs\.csv: the columns are separated by semicolons; .*commas"),
    ("tabs", raw(PLAIN.replace(b",", b"\t")), r"runs\.csv: the columns are separated by tabs; .*commas"),
    ("long row", raw(PLAIN.replace(b"r01,us", b"r01,us,us")), r"runs\.csv row 2: it has 12 fields and the header has 11; quote"),
    ("short row", raw(PLAIN + b"r99,us\n"), r"runs\.csv row 10: it has 2 fields and the header has 11; quote"),
    ("open quote", raw(PLAIN.replace(b"r01,", b'"r01,')), r"runs\.csv: a quotation mark is opened .*; close"),
    ("Latin-1", raw(TEXT.replace("web", "wéb").encode("latin-1")), r"runs\.csv: the text is not UTF-8 \(line 2.*0xe9\); save"),
    ("Latin-1 header", raw(TEXT.replace("data", "dàta").encode("latin-1")), r"runs\.csv: the text is not UTF-8 \(line 1.*; save"),
    ("UTF-16", raw(TEXT.encode("utf-16")), r"runs\.csv: the file is UTF-16; save it as UTF-8"),
    ("column twice", raw(PLAIN.replace(b"run_id,", b"loss,", 1)), r"runs\.csv: the column \"loss\" appears 2 times; keep"),
    ("PNG", raw(b"\x89PNG\r\n\x1a\n" + bytes(64)), r"runs\.csv: this is a PNG picture, not a table; export"),
    ("NetCDF", raw(b"CDF\x01" + bytes(64)), r"runs\.csv: this is a NetCDF file, not a table; export"),
    ("HDF5", raw(b"\x89HDF\r\n\x1a\n" + bytes(64)), r"runs\.csv: this is an HDF5 or NetCDF file.*; export"),
    ("workbook", raw(b"PK\x03\x04" + bytes(64), "runs.xlsx"), r"runs\.xlsx: this is a zip archive or an Excel.*; export"),
    ("gzip", raw(b"\x1f\x8b\x08" + bytes(64)), r"runs\.csv: this is a gzip archive, not a table; export"),
    ("pickle", raw(b"\x80\x04\x95" + bytes(64), "runs.pkl"), r"runs\.pkl: this is a pickle, not a table; export"),
    ("binary", raw(b"a,b\n1,\x00\x01\x02\n"), r"runs\.csv: this is a binary file, not a CSV; export"),
    ("directory", folder_as_table, r"runs\.csv: this is a directory; give the CSV or Parquet files"),
    ("no such file", lambda folder: [folder / "nowhere.csv"], r"nowhere\.csv: no such file; check the path"),
    ("CSV called Parquet", raw(PLAIN, "runs.parquet"), r"runs\.parquet: this is not a Parquet file.*; write it again"),
    ("truncated Parquet", parquet(good(), 40), r"runs\.parquet: the Parquet file is truncated or damaged.*; copy"),
    ("stub of Parquet", raw(b"PAR1" + bytes(8), "runs.parquet"), r"runs\.parquet: the Parquet file is trunc.*; copy"),
    ("nested Parquet", parquet(good().assign(curve=[[3.0, 2.9]] * 9)),
     r"runs\.parquet: the column \"curve\" holds list.*; drop or flatten"),
    ("bytes in Parquet", parquet(good().assign(model=[b"\x80\x04\x95"] * 9)),
     r"runs\.parquet: the column \"model\" holds binary.*; drop or flatten"),
    ("dates in Parquet", parquet(good().assign(n_tokens=pd.Timestamp("2026-11-02"))),
     r"runs\.parquet row 1: n_tokens = '2026-11-02.*' is not a number; .*plain"),
    ("booleans in Parquet", parquet(good().assign(loss=True)), r"runs\.parquet row 1: loss = 'True' is not a number; "),
    ("a Parquet bomb", parquet(pd.DataFrame({"loss": np.zeros(10_000_001, dtype=np.int8)})),
     r"runs\.parquet: it has 10,000,001 rows, and 10,000,000 is the most.*; one row is one training run"),
    # maps
    ("broken map", mapped('[columns]\nn_params = "N\n'), r"map\.toml: not valid TOML .*; write lines such as"),
    ("map in Latin-1", mapped('[constants]\nsource = "é"\n'.encode("latin-1")), r"map\.toml: .*not UTF-8 text; save it"),
    ("map of an unknown name", mapped('[columns]\nn_parms = "N"\n'),
     r"map\.toml: \[columns\] n_parms is not a column of a run table; did you mean n_params"),
    ("map with an unknown table", mapped('[names]\nn_params = "N"\n'),
     r"map\.toml: unknown table \[names\]; a column map has"),
    ("map to an absent column", mapped('[columns]\ngpu_hours = "hours"\n'),
     r"runs\.csv: map\.toml maps gpu_hours to \"hours\", which is not in the file; its columns are"),
    ("one column mapped twice", mapped('[columns]\nloss = "L"\nloss_se = "L"\n'),
     r"map\.toml: the column \"L\" is mapped twice, to loss and loss_se; map it once"),
    ("column there and mapped", mapped('[columns]\nloss = "val"\n', lambda f: f.assign(val=f["loss"])),
     r"runs\.csv: there is a column loss, and map\.toml maps \"val\" to it too; remove"),
    ("constant over a column", mapped('[constants]\nsource = "us"\n'),
     r"runs\.csv: there is a column source, and map\.toml sets it to a constant; keep one"),
    ("scale of zero", mapped("[scale]\nn_tokens = 0\n"), r"map\.toml: \[scale\] n_tokens = 0 is not a positive.*; write"),
    ("scale of text", mapped("[scale]\nsource = 2\n"), r"map\.toml: \[scale\] source is text and cannot be.*; remove it"),
    ("constant beyond float64", mapped("[constants]\nseed = 1" + "0" * 400 + "\n"),
     r"map\.toml: \[constants\] seed = 10+\.\.\. is not text or a number; write one value"),
    ("scale beyond float64", mapped("[scale]\nn_tokens = 1" + "0" * 400 + "\n"),
     r"map\.toml: \[scale\] n_tokens = 10+\.\.\. is not a positive number; write"),
    ("map of a number", mapped("[columns]\nn_params = 3\n"), r"map\.toml: \[columns\] n_params = 3 is no name; quote it"),
]  # fmt: skip

#: Cases whose builder also writes ``map.toml``, to be passed as the column map.
WITH_MAP = frozenset(name for name, _, says in MALFORMED if "map\\.toml" in says)


def options(name: str, folder: Path) -> dict[str, Any]:
    """Keyword arguments of `read_runs` for the case ``name`` built in ``folder``."""
    return {"mapping": folder / "map.toml"} if name in WITH_MAP else {}
