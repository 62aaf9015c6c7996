"""Fits on disk: an `xarray.DataTree` in NetCDF with ArviZ's groups.

Version 1 of the format. Dims: chain, draw, cell, response, hyperparameter, coefficient, role, direction,
source, shared_parameter, run, trunk.

    posterior        angle, skew (direction); rho, nu; sigma and scatter_level (source);
                     scatter (response), of levels the geometric mean of the sources';
                     scatter_ratio (hyperparameter, source) where there are several sources;
                     offset_scale (hyperparameter, role); state (response, cell); law (response, coefficient);
                     shared (shared_parameter); trunk_scale and trunk_effect (trunk) where runs share trunks
    prior            the same names, draws of the stated beliefs (fits only)
    sample_stats     diverging, energy, n_steps, ... (fits only)
    log_likelihood   log_loss (run) (fits only)
    observed_data    log_loss (run): 100 log loss, censored runs at their threshold; censored (run)
    constant_data    the cells, the design's columns and roles, the cells' grids; source_trunked (source): 1 where a
                     source's runs share trunks
    root attributes  format, version, and `meta`: JSON with conventions, gate, name, ranges

Released models leave out the groups marked (fits only) and every run. Reading takes h5py and NumPy alone and
executes nothing from the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.inference.stored import (
    any_numbers,
    attribute,
    checked_meta,
    damaged,
    member,
    numbers,
    opened,
    texts,
)
from scaleband.laws import FEATURES, RESPONSES, ROLES, Cells, Design, LawDraws
from scaleband.whole import whole

FORMAT = "scaleband-fit"
VERSION = 1

DIMS: dict[str, tuple[str, ...]] = {
    "angle": ("direction",),
    "skew": ("direction",),
    "rho": (),
    "nu": (),
    "sigma": ("source",),
    "scatter": ("response",),
    "scatter_level": ("source",),
    "scatter_ratio": ("hyperparameter", "source"),
    "offset_scale": ("hyperparameter", "role"),
    "state": ("response", "cell"),
    "law": ("response", "coefficient"),
    "shared": ("shared_parameter",),
    "trunk_scale": (),
    "trunk_effect": ("trunk",),
}
"""Posterior variables and their dims after (chain, draw)."""

_NEEDED = ("angle", "skew", "rho", "nu", "sigma", "scatter", "offset_scale", "state", "law", "shared")

# Beyond these the answers would overflow, and no runs lead there. Elsewhere 1e4 either way.
_RANGE = {
    "sigma": (0.0, 1e4),
    "scatter": (0.0, 1e4),
    "scatter_level": (0.0, 1e4),
    "scatter_ratio": (0.0, 1e4),
    "offset_scale": (0.0, 1e4),
    "trunk_scale": (0.0, 1e4),
    "rho": (0.0, 1e4),
    "nu": (1e-3, 1e8),
}


def write_netcdf(tree: Any, path: Path) -> None:
    """Write a DataTree to `path`, whole or not at all.

    Raises
    ------
    UserError
        Its folder does not exist.
    OSError
        The place cannot be written.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; make it, or choose another --out")
    encoding = {
        node.path: {
            name: {"zlib": True, "complevel": 4, "shuffle": True}
            for name, v in node.dataset.data_vars.items()
            if v.dtype.kind == "f" and v.size > 1000
        }
        for node in tree.subtree
    }
    with whole(path) as part:
        tree.to_netcdf(part, engine="h5netcdf", encoding=encoding)


def read_draws(path: str | Path) -> LawDraws:
    """Load a fit or a released model as draws, chains stacked.

    Raises
    ------
    UserError
        The file is missing, not NetCDF/HDF5, truncated, written by a newer version, or holds arrays whose
        names, dims or values are not those of the format.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: this is a directory; give the .nc file in it")
        if not path.is_file():
            raise UserError(f"{path}: no such file; `scaleband fit RUNS --out FIT.nc` makes one")
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be opened'}; check the path and its permissions") from None
    if head != b"\x89HDF\r\n\x1a\n":
        raise damaged(path, "it is not a NetCDF 4 file" if head else "it is empty")
    with opened(path) as file:
        return _read(file, path)


def _read(file: Any, path: Path) -> LawDraws:
    if "loss" in file and "posterior" not in file:
        raise UserError(
            f"{path}: this fit holds loss laws alone and knows no rate or batch; ask it with allocate, compare or "
            "predict, or fit a table with rates"
        )
    form = file.attrs.get("format")
    if not isinstance(form, str) or form != FORMAT:
        raise damaged(path, f"its format is not {FORMAT}")
    version = int(attribute(file, "version"))
    if version > VERSION:
        raise UserError(
            f"{path}: written by a newer scaleband (format {version}, this one reads {VERSION}); upgrade scaleband"
        )
    if version < 1:
        raise damaged(path, f"its format version is {version}")
    meta = checked_meta(json.loads(attribute(file, "meta")), path)

    constant, posterior = member(file, "constant_data", path), member(file, "posterior", path)
    design, cells = _design(constant, path), _cells(constant, path)
    sources = texts(constant, "source", path)
    if texts(constant, "response", path) != RESPONSES:
        raise damaged(path, "its responses are not those of the format")
    sizes = {
        "direction": 2,
        "source": len(sources),
        "response": len(RESPONSES),
        "hyperparameter": 2,
        "role": len(ROLES) - 1,
        "cell": len(cells),
        "coefficient": len(design.columns),
    }
    values = {name: _draws(posterior, name, sizes, path) for name in _NEEDED}
    # Fits of one source have no ratio; those of several from before 2026-11-28 neither, and from before 2026-11-26 no
    # scatter of a source's levels. Without trunks there is no scale of their errors.
    for name in ("scatter_level", "scatter_ratio", "trunk_scale"):
        if name in posterior:
            values[name] = _draws(posterior, name, sizes, path)
    if len({len(v) for v in values.values()}) != 1:
        raise damaged(path, "its variables differ in their number of draws")
    fixed = numbers(constant, "fixed_offset_scale", path, (len(RESPONSES), len(ROLES) - 1))
    trunked = _trunked(constant, sources, meta, path) if "trunk_scale" in values else ()
    return LawDraws.of(
        values, fixed, design=design, cells=cells, sources=sources, meta=meta | {"path": str(path)}, trunked=trunked,
        grid=_grid(constant, len(cells), path),
    )  # fmt: skip


def _grid(constant: Any, n_cells: int, path: Path) -> NDArray[np.float64] | None:
    """Ends of the cells' grids, of a file that has them."""
    if "cell_grid" not in constant:
        return None
    grid = any_numbers(constant, "cell_grid", path)
    if grid.shape != (4, n_cells):
        raise damaged(path, f"constant_data/cell_grid has shape {grid.shape}")
    return grid


def _trunked(constant: Any, sources: tuple[str, ...], meta: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Sources whose runs share trunks, of a file that knows a scale of their errors."""
    if "source_trunked" in constant:
        said = numbers(constant, "source_trunked", path, (len(sources),))
        return tuple(s for s, v in zip(sources, said, strict=True) if v)
    # Files from before 2026-12-01 do not say. One source needs no word; of several, those whose schedule names a trunk.
    stated = {g.split("/")[0] for g, v in meta["conventions"].items() if "trunk" in v.get("schedule", "").lower()}
    return tuple(s for s in sources if len(sources) == 1 or s in stated)


def _design(constant: Any, path: Path) -> Design:
    design = Design(texts(constant, "coefficient", path), texts(constant, "coefficient_role", path))
    if (
        design.columns[: len(FEATURES)] != FEATURES
        or len(design.roles) != len(design.columns)
        or not set(design.roles) <= set(ROLES)
    ):
        raise damaged(path, "the columns of its law are not those of the format")
    return design


def _cells(constant: Any, path: Path) -> Cells:
    source = texts(constant, "cell_source", path)
    shape = (len(source),)
    cells = Cells(
        source=source,
        arch=texts(constant, "cell_arch", path),
        data=texts(constant, "cell_data", path),
        n_params=numbers(constant, "cell_n_params", path, shape),
        n_active=numbers(constant, "cell_n_active", path, shape),
        n_tokens=numbers(constant, "cell_n_tokens", path, shape),
    )
    if not source or {len(cells.arch), len(cells.data)} != {len(source)}:
        raise damaged(path, "its cells are incomplete")
    if min(cells.n_params.min(), cells.n_active.min(), cells.n_tokens.min()) <= 0:
        raise damaged(path, "its cells hold sizes that are not positive")
    return cells


def _draws(posterior: Any, name: str, sizes: Mapping[str, int], path: Path) -> NDArray[np.float64]:
    """One posterior variable, chains stacked, its dims and its range checked."""
    dims = DIMS[name]
    shape = tuple(getattr(member(posterior, name, path), "shape", ()))
    expected = tuple(sizes.get(dim, shape[k + 2] if len(shape) == len(dims) + 2 else 0) for k, dim in enumerate(dims))
    if len(shape) != 2 + len(dims) or shape[2:] != expected or 0 in shape:
        raise damaged(path, f"posterior/{name} has shape {shape}")
    value = numbers(posterior, name, path, shape)
    low, high = _RANGE.get(name, (-1e4, 1e4))
    if value.min() < low or value.max() > high:
        raise damaged(path, f"posterior/{name} holds values that cannot be")
    return value.reshape(-1, *shape[2:])


def shortened(value: NDArray[np.float64]) -> NDArray[np.float32]:
    """As float32 of 16 significant bits (8e-6 of the value): a quarter of what is written compresses to nothing."""
    bits = value.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x80)) & np.uint32(0xFFFFFF00)).view(np.float32)


def to_tree(
    posterior: Mapping[str, NDArray[np.float64]],
    constant: Mapping[str, tuple[tuple[str, ...], NDArray[Any]]],
    meta: Mapping[str, object],
    *,
    short: bool = False,
    others: Mapping[str, Any] | None = None,
) -> Any:
    """Assemble the DataTree: posterior (name -> (chain, draw, ...)), constant data, extra groups, attributes.

    `short` keeps `shortened` draws, for models that are shipped.
    """
    import xarray as xr

    kept = {name: shortened(value) if short else value for name, value in posterior.items()}
    data = xr.Dataset({name: (("chain", "draw", *DIMS[name]), value) for name, value in kept.items()})
    coords = {name: v for name, v in constant.items() if v[0] == (name,)}
    groups = {
        "posterior": data.assign_coords({k: v for k, v in coords.items() if k in data.dims}),
        "constant_data": xr.Dataset({k: v for k, v in constant.items() if k not in coords}, coords=coords),
    } | dict(others or {})
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {"format": FORMAT, "version": VERSION, "meta": json.dumps(meta, allow_nan=False)}
    return tree
