"""What every picture here shares: a figure without pyplot, colours, log axes that can be read, saving.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; whatever carries meaning also differs in
shape or dash, so that a grey print still tells.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from scaleband.errors import UserError
from scaleband.labels import quantity
from scaleband.whole import whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":")
INK, GREY = "#222222", "#777777"

FORMATS = ("png", "svg", "pdf")


class Picture(Figure):
    """A matplotlib Figure that a notebook shows by itself, although no pyplot and no global backend is used."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> Picture:
    """An empty figure, inches, that makes room for its labels."""
    return Picture(figsize=(width, height), layout="constrained")


def own_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or the one Axes of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def figure_of(ax: Axes) -> Figure:
    """The figure an Axes is drawn in."""
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)  # an Axes made by a figure has one
    return figure


def rate_label(value: float) -> str:
    """A learning rate for reading: 3e-4, 1.5e-3."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def in_percent(regret: ArrayLike) -> NDArray[np.float64]:
    """Regrets, 100 log units, as percent of the loss: what `labels.percent` writes, for an axis."""
    return 100 * np.expm1(np.asarray(regret, float) / 100)


def percent_label(value: float) -> str:
    """A percentage as short as it can be: 0.25, 10."""
    return f"{value:g}"


def title_lines(text: str, width: int = 72) -> str:
    """A title in lines of so many characters: names of teams and data may be long."""
    return fill(text, width)


def loss_label(kind: str) -> str:
    """The name of an axis of losses, in lines that fit beside it."""
    return "loss" if kind in ("", "not stated") else fill(f"loss ({kind})", 50)


_TICKS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    tuple(np.arange(10, 100, 2) / 10),
)


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between `low` and `high`: as many as are easy to read, at most `most`."""
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    choice: list[float] = []
    for subs in _TICKS:
        ticks = [float(f"{d * s:.3g}") for d in decades for s in subs if low <= d * s <= high]
        if choice and len(ticks) > most:
            break
        choice = ticks
    return choice[:: -(-len(choice) // most)] if len(choice) > most else choice


def _log_axis(axis: Axis, low: float, high: float, label: Callable[[float], str]) -> None:
    ticks = log_ticks(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([label(value) for value in ticks]))
    axis.set_minor_locator(LogLocator(base=10, subs=tuple(range(1, 10)), numticks=60))
    axis.set_minor_formatter(NullFormatter())


def log_x(ax: Axes, low: float, high: float, label: Callable[[float], str] = quantity) -> None:
    """Logarithmic x from `low` to `high`, ticks written by `label`."""
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    _log_axis(ax.xaxis, low, high, label)


def log_y(ax: Axes, low: float, high: float, label: Callable[[float], str] = quantity) -> None:
    """Logarithmic y from `low` to `high`, ticks written by `label`."""
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    _log_axis(ax.yaxis, low, high, label)


def span(*values: ArrayLike, margin: float = 0.06) -> tuple[float, float]:
    """Smallest and largest of positive values (NaN left out), widened by a share of their log range."""
    logs = np.log(np.concatenate([np.ravel(np.asarray(v, float)) for v in values]))
    low, high = float(np.nanmin(logs)), float(np.nanmax(logs))
    extra = max(margin * (high - low), 0.05)
    return float(np.exp(low - extra)), float(np.exp(high + extra))


def save(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure, whole or not at all.

    Parameters
    ----------
    figure
        Any matplotlib figure.
    path
        Ends in .png, .svg or .pdf.
    dpi
        Dots per inch of a PNG.

    Returns
    -------
    The path.

    Raises
    ------
    UserError
        Another ending, a folder that does not exist, or a path that is a folder.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"{path}: a picture can be written as {', '.join(FORMATS)}; end the name in .png, say")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; make it, or choose another")
    if path.is_dir():
        raise UserError(f"{path}: this is a folder; give a file name")
    # No dates and no random ids inside: the same picture gives the same bytes.
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with whole(path) as part, rc_context({"svg.hashsalt": "scaleband"}):
        figure.savefig(part, format=kind, dpi=dpi, metadata=undated)
    return path
