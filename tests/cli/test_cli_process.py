"""The process around an answer: imports, pipes, encodings, terminals, defects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import Command

from scaleband.cli.printing import print_table

CELL = ("--params", "1B", "--tokens", "20B")
KNOWN = (*CELL, "--source", "step-law", "--data", "web")
CODE = "import sys; from scaleband.cli import main; code = main(); {}; sys.exit(code)"


def test_a_recommendation_imports_nothing_slow(fit_file: Path) -> None:
    slow = [
        "arviz_base",
        "jax",
        "matplotlib",
        "pandas",
        "pyarrow",
        "pymc",
        "pytensor",
        "rich",
        "scipy",
        "xarray",
    ]
    code = CODE.format(f"print(*(set({slow!r}) & set(sys.modules)), file=sys.stderr)")
    for words in (("recommend", *KNOWN), ("regret", *KNOWN, "--lr", "1e-3", "--batch-tokens", "1M")):
        command = [sys.executable, "-c", code, words[0], "--fit", str(fit_file), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "", "import it inside the function that needs it"


def test_a_closed_pipe_is_silent(fit_file: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", CODE.format("0"), "recommend", "--fit", str(fit_file), *KNOWN, "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_streams_are_no_defect(fit_file: Path, runs_csv: Path) -> None:
    for words in (("recommend", "--fit", str(fit_file), *KNOWN), ("check", str(runs_csv), "--json")):
        command = [sys.executable, "-c", CODE.format("0"), *words]
        done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0
        assert "Traceback" not in done.stderr
        assert "defect" not in done.stderr
        assert subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *command]).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_no_defect(fit_file: Path, unbuffered: str) -> None:
    command = [sys.executable, "-c", CODE.format("0"), "recommend", "--fit", str(fit_file), *KNOWN]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    says = "error: the answer cannot be written (No space left on device); free some space, or send it elsewhere\n"
    assert (done.returncode, done.stderr) == (1, says)


def test_an_ascii_terminal(tmp_path: Path, fit_file: Path) -> None:
    command = [
        sys.executable,
        "-c",
        CODE.format("0"),
        "recommend",
        "--fit",
        str(fit_file),
        *CELL,
        "--source",
        "wéb",
    ]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert "w\\xe9b" in done.stdout


def test_a_defect_is_one_sentence(
    scaleband: Command, fit_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("scaleband.cli.recommend.recommend", broken)
    done = scaleband("recommend", "--fit", fit_file, *KNOWN)
    assert (done.code, done.out) == (1, "")
    assert "please report it" in done.err
    monkeypatch.setenv("SCALEBAND_DEBUG", "1")
    with pytest.raises(ZeroDivisionError, match="by zero"):
        scaleband("recommend", "--fit", fit_file, *KNOWN)


def test_on_a_terminal_it_is_a_table(
    scaleband: Command, fit_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    done = scaleband("recommend", "--fit", fit_file, *KNOWN)
    assert "recommended" in done.out
    assert "name" in scaleband("data", "list").out


@pytest.mark.parametrize(("columns", "lines"), [("200", True), ("60", True), ("30", False)])
def test_a_tables_ids_stay_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str, lines: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    print_table(["run_id", "batch", "note"], [["sb-02301887b95d", "131,072", "words " * 20], ["b", "64", ""]])
    said = capsys.readouterr().out
    assert "sb-02301887b95d" in said
    assert "131,072" in said
    assert said.count("words") == 20
    assert ("│" in said) is lines
