"""Run tables that come with the package: real runs of its own reference trainer, and where they lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import scaleband
from scaleband.errors import UserError
from scaleband.runs.catalogue import CATALOGUE, DataSet, fetch, named, placed
from scaleband.runs.problems import shown_value
from scaleband.runs.table import RunTable, read_runs

TABLE, CARD = "runs.csv", "sources.json"
OWN_SWEEP = "scaleband-tiny"


def sweeps_folder() -> Path:
    """Where shipped run tables lie: inside the wheel, or the clone's `sweeps/` for an editable install."""
    package = Path(scaleband.__file__).parent
    shipped = package / "_sweeps"
    return shipped if shipped.is_dir() else package.parents[1] / "sweeps"


def sweep_path(name: str = OWN_SWEEP) -> Path:
    """Path of a shipped run table.

    Raises
    ------
    UserError
        None of that name is shipped.
    """
    names = [entry.name for entry in shipped_sets()]
    if name not in names:
        raise UserError(
            f"no run table {shown_value(name)!r} is shipped; choose one of {', '.join(names) or 'none'}"
        )
    return sweeps_folder() / name / TABLE


def sweep_card(name: str = OWN_SWEEP) -> dict[str, Any]:
    """The data card of a shipped run table: recipe, sources of the text, columns. Raises UserError."""
    return json.loads((sweep_path(name).parent / CARD).read_text(encoding="utf-8"))


def own_sweep() -> RunTable:
    """The sweep of the package's own trainer, validated: real runs to try everything on.

    Returns
    -------
    Dense and two mixtures of experts, prose and source code, several sizes and token counts, with seeds.
    """
    return read_runs(sweep_path())


def shipped_sets() -> tuple[DataSet, ...]:
    """What is shipped, as entries of the catalogue (their `url` is empty)."""
    found = []
    folder = sweeps_folder()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            card = json.loads((path / CARD).read_text(encoding="utf-8"))
            size = (path / TABLE).stat().st_size
        except (OSError, ValueError):
            continue  # not a whole data set
        found.append(
            DataSet(path.name, TABLE, "", card["sha256"], size, card["licence"], card["what"], "read_runs")
        )
    return tuple(found)


def data_sets() -> tuple[DataSet, ...]:
    """Everything that `get` knows: what is shipped, then what upstream keeps."""
    return (*shipped_sets(), *CATALOGUE)


def get(name: str, *, directory: str | Path | None = None, mirror: str | Path | None = None) -> Path:
    """Path of a data set: of a shipped one where it lies, or its copy in `directory`; else as `fetch` gives it.

    Raises
    ------
    UserError
        As `fetch`; or the copy cannot be written.
    """
    if named(name, data_sets()).url:
        return fetch(name, directory=directory, mirror=mirror)
    path = sweeps_folder() / name / TABLE
    if directory is None:
        return path
    target = Path(directory) / f"{name}.csv"
    try:
        placed(target, lambda part: shutil.copyfile(path, part))
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(f"{target}: cannot be written ({why}); choose another folder") from None
    return target
