"""Foreign column names: a small TOML file, or a reader, says how they become the columns of a run table."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from scaleband.errors import UserError
from scaleband.nearest import nearest
from scaleband.runs.columns import BY_NAME, NUMBERS
from scaleband.runs.problems import Problem, shown_value

SECTIONS = ("columns", "constants", "scale")


@dataclass(frozen=True)
class ColumnMap:
    """How foreign columns become columns of the run table.

    Parameters
    ----------
    columns
        Run-table name -> foreign name.
    constants
        Run-table name -> the value of every row.
    scale
        Run-table name -> factor that turns the file's numbers into the run table's unit.
    name
        Where the map comes from, for messages.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str | float] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    name: str = "mapping"


def read_map(path: str | Path) -> ColumnMap:
    """Read a column map from TOML.

    Three tables, each optional; keys are run-table names::

        [columns]          # run-table name = "name in the file"
        n_params = "N"
        [constants]        # the same value for every row
        source = "my-team"
        [scale]            # multiply the file's numbers: here it counts billions of tokens
        n_tokens = 1e9

    Raises
    ------
    UserError
        The file cannot be read, is not TOML, or names something unknown: every problem at once.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        why = error.strerror or "cannot be read"
        raise UserError(f"{path}: {why}; give the path of a TOML file that maps columns") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the column map is not UTF-8 text; save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise UserError(f'{path}: not valid TOML ({error}); write lines such as n_params = "N"') from None
    return column_map(document, str(path.name))


def column_map(document: Mapping[str, object], name: str = "mapping") -> ColumnMap:
    """Check a column map given as nested dicts (the TOML document); see `read_map` for the format.

    Raises
    ------
    UserError
        Every problem of the map at once.
    """
    problems = [
        f"{name}: unknown table [{key}]; a column map has [columns], [constants] and [scale]"
        for key in document
        if key not in SECTIONS
    ]
    parts: dict[str, dict] = {}
    for section in SECTIONS:
        part = document.get(section, {})
        if not isinstance(part, Mapping):
            problems.append(f"{name}: {section} is not a table; write [{section}] on a line of its own")
            part = {}
        parts[section] = dict(part)
        problems += [unknown_name(name, section, key) for key in part if key not in BY_NAME]
    columns = {key: value for key, value in parts["columns"].items() if isinstance(value, str)}
    problems += [
        f'{name}: [columns] {key} = {shown_value(parts["columns"][key])} is no name; quote it: {key} = "N"'
        for key in parts["columns"]
        if key not in columns
    ]
    for foreign in sorted({f for f in columns.values() if list(columns.values()).count(f) > 1}):
        twice = " and ".join(key for key, value in columns.items() if value == foreign)
        problems.append(f'{name}: the column "{foreign}" is mapped twice, to {twice}; map it once')
    for key, value in parts["constants"].items():
        if not isinstance(value, str) and not is_number(value):
            problems.append(
                f"{name}: [constants] {key} = {shown_value(value)} is not text or a number; write one value"
            )
        if key in columns:
            problems.append(f"{name}: {key} has both a column and a constant; keep one of them")
    for key, value in parts["scale"].items():
        if not is_number(value) or value <= 0:
            problems.append(
                f"{name}: [scale] {key} = {shown_value(value)} is not a positive number; write e.g. 1e9"
            )
        elif key in BY_NAME and key not in NUMBERS:
            problems.append(f"{name}: [scale] {key} is text and cannot be scaled; remove it")
    if problems:
        raise UserError(problems)
    return ColumnMap(columns, parts["constants"], {k: float(v) for k, v in parts["scale"].items()}, name)


def is_number(value: object) -> bool:
    """Whether a TOML value is a number that float64 can hold; its integers have no bound."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def unknown_name(name: str, section: str, key: str) -> str:
    """The sentence about a key that is no column of a run table."""
    near = nearest(key, BY_NAME)
    hint = f"did you mean {near}?" if near else "the names are " + ", ".join(BY_NAME)
    return f"{name}: [{section}] {shown_value(key)} is not a column of a run table; {hint}"


def renamed(raw: pd.DataFrame, file: str, plan: ColumnMap) -> tuple[pd.DataFrame, list[Problem]]:
    """Apply the names and constants of a map (the scale comes later, once text has become numbers)."""
    problems: list[Problem] = []

    def refuse(column: str, message: str, remedy: str) -> None:
        problems.append(Problem("error", file, None, column, "", message, remedy))

    names: dict[str, str] = {}
    for known, foreign in plan.columns.items():
        if foreign == known:
            continue
        if foreign not in raw.columns:
            if known not in raw.columns:  # several files may share one map: some already use our names
                near = nearest(foreign, map(str, raw.columns))
                hint = f'did you mean "{near}"?' if near else "its columns are " + column_list(raw)
                refuse(known, f'{plan.name} maps {known} to "{foreign}", which is not in the file', hint)
            else:
                message = f'{plan.name} maps {known} to "{foreign}", which is not in the file; its {known} is read'
                remedy = "correct the map, if this is not a file that uses our names already"
                problems.append(Problem("warning", file, None, known, "", message, remedy))
        elif known in raw.columns and known not in plan.columns.values():
            refuse(
                known,
                f'there is a column {known}, and {plan.name} maps "{foreign}" to it too',
                "remove the line of the map, or rename the column",
            )
        else:
            names[foreign] = known
    frame = raw.rename(columns=names)
    for known, value in plan.constants.items():
        if known in frame.columns:
            refuse(
                known, f"there is a column {known}, and {plan.name} sets it to a constant", "keep one of them"
            )
        else:
            frame[known] = value if isinstance(value, str) else float(value)
    return frame, problems


def misspelt(raw: pd.DataFrame, file: str) -> list[Problem]:
    """Columns that look like one of ours and are none: nobody would notice that their values are not read."""
    absent = [name for name in BY_NAME if name not in raw.columns]
    problems = []
    for column in (str(c) for c in raw.columns if c not in BY_NAME):
        plain = re.sub("[^a-z0-9]+", "_", column.lower()).strip("_")
        near = plain if plain in BY_NAME else nearest(plain, absent, cutoff=0.8)
        if near:
            remedy = f"rename it {near}, or to something else if it is not"
            problems.append(Problem("warning", file, None, column, "", f"the column {column} is not read", remedy))
    return problems


def scales_for(raw: pd.DataFrame, plan: ColumnMap) -> dict[str, float]:
    """The factors of a map that hold for one file, as it came.

    Where several files share a map, one that uses our name already counts in our unit too: only what is renamed is
    scaled.
    """
    return {
        known: factor
        for known, factor in plan.scale.items()
        if known not in plan.columns or plan.columns[known] in raw.columns
    }


def column_list(frame: pd.DataFrame, limit: int = 12) -> str:
    """The columns of a file for a message, cut short."""
    names = [shown_value(name) for name in frame.columns]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
