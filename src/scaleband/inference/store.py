"""Fits on disk: an `xarray.DataTree` in NetCDF with ArviZ's groups.

Version 1 of the format. Dims: chain, draw, cell, response, hyperparameter, coefficient, role, direction,
source, shared_parameter, run, trunk.

    posterior        angle, skew (direction); rho, nu; sigma (source); scatter (response);
                     offset_scale (hyperparameter, role); state (response, cell); law (response, coefficient);
                     shared (shared_parameter); trunk_scale and trunk_effect (trunk) where runs share trunks
    prior            the same names, draws of the stated beliefs (fits only)
    sample_stats     diverging, energy, n_steps, ... (fits only)
    log_likelihood   log_loss (run) (fits only)
    observed_data    log_loss (run): 100 log loss, censored runs at their threshold; censored (run)
    constant_data    the cells, the design's columns and roles, the cells' grids
    root attributes  format, version, and `meta`: JSON with conventions, gate, name, ranges

Released models leave out the groups marked (fits only) and every run. Reading takes h5py and NumPy alone and
executes nothing from the file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.laws import RESPONSES, ROLES, Cells, Design, LawDraws

FORMAT = "scaleband-fit"
VERSION = 1

DIMS: dict[str, tuple[str, ...]] = {
    "angle": ("direction",),
    "skew": ("direction",),
    "rho": (),
    "nu": (),
    "sigma": ("source",),
    "scatter": ("response",),
    "offset_scale": ("hyperparameter", "role"),
    "state": ("response", "cell"),
    "law": ("response", "coefficient"),
    "shared": ("shared_parameter",),
    "trunk_scale": (),
    "trunk_effect": ("trunk",),
}
"""Posterior variables and their dims after (chain, draw)."""

_NEEDED = ("angle", "skew", "rho", "nu", "sigma", "scatter", "offset_scale", "state", "law", "shared")
_MAX_BYTES = 4 * 2**30


def write_netcdf(tree: Any, path: Path, *, compress: bool = True) -> None:
    """Write a DataTree to `path`: to a temporary file beside it first, then renamed over it."""
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; make it, or choose another --out")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        encoding = {
            node.path: {
                name: {"zlib": True, "complevel": 4, "shuffle": True}
                for name, v in node.dataset.data_vars.items()
                if v.dtype.kind == "f" and v.size > 1000
            }
            for node in tree.subtree
            if compress
        }
        tree.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"{path}: {what}; it is not a fit that scaleband wrote, or it is damaged: fit again with "
        "`scaleband fit RUNS --out FIT.nc`"
    )


def read_draws(path: str | Path) -> LawDraws:
    """Load a fit or a released model as draws, chains stacked.

    Raises
    ------
    UserError
        The file is missing, not NetCDF/HDF5, truncated, written by a newer version, or holds arrays whose
        names, dims or values are not those of the format.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; `scaleband fit RUNS --out {path}` makes one")
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except UserError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, UnicodeError, MemoryError) as error:
        raise _damaged(path, f"it cannot be read ({type(error).__name__})") from None


def _attribute(node: Any, name: str) -> Any:
    value = node.attrs[name]
    if isinstance(value, np.ndarray):  # NetCDF keeps a number as an array of one
        value = value.reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else value


def _read(file: Any, path: Path) -> LawDraws:
    if _attribute(file, "format") != FORMAT:
        raise _damaged(path, f"its format is not {FORMAT}")
    version = int(_attribute(file, "version"))
    if version > VERSION:
        raise UserError(f"{path}: written by a newer scaleband (format {version}, this one reads {VERSION}); upgrade")
    meta = json.loads(_attribute(file, "meta"))
    if not isinstance(meta, dict):
        raise _damaged(path, "its facts are not a JSON object")

    constant = file["constant_data"]
    design = Design(_texts(constant["coefficient"]), _texts(constant["coefficient_role"]))
    cells = Cells(
        source=_texts(constant["cell_source"]),
        arch=_texts(constant["cell_arch"]),
        data=_texts(constant["cell_data"]),
        n_params=_numbers(constant["cell_n_params"], path),
        n_active=_numbers(constant["cell_n_active"], path),
        n_tokens=_numbers(constant["cell_n_tokens"], path),
    )
    sources = _texts(constant["source"])
    sizes = {
        "direction": 2,
        "source": len(sources),
        "response": len(RESPONSES),
        "hyperparameter": 2,
        "role": len(ROLES) - 1,
        "cell": len(cells),
        "coefficient": len(design.columns),
    }
    values = {}
    for name in _NEEDED:
        value = _numbers(file["posterior"][name], path)
        expected = tuple(sizes.get(dim, value.shape[k + 2]) for k, dim in enumerate(DIMS[name]))
        if value.ndim != 2 + len(DIMS[name]) or value.shape[2:] != expected or 0 in value.shape:
            raise _damaged(path, f"posterior/{name} has shape {value.shape}")
        values[name] = value.reshape(-1, *value.shape[2:])
    if len({len(v) for v in values.values()}) != 1:
        raise _damaged(path, "its variables differ in their number of draws")
    n = len(values["rho"])
    offset = np.zeros((n, len(RESPONSES), len(ROLES)))
    offset[:, :2, 1:] = values["offset_scale"]
    fixed = _numbers(constant["fixed_offset_scale"], path)
    offset[:, 2:, 1:] = fixed[2:]
    return LawDraws(
        design=design,
        cells=cells,
        law=values["law"],
        scatter=values["scatter"],
        offset_scale=offset,
        state=values["state"],
        angle=values["angle"],
        skew=values["skew"],
        sigma=values["sigma"],
        rho=values["rho"],
        nu=values["nu"],
        sources=sources,
        meta=meta | {"path": str(path)},
        shared=values["shared"],
    )


def _texts(dataset: Any) -> tuple[str, ...]:
    return tuple(str(v) for v in dataset.asstr()[()])


def _numbers(dataset: Any, path: Path) -> NDArray[np.float64]:
    """A numeric array as float64; objects, references and absurd sizes are refused, not followed."""
    if dataset.dtype.kind not in "fiu" or dataset.external or dataset.is_virtual:
        raise _damaged(path, f"{dataset.name} is not a plain numeric array")
    if dataset.size * 8 > _MAX_BYTES:
        raise _damaged(path, f"{dataset.name} claims {dataset.size} numbers")
    value = np.asarray(dataset[()], dtype=np.float64)
    if not np.isfinite(value).all():
        raise _damaged(path, f"{dataset.name} holds numbers that are not finite")
    return value


def to_tree(
    posterior: Mapping[str, NDArray[np.float64]],
    constant: Mapping[str, tuple[tuple[str, ...], NDArray[Any]]],
    meta: Mapping[str, object],
    *,
    dtype: str = "float64",
    others: Mapping[str, Any] | None = None,
) -> Any:
    """Assemble the DataTree: posterior (name -> (chain, draw, ...)), constant data, extra groups, attributes."""
    import xarray as xr

    data = xr.Dataset(
        {name: (("chain", "draw", *DIMS[name]), value.astype(dtype)) for name, value in posterior.items()}
    )
    coords = {name: v for name, v in constant.items() if v[0] == (name,)}
    groups = {
        "posterior": data.assign_coords({k: v for k, v in coords.items() if k in data.dims}),
        "constant_data": xr.Dataset({k: v for k, v in constant.items() if k not in coords}, coords=coords),
    } | dict(others or {})
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {"format": FORMAT, "version": VERSION, "meta": json.dumps(meta, allow_nan=False)}
    return tree
