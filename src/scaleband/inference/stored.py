"""Reading parts of a file that anybody may have written: nothing is followed, executed or believed unseen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.errors import UserError

MAX_BYTES = 2**30

UNREADABLE = (
    OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError, MemoryError
)  # fmt: skip
"""What h5py raises of files that are not what they seem."""


def damaged(path: Path, what: str) -> UserError:
    """The error of a file that no scaleband wrote."""
    return UserError(
        f"{path}: {what}; it is not a fit that scaleband wrote, or it or its loss laws are damaged: fit again with "
        "`scaleband fit RUNS --out FIT.nc`"
    )


@contextmanager
def opened(path: Path, what: str = "it") -> Iterator[Any]:
    """An HDF5 file to read; what h5py raises of one that is not what it seems is one sentence about `what` is read.

    Raises
    ------
    UserError
        `what` cannot be read; or what the block raises.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except UNREADABLE as error:
        raise damaged(path, f"{what} cannot be read ({type(error).__name__})") from None


def attribute(node: Any, name: str) -> Any:
    """One attribute: NetCDF keeps a number as an array of one."""
    value = node.attrs[name]
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else value


def member(group: Any, name: str, path: Path) -> Any:
    """A member that lies in this file: a link could lead to another one, or in a circle."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise damaged(path, f"{group.name.rstrip('/')}/{name} is missing, or a link")
    return group[name]


def _plain(group: Any, name: str, path: Path, kinds: str) -> Any:
    """A dataset that holds its own values; objects, references and absurd sizes are refused, not followed."""
    dataset = member(group, name, path)
    if dataset.dtype.kind not in kinds or dataset.external or dataset.is_virtual:
        raise damaged(path, f"{dataset.name} is not a plain array of {'numbers' if kinds == 'fiu' else 'text'}")
    if dataset.size * 8 > MAX_BYTES:
        raise damaged(path, f"{dataset.name} claims {dataset.size} values")
    return dataset


def texts(group: Any, name: str, path: Path) -> tuple[str, ...]:
    """A list of texts."""
    return tuple(str(v) for v in _plain(group, name, path, "OS").asstr()[()])


def numbers(group: Any, name: str, path: Path, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A numeric array of this shape as float64, every number finite."""
    value = any_numbers(group, name, path)
    if value.shape != shape:
        raise damaged(path, f"{group.name.rstrip('/')}/{name} has shape {value.shape}")
    if not np.isfinite(value).all():
        raise damaged(path, f"{group.name.rstrip('/')}/{name} holds numbers that are not finite")
    return value


def any_numbers(group: Any, name: str, path: Path) -> NDArray[np.float64]:
    """A numeric array as float64, of whatever shape; NaN may stand for what is not stated."""
    return np.asarray(_plain(group, name, path, "fiu")[()], dtype=np.float64)


def checked_meta(meta: Any, path: Path) -> dict[str, Any]:
    """The facts that every answer repeats must be there and of their kind."""
    if not isinstance(meta, dict):
        raise damaged(path, "its facts are not a JSON object")
    gate, stated = meta.get("gate"), meta.get("conventions")
    if (
        not isinstance(gate, dict)
        or not isinstance(gate.get("passed"), bool)
        or not isinstance(gate.get("messages"), list)
    ):
        raise damaged(path, "it has no mark of the diagnostic gate")
    if not isinstance(stated, dict) or not all(
        isinstance(group, dict) and all(isinstance(v, str) for v in group.values()) for group in stated.values()
    ):
        raise damaged(path, "it does not state the conventions of its runs")
    forms = meta.get("forms", {})
    if not isinstance(forms, dict) or not all(isinstance(w, int | float) and 0 <= w <= 1 for w in forms.values()):
        raise damaged(path, "the weights of its forms are not numbers from 0 to 1")
    used = [form for form, weight in forms.items() if weight]
    # Models released before 2026-12 say "stack" of one form that was tried among others.
    return meta | {"form": used[0]} if len(used) == 1 else meta
