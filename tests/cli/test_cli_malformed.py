# ruff: noqa: E501 (a table of cases reads best one a line)
"""Bad artefacts: exit 1, one sentence with the name and the remedy, no traceback, nothing half-written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import Command, Done
from malformed import MALFORMED, options
from malformed import Builder as TableBuilder
from malformed_fits import MALFORMED_FITS, Builder

CELL = ("--params", "1B", "--tokens", "20B")
HEADER = "source,arch,data,n_params,n_tokens,lr_peak,batch_tokens\n"


def assert_refused(done: Done, says: str) -> None:
    assert done.code == 1
    assert re.search(says, done.err), done.err
    assert "Traceback" not in done.err
    assert "did not expect" not in done.err
    for line in done.err.splitlines():
        assert re.match(r"(error|warning|note): [^\n]+: [^\n]+", line), line


@pytest.mark.parametrize(("name", "build", "says"), MALFORMED_FITS, ids=[case[0] for case in MALFORMED_FITS])
def test_bad_fits(
    name: str, build: Builder, says: str, scaleband: Command, fit_file: Path, tmp_path: Path
) -> None:
    path = build(fit_file, tmp_path)
    done = scaleband("recommend", "--fit", path, *CELL, "--json")
    assert_refused(done, says)
    assert done.out == ""


def test_there_are_many_bad_fits() -> None:
    assert len({name for name, _, _ in MALFORMED_FITS}) == len(MALFORMED_FITS) >= 50


@pytest.mark.parametrize("verb", ["regret", "predict", "fit"])
def test_every_verb_refuses_a_bad_fit(verb: str, scaleband: Command, runs_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nc").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "points.csv").write_text("n_params,n_tokens\n1e9,2e10\n")
    out = tmp_path / "out"
    words = {
        "regret": ("--fit", tmp_path / "bad.nc", *CELL, "--lr", "1e-3", "--batch-tokens", "1M"),
        "predict": ("--fit", tmp_path / "bad.nc", "--points", tmp_path / "points.csv", "--out", out),
        "fit": (runs_csv, "--prior", tmp_path / "bad.nc", "--out", out),
    }[verb]
    assert_refused(scaleband(verb, *words), r"bad\.nc: .*; it is not a fit that scaleband wrote")
    assert not out.exists()


@pytest.mark.parametrize(("name", "build", "says"), MALFORMED, ids=[case[0] for case in MALFORMED])
def test_bad_tables(
    name: str,
    build: TableBuilder,
    says: str,
    scaleband: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = build(tmp_path)
    mapping = options(name, tmp_path).get("mapping")
    words = [*paths, *(("--map", mapping) if mapping else ())]
    done = scaleband("check", *words)
    assert_refused(done, says)
    assert done.out == ""

    before = sorted(tmp_path.iterdir())
    assert_refused(scaleband("fit", *words, "--out", tmp_path / "fit.nc"), says)
    assert sorted(tmp_path.iterdir()) == before


POINTS: list[tuple[str, bytes | str, str]] = [
    ("empty", "", r"points\.csv: the file is empty; it needs"),
    ("header only", HEADER, r"points\.csv: the table has no rows; add"),
    ("no tokens", "n_params,source\n1e9,a\n", r"points\.csv: there is no column n_tokens; add it"),
    ("misspelt", "n_params,n_token\n1e9,2\n", r"no column n_tokens; add it \(rename \"n_token\"\?\)"),
    ("suffix", "n_params,n_tokens\n1B,2e10\n", r"points\.csv row 1: n_params = '1B' is not a number; .*1e9"),
    ("negative", "n_params,n_tokens\n1e9,2e10\n-1e9,2e10\n", r"points\.csv row 2: n_params = -1000000000 is outside 10000 to 1e\+15; write"),
    ("billions", "n_params,n_tokens\n7,140\n", r"row 1: n_params = 7 is outside 10000 to 1e\+15; write parameters, not billions"),
    ("infinite", "n_params,n_tokens\ninf,2e10\n", r"row 1: n_params = inf is outside 10000 to 1e\+15; write"),
    ("missing", "n_params,n_tokens\n1e9,\n", r"row 1: n_tokens is missing \(empty or NaN\); give it"),
    ("half a setting", HEADER + "a,dense,b,1e9,2e10,1e-3,\n", r"row 1: batch_tokens is missing and lr_peak is given; give"),
    ("batch above tokens", HEADER + "a,dense,b,1e9,2e10,1e-3,3e10\n", r"row 1: batch_tokens = 3[0e+]+1?0* is larger.*; batch"),
    ("zero rate", HEADER + "a,dense,b,1e9,2e10,0,1e6\n", r"row 1: lr_peak = 0 is outside 1e-12 to 1000; write the peak rate"),
    ("slash", HEADER + "a/b,dense,b,1e9,2e10,,\n", r"row 1: source = 'a/b' contains '/'; .*three columns"),
    ("active above total", "n_params,n_active,n_tokens\n1e9,2e9,2e10\n", r"row 1: n_active = 2[0e+]+9? is larger.*; n_params"),
    ("sparse dense", "n_params,n_active,n_tokens\n2e9,1e9,2e10\n", r"row 1: n_active = 1[0e+]+9? is smaller.*; give arch, moe"),
    ("ragged", "n_params,n_tokens\n1e9,2e10,3\n", r"row 1: it has 3 fields and the header has 2; quote"),
    ("control character", HEADER + "a\x07,dense,b,1e9,2e10,,\n", r"row 1: source = .* is not text on one line"),
    ("already predicted", "n_params,n_tokens,loss_median\n1e9,2e10,2\n", r"there is a column loss_median already.*; rename"),
    ("semicolons", "n_params;n_tokens\n1e9;2e10\n", r"separated by semicolons; separate them by commas"),
    ("Latin-1", b"n_params,n_tokens,data\n1e9,2e10,w\xe9b\n", r"not UTF-8 \(line 2.*; save the file as UTF-8"),
    ("PNG", b"\x89PNG\r\n\x1a\n" + bytes(64), r"this is a PNG picture, not a table; export"),
    ("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(64), r"this is an HDF5 or NetCDF file, not a table; export"),
    ("a fit for points", "FIT", r"points\.csv: this is an HDF5 or NetCDF file, not a table; export"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "says"), POINTS, ids=[case[0] for case in POINTS])
def test_bad_points(
    name: str, data: bytes | str, says: str, scaleband: Command, fit_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "points.csv"
    path.write_bytes(fit_file.read_bytes() if data == "FIT" else data if isinstance(data, bytes) else data.encode())
    before = sorted(tmp_path.iterdir())
    done = scaleband("predict", "--fit", fit_file, "--points", path, "--out", tmp_path / "out.csv")
    assert_refused(done, says)
    assert sorted(tmp_path.iterdir()) == before


def test_all_problems_of_the_points_at_once(scaleband: Command, fit_file: Path, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text(
        HEADER + "a,dense,b,x,2e10,,\na,dense,b,1e9,-1,,\na/c,dense,b,1e9,2e10,1,\n"
    )
    done = scaleband(
        "predict", "--fit", fit_file, "--points", tmp_path / "points.csv", "--out", tmp_path / "o.csv"
    )
    rows = [int(line.split("row ")[1].split(":")[0]) for line in done.err.splitlines()]
    assert sorted(rows) == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("nowhere/out.csv", r"the folder .*nowhere does not exist; make it"),
        (".", r"this is a directory; name a file for --out"),
        ("points.csv", r"--out would overwrite what is read; choose another name"),
        ("pipe", r"this is not a regular file; choose another --out"),
        ("x" * 300, r"File name too long"),
    ],
)
def test_bad_places_to_write(out: str, says: str, scaleband: Command, fit_file: Path, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    points = tmp_path / "points.csv"
    points.write_text("n_params,n_tokens\n1e9,2e10\n")
    done = scaleband("predict", "--fit", fit_file, "--points", points, "--out", tmp_path / out)
    assert_refused(done, says)
    assert points.read_text() == "n_params,n_tokens\n1e9,2e10\n"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".", "step\x1blaw", "x" * 5000])
def test_a_model_name_is_no_path(name: str, scaleband: Command) -> None:
    for words in (("models", "show", name), ("recommend", "--model", name, *CELL)):
        done = scaleband(*words)
        assert done.code == 1
        assert "error: no released model" in done.err
        assert "\x1b" not in done.err
        assert len(done.err) < 500


@pytest.mark.parametrize("name", ["empty file", "first 50%", "external storage"])
def test_in_a_process_of_its_own(name: str, fit_file: Path, tmp_path: Path) -> None:
    build = {case[0]: case[1] for case in MALFORMED_FITS}[name]
    code = "import sys; from scaleband.cli import main; sys.exit(main())"
    words = ["recommend", "--fit", str(build(fit_file, tmp_path)), *CELL]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
