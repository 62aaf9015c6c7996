"""The loss curve beside a result: a small CSV file, one line a step that was kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from scaleband.errors import UserError
from scaleband.training.protocol import CURVE_COLUMNS, CURVE_FILE
from scaleband.training.running import write_whole


def write_curve(folder: Path, rows: Iterable[Sequence[float]]) -> str:
    """Write (step, n_tokens, loss, lr) rows into `folder`; gives the file's name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CURVE_COLUMNS)
    writer.writerows((int(s), int(t), f"{loss:.6g}", f"{lr:.6g}") for s, t, loss, lr in rows)
    write_whole(folder / CURVE_FILE, text.getvalue())
    return CURVE_FILE


def read_curve(path: Path) -> list[tuple[int, int, float, float]]:
    """The rows of a loss curve: step, tokens, loss (nats per token), learning rate. Raises UserError."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    if not lines or tuple(lines[0]) != CURVE_COLUMNS:
        raise UserError(f"{path.name}: its first line must be {','.join(CURVE_COLUMNS)}")
    try:
        return [(int(s), int(t), float(loss), float(lr)) for s, t, loss, lr in lines[1:]]
    except ValueError as error:
        raise UserError(f"{path.name}: {error}") from None
