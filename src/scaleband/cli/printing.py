"""What is printed: answers to stdout as text, table or JSON; all else to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

Rows = Sequence[tuple[str, str]]

LABEL_WIDTH = 17
_SHORT, _FOLDED = 20, 12  # characters: a column up to the first is not folded (ids, numbers), one beyond has the second


def settle_streams() -> None:
    """A stream that was closed takes everything and keeps nothing; characters that an encoding lacks are escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the process ends)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def printable(text: object) -> str:
    """One line without control characters: names come from files, and a file may hold escape codes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def say(text: str) -> None:
    """One line to stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def plain(value: Any) -> Any:
    """Values as JSON knows them: NumPy becomes Python, what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_json(value: Mapping[str, object]) -> None:
    """An answer as JSON on stdout."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def print_rows(title: str, rows: Rows) -> None:
    """Labelled lines on stdout: a table on a terminal, plain text in a pipe."""
    if sys.stdout.isatty():
        _rich_rows(title, rows)
        return
    print(printable(title))
    for label, text in rows:
        print(f"{label:<{LABEL_WIDTH}}  {printable(text)}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; in a pipe, and where a terminal is too narrow for ids in one piece, without lines."""
    cells = [[printable(v) for v in row] for row in rows]
    widths = [max(len(v) for v in column) for column in zip(columns, *cells, strict=True)]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console, table = Console(), Table()
        if sum((w if w <= _SHORT else _FOLDED) + 3 for w in widths) < console.width:
            for name, width in zip(columns, widths, strict=True):
                # Ids and numbers stay whole; longer words are folded, nothing is cut.
                table.add_column(name, overflow="fold", no_wrap=width <= _SHORT)
            for row in cells:
                table.add_row(*(Text(v) for v in row))
            console.print(table)
            return
    for row in [list(columns), *cells]:
        print("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip())


def _rich_rows(title: str, rows: Rows) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(Text(label), Text(printable(text)))
    console = Console()
    console.print(Text(printable(title), style="bold cyan"))
    console.print(table)


def on_terminal(stream: TextIO) -> bool:
    """Whether a person watches this stream."""
    return bool(stream.isatty())
