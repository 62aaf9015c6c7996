"""Loss laws in a file: a group `loss` of the fit's NetCDF, or a file of its own. Read with h5py, no pickle.

    /loss                    attributes: version, meta (JSON: weights, gate, conventions, reference, laws)
    /loss/cells              source, arch, data, n_params, n_active, n_tokens, batch_tokens, unique_tokens,
                             log_loss, log_loss_se, kind, trunk   (observation)
    /loss/draws/LAW          theta (sample, entry), entry: names as in `bayes.loss_model.Layout`
    /loss/far                theta (sample, 6), field_points (point, 4), field_weights (sample, point): as in
                             `laws.far.FarDraws`; only beside basins
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from scaleband.errors import UserError
from scaleband.inference.stored import (
    any_numbers,
    attribute,
    checked_meta,
    damaged,
    member,
    opened,
    texts,
)
from scaleband.laws.design import Cells
from scaleband.laws.far import NAMES, FarDraws
from scaleband.laws.loss import LAWS
from scaleband.laws.loss.draws import LawSamples, LossDraws
from scaleband.laws.loss.table import LossTable, Reference
from scaleband.whole import whole

LOSS_FORMAT, LOSS_VERSION = "scaleband-loss", 1
_TEXTS = ("source", "arch", "data", "kind", "trunk")
_NUMBERS = ("n_params", "n_active", "n_tokens", "batch_tokens", "unique_tokens", "log_loss", "log_loss_se")
_FAR = {"theta": "theta", "points": "field_points", "field": "field_weights"}
"""Entry of `FarDraws` -> its name in the file."""


def write_loss(draws: LossDraws, path: Path, *, beside: Path | None = None) -> None:
    """Write loss laws to `path`, whole or not at all.

    Parameters
    ----------
    beside
        A fit whose other groups are kept: the file is copied and gets the group `loss`.

    Raises
    ------
    UserError
        Its folder does not exist, or cannot be written.
    """
    import h5py

    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; make it, or choose another --out")
    try:
        with whole(path) as part:
            if beside is not None:
                shutil.copyfile(beside, part)
            with h5py.File(part, "a" if beside is not None else "w") as file:
                if "loss" in file:
                    del file["loss"]
                _write(file.create_group("loss"), draws)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or type(error).__name__}); free some space, or choose another"
        ) from None


def _write(group: Any, draws: LossDraws) -> None:
    import h5py

    text = h5py.string_dtype()
    r, t, c = draws.reference, draws.table, draws.table.cells
    meta = dict(draws.meta) | {
        "reference": {"n_active": r.n_active, "n_tokens": r.n_tokens, "batch_tokens": r.batch_tokens},
        "laws": [p.law.name for p in draws.parts],
        "of_cells": t.of_cells,
    }
    group.attrs["format"], group.attrs["version"] = LOSS_FORMAT, LOSS_VERSION
    group.attrs["meta"] = json.dumps(meta, allow_nan=False)
    cells = group.create_group("cells")
    for name in _TEXTS:
        value = getattr(t, name) if name in ("kind", "trunk") else getattr(c, name)
        cells.create_dataset(name, data=np.array(list(value), dtype=object), dtype=text)
    for name in _NUMBERS:
        value = getattr(c, name) if name.startswith("n_") else getattr(t, name)
        cells.create_dataset(name, data=np.asarray(value, float))
    for part in draws.parts:
        own = group.create_group(f"draws/{part.law.name}")
        own.create_dataset("entry", data=np.array(part.names, dtype=object), dtype=text)
        own.create_dataset("theta", data=part.theta.astype("float32"), compression="gzip", shuffle=True)
    if draws.far is not None:
        own = group.create_group("far")
        for name, kept in _FAR.items():
            own.create_dataset(kept, data=getattr(draws.far, name).astype("float32"))


def read_loss(path: str | Path) -> LossDraws | None:
    """The loss laws of a file, or None where it holds none.

    Raises
    ------
    UserError
        The file is missing, not HDF5, from a newer version, or its loss laws are damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; `scaleband fit RUNS --out FIT.nc` makes one")
    import h5py

    if not h5py.is_hdf5(path):
        raise damaged(path, "it is not a NetCDF 4 file")
    with opened(path, "they") as file:
        if not isinstance(file.get("loss", getlink=True), h5py.HardLink):
            return None
        return _read(file["loss"], path)


def holds_basins(path: Path) -> bool:
    """Whether a file holds a basin fit too, which answers about rates and batches."""
    import h5py

    with h5py.File(path, "r") as file:
        return "posterior" in file


def _read(group: Any, path: Path) -> LossDraws:
    if group.attrs.get("format") != LOSS_FORMAT:
        raise damaged(path, f"their format is not {LOSS_FORMAT}")
    version = int(attribute(group, "version"))
    if version > LOSS_VERSION:
        raise UserError(f"{path}: loss laws written by a newer scaleband (format {version}); upgrade scaleband")
    meta = json.loads(attribute(group, "meta"))
    # Conventions are for the caller of `fit_loss` to give: a file without any states none.
    meta = checked_meta({"conventions": {}} | meta if isinstance(meta, dict) else meta, path)
    weights = meta.get("weights")
    if not isinstance(weights, dict) or not all(
        isinstance(w, int | float) and 0 <= w < 1.001 for w in weights.values()
    ):
        raise damaged(path, "its loss laws have no weights")
    cells = member(group, "cells", path)
    text = {name: texts(cells, name, path) for name in _TEXTS}
    number = {name: any_numbers(cells, name, path) for name in _NUMBERS}
    if len({len(v) for v in (*text.values(), *number.values())}) != 1 or not text["source"]:
        raise damaged(path, "their observations are incomplete")
    if min(number[n].min() for n in ("n_params", "n_active", "n_tokens")) <= 0:
        raise damaged(path, "their observations hold sizes that are not positive")
    table = LossTable(
        Cells(text["source"], text["arch"], text["data"], number["n_params"], number["n_active"], number["n_tokens"]),
        number["batch_tokens"], number["unique_tokens"], number["log_loss"], number["log_loss_se"],
        text["kind"], text["trunk"], bool(meta["of_cells"]),
    )  # fmt: skip
    parts, drawn = [], member(group, "draws", path)
    for name in meta["laws"]:
        if name not in LAWS:
            raise damaged(path, f"a law named {str(name)[:40]!r} is not known here")
        own = member(drawn, name, path)
        names, theta = texts(own, "entry", path), any_numbers(own, "theta", path)
        if theta.ndim != 2 or theta.shape[1] != len(names) or not len(theta) or not np.isfinite(theta).all():
            raise damaged(path, f"the draws of {name} are not numbers by entry")
        if np.abs(theta).max() > 1e4:
            raise damaged(path, f"the draws of {name} hold values that cannot be")
        law = LAWS[name]
        wanted = {p.name for p in law.parameters if not p.grouped} | {"log_nu_minus_1", "log_spread_level"}
        wanted |= {f"{p.name}:{g}" for p in law.parameters if p.grouped for g in set(table.groups())}
        if not wanted <= set(names):
            raise damaged(path, f"the draws of {name} lack {sorted(wanted - set(names))[0]}")
        parts.append(LawSamples(law, names, theta))
    if not parts:
        raise damaged(path, "there is no law in them")
    far = None
    if "far" in group:
        surface = member(group, "far", path)
        far = FarDraws(*(any_numbers(surface, kept, path) for kept in _FAR.values()))
        shapes = far.theta.shape[1:], far.points.shape[1:], far.field.shape[1:]
        if shapes != ((len(NAMES),), (4,), far.points.shape[:1]) or not len(far.theta) or not len(far.field):
            raise damaged(path, "the draws of the far surface are not numbers by entry")
        values = (far.theta, far.points, far.field)
        if not all(np.isfinite(v).all() and np.abs(v).max(initial=0.0) < 1e3 for v in values):
            raise damaged(path, "the draws of the far surface hold values that cannot be")
    r = meta["reference"]
    reference = Reference(float(r["n_active"]), float(r["n_tokens"]), float(r["batch_tokens"]))
    return LossDraws(tuple(parts), table, reference, meta | {"path": str(path)}, far)
