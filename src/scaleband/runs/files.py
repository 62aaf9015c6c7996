"""Files become raw frames, as data only: every field of a CSV is text until the table says it is a number."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd

from scaleband.errors import UserError
from scaleband.runs.problems import ROWS_LISTED, shown_value

#: How a file begins says what it is, whatever it is called.
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89HDF", "an HDF5 or NetCDF file"),
    (b"CDF\x01", "a NetCDF file"),
    (b"CDF\x02", "a NetCDF file"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x04\x95", "a pickle"),
    (b"\x80\x05\x95", "a pickle"),
    (b"%PDF", "a PDF"),
)
#: A Parquet file of a few kB can claim a billion rows; a table of this many already takes about 10 GiB.
MOST_ROWS = 10_000_000
EXPORT = "export the table as CSV (UTF-8, comma separated) or Parquet"


def read_raw(path: Path, name: str) -> pd.DataFrame:
    """Read one CSV or Parquet file, whichever its first bytes say it is.

    Parameters
    ----------
    path
        The file.
    name
        How messages call it.

    Returns
    -------
    A frame of text columns (CSV) or of text and number columns (Parquet), one row a data row, unchecked.

    Raises
    ------
    UserError
        Missing, unreadable, another format, broken text, ragged rows, or column names used twice.
    """
    try:
        if path.is_dir():
            raise UserError(f"{name}: this is a directory; give the CSV or Parquet files in it")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or "cannot be opened"
        raise UserError(f"{name}: {why}; check the path and its permissions") from None
    if not content.strip(b"\x00\r\n\t ,;\xef\xbb\xbf"):
        raise UserError(f"{name}: the file is empty; it needs a header line and one line per run")
    if content[:4] == b"PAR1":
        return read_parquet(content, name)
    for signature, what in SIGNATURES:
        if content.startswith(signature):
            raise UserError(f"{name}: this is {what}, not a table; {EXPORT}")
    if path.suffix.lower() in (".parquet", ".pq"):
        raise UserError(
            f"{name}: this is not a Parquet file, whatever its name says; write it again, or rename it .csv"
        )
    return read_csv(content, name)


def read_csv(content: bytes, name: str) -> pd.DataFrame:
    """Parse CSV bytes into text columns; see `read_raw` for what raises."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{name}: the file is UTF-16; save it as UTF-8")
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\x00" in content:
        raise UserError(f"{name}: this is a binary file, not a CSV; {EXPORT}")
    if content.count(b'"') % 2:
        raise UserError(f"{name}: a quotation mark is opened and never closed; close or remove it")
    header = csv_header(content, name)
    ragged: list[tuple[int, int]] = []

    def note_ragged(row: object) -> str:
        # the parser counts the header as row 1
        ragged.append(((row.number or 1) - 1, row.actual_columns))  # type: ignore[attr-defined]
        return "skip"

    try:
        table = arrow_csv.read_csv(
            io.BytesIO(content),
            # single-threaded: otherwise the parser does not know the number of a ragged row
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=1 << 24),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note_ragged),
            convert_options=arrow_csv.ConvertOptions(
                column_types={column: pa.string() for column in header}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise UserError(
                f"{name}: the text is not UTF-8{bad_line(content)}; save the file as UTF-8"
            ) from None
        raise UserError(f"{name}: not a CSV that can be read ({shown_value(error, 120)}); {EXPORT}") from None
    if ragged:
        raise UserError(ragged_sentences(ragged, len(header), name))
    names = unique_names(table.column_names, name)
    return table.rename_columns(names).to_pandas()


def csv_header(content: bytes, name: str) -> list[str]:
    """The column names as the file writes them, after the checks that a header alone allows."""
    start = content.lstrip(b"\r\n")[: 1 << 20]
    try:
        # errors="ignore" only drops a character cut in two at the end of the slice
        text = start.decode("utf-8", errors="strict" if len(start) < 1 << 20 else "ignore")
    except UnicodeDecodeError:
        raise UserError(f"{name}: the text is not UTF-8{bad_line(content)}; save the file as UTF-8") from None
    try:
        header = next(csv.reader(io.StringIO(text, newline="")))
    except (csv.Error, StopIteration):
        raise UserError(f"{name}: the header line cannot be read; {EXPORT}") from None
    if len(header) == 1:
        for mark, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if mark in header[0]:
                raise UserError(f"{name}: the columns are separated by {word}; separate them by commas")
        raise UserError(
            f'{name}: there is only one column, "{shown_value(header[0])}"; '
            "a run table needs several, separated by commas, with their names in the first line"
        )
    return header


def bad_line(content: bytes) -> str:
    """Where the first byte that is not UTF-8 stands, for a message."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f" (line {line} of the file has the byte 0x{content[error.start]:02x})"
    return ""


def ragged_sentences(ragged: list[tuple[int, int]], n_columns: int, name: str) -> list[str]:
    """One sentence per ragged row, the rest counted."""
    lines = [
        f"{name} row {row}: it has {count} fields and the header has {n_columns}; "
        "quote fields that contain commas, and leave absent values empty"
        for row, count in ragged[:ROWS_LISTED]
    ]
    if len(ragged) > ROWS_LISTED:
        lines[-1] += f" (and {len(ragged) - ROWS_LISTED:,} more rows like this)"
    return lines


def unique_names(header: list[str], name: str) -> list[str]:
    """Strip the names, number the empty ones, refuse repeats."""
    stripped = [column.strip() or f"unnamed_{i}" for i, column in enumerate(header, start=1)]
    twice = sorted({column for column in stripped if stripped.count(column) > 1})
    if twice:
        raise UserError(
            f'{name}: the column "{shown_value(column)}" appears {stripped.count(column)} times; keep one'
            for column in twice
        )
    return stripped


def read_parquet(content: bytes, name: str) -> pd.DataFrame:
    """Parse Parquet bytes into text and number columns; see `read_raw` for what raises."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        fields = list(file.schema_arrow)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(name, error) from None
    if file.metadata.num_rows > MOST_ROWS:
        raise UserError(
            f"{name}: it has {file.metadata.num_rows:,} rows, and {MOST_ROWS:,} is the most that is read; "
            "one row is one training run: select the final ones"
        )
    names = unique_names([field.name for field in fields], name)
    nested = [
        f'{name}: the column "{shown_value(field.name)}" holds {field.type}, not text or numbers; '
        "drop or flatten it"
        for field in fields
        if pa.types.is_nested(field.type) or is_binary(field.type)
    ]
    if nested:
        raise UserError(nested)
    try:
        table = file.read()
        columns = [plain(table.column(i), field.type) for i, field in enumerate(fields)]
        frame = pa.table(columns, names=names).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(name, error) from None
    return frame


def damaged(name: str, error: Exception) -> UserError:
    """The error of a Parquet file that cannot be decoded."""
    why = shown_value(error, 100)
    return UserError(f"{name}: the Parquet file is truncated or damaged ({why}); copy or write it again")


def is_binary(kind: object) -> bool:
    """Whether an Arrow type holds bytes, where a pickle could hide."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return is_binary(kind.value_type)  # type: ignore[attr-defined]
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def plain(column: object, kind: object) -> object:
    """Dictionary columns become their values, decimals float64; all else stays."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)  # type: ignore[attr-defined]
    return column.cast(pa.float64()) if pa.types.is_decimal(kind) else column  # type: ignore[attr-defined]
