"""Figures without pyplot: saving, ticks, laziness."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import scaleband.plots
from scaleband.errors import UserError
from scaleband.plots import save
from scaleband.plots.canvas import log_ticks, new_figure, rate_label, span


def test_save_writes_every_format_whole_and_the_same_each_time(tmp_path: Path) -> None:
    for name, start in (("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")):
        written = []
        for _ in range(2):
            figure = new_figure(2, 2)
            figure.add_subplot().plot([1, 2])
            written.append(save(figure, tmp_path / name).read_bytes())
        assert written[0].startswith(start)
        assert written[0] == written[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.SVG", "a.pdf", "a.png"]


def test_save_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    figure = new_figure(1, 1)
    with pytest.raises(UserError, match="can be written as png, svg, pdf"):
        save(figure, tmp_path / "a.jpg")
    with pytest.raises(UserError, match="can be written as png, svg, pdf"):
        save(figure, tmp_path / "a")
    with pytest.raises(UserError, match="does not exist"):
        save(figure, tmp_path / "no" / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError, match="this is a folder"):
        save(figure, tmp_path / "b.png")
    assert [p.name for p in tmp_path.iterdir()] == ["b.png"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, path = new_figure(1, 1), tmp_path / "a.png"
    path.write_bytes(b"old")

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_notebook_shows_the_figure() -> None:
    assert new_figure(1, 1)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-4, 1e-2, [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]),
        (9e5, 3.1e6, [1e6, 1.5e6, 2e6, 3e6]),
        (3.3e-4, 8.2e-4, [4e-4, 5e-4, 6e-4, 7e-4, 8e-4]),
        (1e3, 1e9, [1e3, 1e5, 1e7, 1e9]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_labels_and_span() -> None:
    assert [rate_label(v) for v in (3e-4, 1.5e-3, 0.01, 2.394e-3)] == ["3e-4", "1.5e-3", "1e-2", "2.39e-3"]
    low, high = span([1.0, float("nan")], [100.0], margin=0.5)
    assert (low, high) == (pytest.approx(0.1), pytest.approx(1000))


def test_the_room_imports_matplotlib_on_first_use_and_never_pyplot() -> None:
    code = (
        "import sys, scaleband.plots as p; assert 'matplotlib' not in sys.modules; p.plot_basin, p.plot_law;"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_listed_and_a_wrong_one_is_refused() -> None:
    assert set(scaleband.plots.__all__) <= set(dir(scaleband.plots))
    assert set(scaleband.plots._HOME) == set(scaleband.plots.__all__)
    with pytest.raises(AttributeError, match="no attribute 'plot_nothing'"):
        scaleband.plots.plot_nothing  # noqa: B018
