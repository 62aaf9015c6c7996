# ruff: noqa: E501 (a table of cases reads best one a line)
"""Fits that must be refused with a sentence: ``(name, builder(good fit, folder) -> path, regex of what is said)``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Builder = Callable[[Path, Path], Path]

REMEDY = r".*: fit again with `scaleband fit"


def content(data: bytes, name: str = "bad.nc") -> Builder:
    """These bytes."""

    def build(good: Path, folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return build


def cut(share: float) -> Builder:
    """The first part of a good fit."""

    def build(good: Path, folder: Path) -> Path:
        data = good.read_bytes()
        (folder / "bad.nc").write_bytes(data[: int(share * len(data))])
        return folder / "bad.nc"

    return build


def edited(edit: Callable[[h5py.File], None]) -> Builder:
    """A good fit after `edit`."""

    def build(good: Path, folder: Path) -> Path:
        path = folder / "bad.nc"
        shutil.copyfile(good, path)
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return build


def without(name: str) -> Builder:
    """A group or variable left out."""
    return edited(lambda file: file.__delitem__(name))


def replaced(name: str, value: Any, **options: Any) -> Builder:
    """A variable with other content."""

    def edit(file: h5py.File) -> None:
        old = file[name][()]
        del file[name]
        file.create_dataset(name, data=value(old) if callable(value) else value, **options)

    return edited(edit)


def spoiled(name: str, value: float) -> Builder:
    """One number of a variable replaced."""

    def spoil(old: np.ndarray) -> np.ndarray:
        old.flat[old.size // 2] = value
        return old

    return replaced(name, spoil)


def attribute(name: str, value: Any) -> Builder:
    """A root attribute with another value; None leaves it out."""

    def edit(file: h5py.File) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return edited(edit)


def facts(change: Callable[[dict[str, Any]], object]) -> Builder:
    """Other facts in `meta`."""

    def edit(file: h5py.File) -> None:
        meta = json.loads(file.attrs["meta"])
        change(meta)
        file.attrs["meta"] = json.dumps(meta)

    return edited(edit)


def link(name: str, target: Any) -> Builder:
    """A member replaced by a link."""

    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return edited(edit)


def external_storage(file: h5py.File) -> None:
    """A variable whose bytes lie in another file."""
    shape = file["posterior/rho"].shape
    del file["posterior/rho"]
    file["posterior"].create_dataset(
        "rho", shape=shape, dtype="f8", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    )


def virtual(file: h5py.File) -> None:
    """A variable that is a view into another file."""
    shape = file["posterior/rho"].shape
    del file["posterior/rho"]
    layout = h5py.VirtualLayout(shape=shape, dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.nc", "rho", shape=shape)
    file["posterior"].create_virtual_dataset("rho", layout)


def references(file: h5py.File) -> None:
    """A variable of references into the file."""
    del file["posterior/rho"]
    values = np.full((2, 100), file["posterior"].ref, dtype=h5py.ref_dtype)
    file["posterior"].create_dataset("rho", data=values, dtype=h5py.ref_dtype)


def bomb(file: h5py.File) -> None:
    """A few kB that claim 80 GB."""
    del file["posterior/rho"]
    file["posterior"].create_dataset(
        "rho", shape=(100_000, 100_000), dtype="f8", chunks=(1000, 1000), compression=9
    )


def foreign(good: Path, folder: Path) -> Path:
    """Somebody else's NetCDF."""
    with h5py.File(folder / "bad.nc", "w") as file:
        file["temperature"] = np.arange(10.0)
    return folder / "bad.nc"


def zero_draws(file: h5py.File) -> None:
    """No draw at all."""
    for name in list(file["posterior"]):
        old = file["posterior"][name]
        if old.ndim >= 2:
            shape, kind = (old.shape[0], 0, *old.shape[2:]), old.dtype
            del file["posterior"][name]
            file["posterior"].create_dataset(name, shape=shape, dtype=kind)


def directory(good: Path, folder: Path) -> Path:
    """A directory where a file should be."""
    (folder / "bad.nc").mkdir()
    return folder / "bad.nc"


def loop(good: Path, folder: Path) -> Path:
    """A symbolic link to itself."""
    (folder / "bad.nc").symlink_to(folder / "bad.nc")
    return folder / "bad.nc"


def pipe(good: Path, folder: Path) -> Path:
    """A named pipe: reading it would wait for ever."""
    os.mkfifo(folder / "bad.nc")
    return folder / "bad.nc"


DAMAGED = rf"bad\.nc: .*{REMEDY}"

MALFORMED_FITS: list[tuple[str, Builder, str]] = [
    ("no such file", lambda good, folder: folder / "bad.nc", r"bad\.nc: no such file; .*makes one"),
    ("directory", directory, r"bad\.nc: this is a directory; give the \.nc file"),
    ("link to itself", loop, r"bad\.nc: no such file; .*makes one"),
    ("named pipe", pipe, r"bad\.nc: no such file; .*makes one"),
    ("name too long", lambda good, folder: folder / ("x" * 300), r"File name too long; check the path"),
    ("empty file", content(b""), rf"bad\.nc: it is empty.*{REMEDY}"),
    ("text file", content(b"n_params,loss\n1,2\n"), rf"bad\.nc: it is not a NetCDF 4 file{REMEDY}"),
    ("NetCDF 3", content(b"CDF\x01" + bytes(64)), rf"bad\.nc: it is not a NetCDF 4 file{REMEDY}"),
    ("pickle", content(b"\x80\x04\x95" + bytes(64)), rf"bad\.nc: it is not a NetCDF 4 file{REMEDY}"),
    ("signature alone", content(b"\x89HDF\r\n\x1a\n"), DAMAGED),
    ("signature and noise", content(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 20), DAMAGED),
    ("foreign NetCDF", foreign, rf"bad\.nc: its format is not scaleband-fit{REMEDY}"),
    *((f"first {share:.0%}", cut(share), DAMAGED) for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)),
    ("no posterior", without("posterior"), rf"bad\.nc: /posterior is missing{REMEDY}"),
    ("no constants", without("constant_data"), rf"bad\.nc: /constant_data is missing{REMEDY}"),
    ("no law", without("posterior/law"), rf"bad\.nc: /posterior/law is missing{REMEDY}"),
    ("no cells", without("constant_data/cell_n_params"), rf"cell_n_params is missing{REMEDY}"),
    ("posterior is a variable", link("posterior", np.arange(3.0)), DAMAGED),
    ("law is a group", edited(lambda f: (f.__delitem__("posterior/law"), f.create_group("posterior/law"))), DAMAGED),
    ("wrong dims", replaced("posterior/law", lambda v: v[..., 0]), rf"posterior/law has shape \(2, 100, \d+\){REMEDY}"),
    ("other cells", replaced("posterior/state", lambda v: v[..., :3]), rf"posterior/state has shape{REMEDY}"),
    ("fewer draws", replaced("posterior/rho", lambda v: v[:, :50]), rf"differ in their number of draws{REMEDY}"),
    ("scalar", replaced("posterior/rho", 1.0), rf"posterior/rho has shape{REMEDY}"),
    ("zero draws", edited(zero_draws), rf"bad\.nc: posterior/\w+ has shape{REMEDY}"),
    ("NaN draws", spoiled("posterior/law", np.nan), rf"holds numbers that are not finite{REMEDY}"),
    ("infinite draws", spoiled("posterior/state", np.inf), rf"holds numbers that are not finite{REMEDY}"),
    ("absurd draws", spoiled("posterior/state", 1e300), rf"posterior/state holds values that cannot be{REMEDY}"),
    ("negative noise", spoiled("posterior/sigma", -1.0), rf"posterior/sigma holds values that cannot be{REMEDY}"),
    ("zero parameters", spoiled("constant_data/cell_n_params", 0.0), rf"sizes that are not positive{REMEDY}"),
    ("text draws", replaced("posterior/rho", np.full((2, 100), b"x")), rf"not a plain array of numbers{REMEDY}"),
    ("complex draws", replaced("posterior/rho", lambda v: v * 1j), rf"not a plain array of numbers{REMEDY}"),
    ("numbers as names", replaced("constant_data/cell_arch", np.arange(7.0)), rf"not a plain array of text{REMEDY}"),
    ("bytes that are no text", replaced("constant_data/cell_arch", np.full(7, b"\xff\xfe")), DAMAGED),
    ("other responses", replaced("constant_data/response", lambda v: v[::-1]), rf"its responses are not those{REMEDY}"),
    ("other columns", replaced("constant_data/coefficient", np.full(30, b"n")), DAMAGED),
    ("references", edited(references), rf"not a plain array of numbers{REMEDY}"),
    ("external storage", edited(external_storage), rf"not a plain array of numbers{REMEDY}"),
    ("virtual", edited(virtual), rf"not a plain array of numbers{REMEDY}"),
    ("a bomb", edited(bomb), DAMAGED),
    ("external link", link("posterior", h5py.ExternalLink("elsewhere.nc", "/posterior")), rf"missing, or a link{REMEDY}"),
    ("soft link", link("posterior", h5py.SoftLink("/posterior")), rf"missing, or a link{REMEDY}"),
    ("future version", attribute("version", 99), r"bad\.nc: written by a newer scaleband \(format 99.*upgrade"),
    ("version zero", attribute("version", 0), rf"its format version is 0{REMEDY}"),
    ("version of text", attribute("version", "one"), DAMAGED),
    ("version NaN", attribute("version", np.nan), DAMAGED),
    ("version infinite", attribute("version", np.inf), DAMAGED),
    ("version empty", attribute("version", h5py.Empty("f8")), DAMAGED),
    ("version of nothing", attribute("version", np.zeros(0)), DAMAGED),
    ("no version", attribute("version", None), DAMAGED),
    ("format a number", attribute("format", 3.0), rf"its format is not scaleband-fit{REMEDY}"),
    ("format an array", attribute("format", np.arange(6).reshape(2, 3)), rf"its format is not scaleband-fit{REMEDY}"),
    ("no facts", attribute("meta", None), DAMAGED),
    ("facts no JSON", attribute("meta", "{gate: yes"), DAMAGED),
    ("facts a list", attribute("meta", "[1, 2]"), rf"its facts are not a JSON object{REMEDY}"),
    ("facts too deep", attribute("meta", "[" * 50_000), DAMAGED),
    ("facts with a huge number", attribute("meta", '{"n_runs": ' + "9" * 5000 + "}"), DAMAGED),
    ("facts a number", attribute("meta", 3.0), DAMAGED),
    ("no gate", facts(lambda m: m.pop("gate")), rf"no mark of the diagnostic gate{REMEDY}"),
    ("gate a word", facts(lambda m: m.update(gate="passed")), rf"no mark of the diagnostic gate{REMEDY}"),
    ("gate of words", facts(lambda m: m["gate"].update(passed="yes")), rf"no mark of the diagnostic gate{REMEDY}"),
    ("no conventions", facts(lambda m: m.pop("conventions")), rf"does not state the conventions{REMEDY}"),
    ("odd conventions", facts(lambda m: m.update(conventions={"a/b/c": [1]})), rf"does not state the conv.*{REMEDY}"),
]  # fmt: skip
