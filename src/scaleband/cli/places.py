"""Files that a command writes: refused early, written beside their place and renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from scaleband.errors import UserError
from scaleband.whole import whole


def check_output(out: Path, flag: str, *, inputs: Iterable[Path] = ()) -> None:
    """Refuse a place that cannot be written, before any work is done.

    Raises
    ------
    UserError
        No such folder, a folder that cannot be written, a directory, or one of the command's own inputs.
    """
    try:
        if out.is_dir():
            raise UserError(f"{out}: this is a directory; name a file for {flag}")
        if not out.parent.is_dir():
            raise UserError(
                f"{out}: the folder {out.parent} does not exist; make it, or choose another {flag}"
            )
        if out.exists() and not out.is_file():
            raise UserError(f"{out}: this is not a regular file; choose another {flag}")
        for given in inputs:
            if given.exists() and out.exists() and out.samefile(given):
                raise UserError(f"{out}: {flag} would overwrite what is read; choose another name")
        # What the system says counts, not the permission bits: a full or read-only disk is found here too.
        handle, temporary = tempfile.mkstemp(prefix=".scaleband-", dir=out.parent)
        os.close(handle)
        os.unlink(temporary)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(f"{out}: cannot be written ({why}); choose another {flag}") from None


def write_whole(out: Path, flag: str, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `out`, then rename it: `out` is whole or untouched.

    Raises
    ------
    UserError
        The disk is full, or the place cannot be written after all.
    """
    try:
        with whole(out) as part:
            write(part)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise UserError(
            f"{out}: cannot be written ({why}); free some space, or choose another {flag}"
        ) from None
