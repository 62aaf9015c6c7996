"""Released models: the folders of `models/`, found by name."""

from __future__ import annotations

import os
from pathlib import Path

import scaleband
from scaleband.errors import UserError
from scaleband.nearest import nearest

POSTERIOR = "posterior.nc"
CARD = "card.md"


def models_folder() -> Path:
    """Where released models lie: inside the wheel, or the clone's `models/` for an editable install."""
    package = Path(scaleband.__file__).parent
    shipped = package / "_models"
    return shipped if shipped.is_dir() else package.parents[1] / "models"


def model_names() -> list[str]:
    """Names of the released models, sorted."""
    folder = models_folder()
    if not folder.is_dir():
        return []
    return sorted(f.name for f in folder.iterdir() if (f / POSTERIOR).is_file())


def _folder(name: str) -> Path:
    # Only names out of the list lead to a path, so a name with separators leads nowhere.
    names = model_names()
    if name in names:
        return models_folder() / name
    shown = name if name.isprintable() and len(name) <= 60 else repr(name[:60])
    if not names:
        raise UserError(
            f"no released model {shown!r}: none is installed; fit your own runs and give FIT.nc"
        )
    near = nearest(name, names)
    hint = f" (did you mean {near}?)" if near else ""
    raise UserError(
        f"no released model {shown!r}{hint}; choose one of {', '.join(names)}, or give a file of your own"
    )


def model_path(name: str) -> Path:
    """Path of a released posterior, for `inference.store.read_draws`.

    Raises
    ------
    UserError
        There is no model of that name; the message lists those there are.
    """
    return _folder(name) / POSTERIOR


def is_path(text: str) -> bool:
    """Whether a prior is named by its file, and not by a released model's name: that has neither ending nor folder."""
    return text.endswith(".nc") or "/" in text or os.sep in text


def prior_path(text: str) -> Path:
    """The file behind a prior: a path if it looks like one, else a released model's.

    Raises
    ------
    UserError
        No released model has this name.
    """
    return Path(text) if is_path(text) else model_path(text)


def model_card(name: str) -> str:
    """The model card, Markdown: what the model knows, from which runs, where it fails, how to refit it.

    Raises
    ------
    UserError
        There is no model of that name, or it has no card that can be read.
    """
    card = _folder(name) / CARD
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{card}: the model card cannot be read; install scaleband again") from None


def card_line(name: str) -> str:
    """The first sentence-like line of the card; '' where there is none."""
    try:
        lines = model_card(name).splitlines()
    except UserError:
        return ""
    text = (line.strip() for line in lines)
    return next((line for line in text if line and line[0].isalnum()), "")
