"""The one exception that a user's mistake raises."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used.

    Each problem is one plain sentence that names the place, the value and the remedy. The command line
    prints them, one a line, and exits 1; in Python the message holds them all.

    Parameters
    ----------
    problems
        One sentence, or several: everything that is wrong, not only the first thing.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))
