"""A name that is not known, and the known one that was probably meant: for every room's errors."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The known name that looks most like this one; "" where none is as much as `cutoff` (0 to 1) like it."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known; "" where no known one is near."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""
