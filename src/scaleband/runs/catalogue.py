"""Public run tables that can be fetched: where they are, what they are, and the checksum they must have.

No row of them is shipped: half of the sources state no licence. Users fetch them from upstream.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleband.errors import UserError
from scaleband.runs.problems import shown_value

#: Environment variables: where downloads are kept, and a folder to take files from instead of the network.
DATA_VARIABLE = "SCALEBAND_DATA"
MIRROR_VARIABLE = "SCALEBAND_MIRROR"

# The commit is pinned by its short hash, which github.com resolves (raw.githubusercontent.com wants all 40
# digits). The checksum is what protects the user: other bytes are refused, wherever they come from.
STEPLAW = "https://github.com/step-law/steplaw/raw/32a8f4c/data/"


@dataclass(frozen=True)
class DataSet:
    """One file that can be fetched.

    Parameters
    ----------
    name
        How it is asked for.
    file
        File name, in the cache and in a mirror.
    url
        Upstream, at a pinned commit.
    sha256
        Of the file.
    n_bytes
        Size of the file.
    licence
        What upstream states.
    what
        One line.
    reader
        What reads it.
    """

    name: str
    file: str
    url: str
    sha256: str
    n_bytes: int
    licence: str
    what: str
    reader: str


CATALOGUE: tuple[DataSet, ...] = (
    DataSet(
        name="steplaw-dense",
        file="steplaw_dense_lr_bs_loss.csv",
        url=STEPLAW + "dense_lr_bs_loss.csv",
        sha256="9e46181076c04d450294d75dfe6f72adc416e231e154a07b337e378f9410002c",
        n_bytes=344476,
        licence="none stated",
        what="1,911 dense runs in 17 cells, rate and batch swept (Li et al., arXiv:2503.04715)",
        reader="read_runs",
    ),
    DataSet(
        name="steplaw-moe",
        file="steplaw_moe_lr_bs_loss.csv",
        url=STEPLAW + "moe_lr_bs_loss.csv",
        sha256="653d585244a7b227423007e8b796bc16d76f6d24eb87b1919b8f048a91897b92",
        n_bytes=232920,
        licence="none stated",
        what="708 mixture-of-experts runs in 16 cells, rate and batch swept (Li et al., arXiv:2503.04715)",
        reader="read_runs",
    ),
    DataSet(
        name="steplaw-bootstrap",
        file="steplaw_1004_fitted_lr_bs_scaling_model_parameters.csv",
        url=STEPLAW + "1004_fitted_lr_bs_scaling_model_parameters.csv",
        sha256="2252afbba5530e6ba6167e8101bd2b9082a018a58cb5922cc8672891a7f4336c",
        n_bytes=97581,
        licence="none stated",
        what="1,000 bootstrap fits of the Step Law, upstream's own statement of uncertainty; not a run table",
        reader="pandas.read_csv",
    ),
)


def data_set(name: str) -> DataSet:
    """Look a data set up by its name.

    Raises
    ------
    UserError
        There is none of that name.
    """
    return named(name, CATALOGUE)


def named(name: str, entries: Sequence[DataSet]) -> DataSet:
    """The entry of that name. Raises UserError as `data_set`."""
    for entry in entries:
        if entry.name == name:
            return entry
    names = ", ".join(entry.name for entry in entries)
    raise UserError(f"there is no data set named {shown_value(name)!r}; choose one of {names}")


def placed(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `target`, then rename it: a broken one never stands under the real name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
        part = Path(temporary) / target.name
        write(part)
        os.replace(part, target)


def fetch(name: str, *, directory: str | Path | None = None, mirror: str | Path | None = None) -> Path:
    """Get a public data set, from the cache if it is there, else from a mirror or the network.

    Parameters
    ----------
    name
        A name of `CATALOGUE`.
    directory
        Where files are kept; else the environment variable SCALEBAND_DATA, else the user's cache folder.
    mirror
        A folder that holds the files, used instead of the network; else the environment variable
        SCALEBAND_MIRROR. Upstream's own file names are found there too.

    Returns
    -------
    Path of a file whose SHA-256 is the pinned one.

    Raises
    ------
    UserError
        Unknown name, no network, no such file in the mirror, a folder that cannot be written, or other bytes
        than the pinned ones: nothing is kept then.
    """
    import pooch

    entry = data_set(name)
    folder = Path(directory or os.environ.get(DATA_VARIABLE) or pooch.os_cache("scaleband"))
    target = folder / entry.file
    if target.is_file() and pooch.file_hash(str(target)) == entry.sha256:
        return target
    source = mirror or os.environ.get(MIRROR_VARIABLE)

    def write(part: Path) -> None:
        if source:
            shutil.copyfile(mirrored(entry, Path(source)), part)
        else:
            download(entry, part)
        check_bytes(entry, part)

    try:
        placed(target, write)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(
            f"{folder}: {why}; choose a folder that can be written, or set {DATA_VARIABLE}"
        ) from None
    return target


def mirrored(entry: DataSet, mirror: Path) -> Path:
    """The file of ``entry`` in a mirror folder, under our name or upstream's."""
    for file in (entry.file, entry.url.rsplit("/", 1)[1]):
        if (mirror / file).is_file():
            return mirror / file
    raise UserError(f"{mirror}: the mirror has no {entry.file}; copy it there, or name no mirror (--mirror, "
                    f"{MIRROR_VARIABLE})")


def download(entry: DataSet, part: Path) -> None:
    """Fetch ``entry`` over the network into ``part``."""
    import pooch

    try:
        # requests' own exceptions are OSErrors; the checksum is checked after, with a message of ours
        pooch.HTTPDownloader(timeout=60)(entry.url, str(part), None)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{entry.name}: {entry.url} cannot be downloaded ({shown_value(error, 100)}); check the network, "
            f"or put {entry.file} in a folder and name it with {MIRROR_VARIABLE}"
        ) from None


def check_bytes(entry: DataSet, part: Path) -> None:
    """Refuse a file that is not the pinned one."""
    import pooch

    found = pooch.file_hash(str(part))
    if found != entry.sha256:
        raise UserError(
            f"{entry.name}: the file has SHA-256 {found[:12]}..., not {entry.sha256[:12]}... "
            f"({part.stat().st_size:,} bytes, not {entry.n_bytes:,}); "
            "upstream or the mirror has changed it: get the pinned version, nothing was kept"
        )
