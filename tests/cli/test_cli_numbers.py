"""Numbers and names as flags: what is understood, and what is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Command

from scaleband.cli.arguments import count
from scaleband.cli.words import mass, tokens
from scaleband.labels import counted, flops_label, percent, quantity

CELL = ("--params", "1B", "--tokens", "20B")
KNOWN = (*CELL, "--source", "step-law", "--data", "web")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1_000_000", 1e6),
        ("350M", 3.5e8),
        ("20B", 2e10),
        ("0.5T", 5e11),
        ("20b", 2e10),
        ("524288", 524288.0),
        ("4k", 4e3),
        (".5M", 5e5),
        ("1.07 B", 1.07e9),
        ("1.1e3M", 1.1e9),
    ],
)
def test_counts(text: str, value: float) -> None:
    assert count(text) == value


def test_a_batch_that_is_somebodys_setting_stands_in_full() -> None:
    assert [tokens(v) for v in (131072.0, 65536, 335321.7, 40.2)] == ["131,072", "65,536", "335,000", "40"]


def test_flop_and_counts_are_written_in_one_way() -> None:
    assert (flops_label(2.994e20), flops_label(2.994e20, 3)) == ("3e20", "2.99e20")
    assert [counted(n, "run") for n in (0, 1, 1546)] == ["0 runs", "1 run", "1,546 runs"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "1,000",
        "1e9x",
        "-1e9",
        "nan",
        "inf",
        "0x10",
        "1e999",
        "0",
        "1B2",
        "1e-400",
        "٣",
        "9" * 400,
        "1 2",
    ],
)
def test_no_counts(text: str, scaleband: Command, fit_file: Path) -> None:
    done = scaleband("recommend", "--fit", fit_file, f"--params={text}", "--tokens", "20B")
    assert (done.code, done.out) == (2, "")
    assert "write" in done.err


@pytest.mark.parametrize(
    ("flag", "text", "says"),
    [
        ("--params", "7", "write 7B for seven billion"),
        ("--tokens", "20", "write 20B for twenty billion"),
        ("--params", "1e300", "outside"),
        ("--interval", "90", "write 0.9 for 90 %"),
        ("--interval", "1", "write 0.9 for 90 %"),
        ("--source", "a/b", "without '/'"),
        ("--source", "", "is no name"),
        ("--data", "a\nb", "is no name"),
        ("--batch-max", "-1", "is not a count"),
        ("--lr-grid", "", "write 1 to 40 numbers"),
        ("--lr-grid", "1e-3,x", "not a learning rate"),
        ("--batch-grid", ",".join(["1M"] * 41), "write 1 to 40 numbers"),
        ("--fit", "", "name a file"),
        ("--params", "-1", "'-1' is not a count; write it like 1e9"),
        ("--params", "-1e9", "'-1e9' is not a count; write it like 1e9"),
        ("--params", "-7B", "'-7B' is not a count; write it like 1e9"),
        ("--tokens", "-.5T", "'-.5T' is not a count; write it like 1e9"),
        ("--lr-grid", "-1e-3", "not a learning rate"),
    ],
)
def test_nonsense_is_refused(flag: str, text: str, says: str, scaleband: Command, fit_file: Path) -> None:
    words = {"--fit": str(fit_file), "--params": "1B", "--tokens": "20B"} | {flag: text}
    pairs = [word for pair in words.items() for word in pair]
    done = scaleband("recommend", *pairs)
    assert done.code == 2
    assert says in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("units", "text"),
    [(0.0, "< 0.001 %"), (0.0163, "0.016 %"), (0.25, "0.25 %"), (3.0, "3 %"), (60.0, "82 %"), (155.0, "370 %"),
     (1.6e4, "over 900 %"), (float("inf"), "unknown")],
)  # fmt: skip
def test_a_regret_in_log_units_is_said_in_percent_of_the_loss(units: float, text: str) -> None:
    assert percent(units) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.9, "90 %"), (0.57, "57 %"), (0.07, "7 %"), (0.999, "99.9 %"), (0.999999, "99.9999 %")]
)
def test_a_mass_below_one_is_never_100_percent(value: float, text: str) -> None:
    assert mass(value) == text


@pytest.mark.parametrize(("value", "text"), [(1e15, "1,000T"), (1e18, "1,000,000T"), (999.6e12, "1,000T")])
def test_quantities_beyond_the_largest_unit(value: float, text: str) -> None:
    assert quantity(value) == text
