"""The command line is a contract: verbs, flags, JSON keys and exit codes that scripts rely on."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pytest
from command import Command

from scaleband.cli.program import VERBS, build_parser

FIT = {"--fit", "--model"}
TARGET = {"--params", "--tokens", "--source", "--arch", "--data", "--active-params"}
TABLES = {"--map", "--batch-in-sequences"}
PRICES = {"--device-flops", "--utilisation", "--overhead-hours", "--price-per-hour"}

FLAGS = {
    "check": TABLES | {"--json", "--loss", "--columns"},
    "fit": TABLES
    | {"--out", "--prior", "--trust", "--form", "--forms", "--draws", "--tune", "--chains", "--seed", "--quiet"}
    | {"--loss", "--laws", "--plot"},
    "recommend": FIT
    | TARGET
    | {"--batch-max", "--batch-tokens", "--lr-grid", "--batch-grid", "--interval", "--plot", "--json"},
    "regret": FIT | TARGET | {"--lr", "--batch-tokens", "--lr-range", "--interval", "--json"},
    "predict": FIT | {"--points", "--out", "--mean", "--interval"},
    "allocate": FIT
    | {"--flops", "--source", "--arch", "--data", "--params", "--tokens-max", "--unique-tokens"}
    | {"--reach", "--batch-tokens"}
    | {"--inference-tokens", "--sparsity", "--draws-out", "--interval", "--json"},
    "compare": FIT | {"--a", "--b", "--flops", "--sparsity-a", "--sparsity-b", "--interval", "--json"},
    "propose": FIT
    | TARGET
    | {"--budget", "--candidates", "-n", "--n", "--pending", "--target-runs", "--seed", "--plot", "--json"}
    | {"--sizes", "--lengths", "--run-max", "--batch-multiple", "--batch-max", "--device-memory"}
    | PRICES,
    "campaign": set(),
    "models": set(),
    "data": set(),
}

CAMPAIGN = {
    "init": TARGET
    | {"--budget", "--target-runs", "--candidates", "--sizes", "--lengths", "--run-max", "--batch-multiple"}
    | {"--batch-max", "--device-memory", "--runs", "--map", "--prior", "--trust", "--strategy", "--state"}
    | {"--retries", "--name", "--storage", "--draws", "--tune", "--chains", "--seed", "--json"}
    | PRICES,
    "join": {"--storage", "--name"},
    "ask": {"-n", "--n", "--past-stop", "--quiet", "--json"},
    "tell": {"--diverged", "--failed", "--give-back", "--loss-se", "--flops", "--unit", "--loss-kind"}
    | {"--reason", "--sure", "--json"},
    "status": {"--fill", "--runs-out", "--plot", "--quiet", "--interval", "--json"},
    "run": {"--workers", "--gpus", "--threads", "--wall-seconds", "--past-stop", "--quiet", "--json"}
    | {"--synthetic", "--command", "--trainer", "--device", "--precision", "--compile", "--seq-len"}
    | {"--micro-tokens", "--validation-sequences", "--engine", "--gpus-per-run", "--address", "--partition"}
    | {"--job-minutes", "--slurm"},
}

CELL = ("--params", "1B", "--tokens", "20B")
KNOWN = (*CELL, "--source", "step-law", "--data", "web")
BAND = {"median", "lower", "upper"}
COMMON = {
    "group", "target", "extrapolation", "conventions", "gate", "model", "interval", "interval_kind", "regret_unit",
}  # fmt: skip


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the verbs."""
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    return {s for a in parser._actions for s in a.option_strings} - {"-h", "--help"}


def test_verbs_and_flags() -> None:
    parsers = subparsers(build_parser())
    assert {name: flags_of(parser) for name, parser in parsers.items()} == FLAGS
    assert [verb.name for verb in VERBS] == list(FLAGS)
    parts = subparsers(parsers["campaign"])
    assert {name: flags_of(parser) for name, parser in parts.items()} == CAMPAIGN
    assert set(subparsers(parsers["models"])) == {"list", "show"}
    assert set(subparsers(parsers["data"])) == {"list", "fetch"}
    assert flags_of(subparsers(parsers["data"])["fetch"]) == {"--dir", "--mirror", "--json"}


def test_every_flag_has_a_line_of_help() -> None:
    for name, parser in subparsers(build_parser()).items():
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), f"{name} {action.dest}"
        assert parser.format_help().isascii()


def test_the_unit_of_regrets_stands_in_the_json_and_in_the_help(scaleband: Command, fit_file: Path) -> None:
    setting = ("--lr", "1.5e-2", "--batch-tokens", "524288")
    answer = scaleband("regret", "--fit", fit_file, *KNOWN, *setting, "--json").json()
    assert answer["regret_unit"] == "100 * natural log of loss over best loss"
    shown = 100 * math.expm1(answer["expected_regret"] / 100)
    assert f"{shown:.2g} % on average" in scaleband("regret", "--fit", fit_file, *KNOWN, *setting).out
    for verb in ("recommend", "regret", "propose"):
        assert answer["regret_unit"] in " ".join(scaleband(verb, "--help").out.split())


def test_recommend_json(scaleband: Command, fit_file: Path) -> None:
    done = scaleband("recommend", "--fit", fit_file, *KNOWN, "--json")
    answer = done.json()
    assert done.code == 0
    assert set(answer) == COMMON | {"lr_peak", "batch_tokens", "recommended", "constrained", "plateau"}
    for name in ("lr_peak", "batch_tokens"):
        assert set(answer[name]) == BAND
        assert answer[name]["lower"] < answer[name]["median"] < answer[name]["upper"]
    assert (answer["interval"], answer["interval_kind"]) == (0.9, "eti")
    assert set(answer["recommended"]) == {"lr_peak", "batch_tokens", "expected_regret", "p_within_plateau"}
    plateau = {"threshold", "lr_peak", "batch_tokens", "holds_recommended", "cut_at_batch_max", "polygon"}
    assert set(answer["plateau"]) == plateau
    assert set(answer["plateau"]["lr_peak"]) == {"lower", "upper"}
    assert answer["plateau"]["threshold"] == 0.25
    assert answer["group"] == "step-law/dense/web"
    assert set(answer["target"]) == {"n_params", "n_active", "n_tokens"}
    decades = {"decades_n_params", "decades_n_tokens", "decades_sparsity", "decades_apart"}
    assert set(answer["extrapolation"]) == decades | {"verdict", "against", "unseen", "sentence"}
    assert set(answer["gate"]) == {"passed", "messages"}
    assert list(answer["conventions"]) == ["step-law/dense/web"]
    assert {"name", "n_runs", "n_cells", "form", "prior", "n_draws", "card"} <= set(answer["model"])


def test_regret_json(scaleband: Command, fit_file: Path) -> None:
    words = ("--lr", "3e-3", "--batch-tokens", "524288", "--json")
    answer = scaleband("regret", "--fit", fit_file, *KNOWN, *words).json()
    own = {"setting", "regret", "expected_regret", "p_within_plateau", "threshold", "recommended"}
    assert set(answer) == COMMON | own
    assert set(answer["regret"]) == BAND
    assert answer["setting"] == {"lr_peak": 3e-3, "batch_tokens": 524288.0}


def test_check_json(scaleband: Command, runs_csv: Path) -> None:
    answer = scaleband("check", runs_csv, "--json").json()
    keys = {
        "valid",
        "n_runs",
        "statuses",
        "n_groups",
        "n_cells",
        "groups",
        "cells",
        "conventions",
        "warnings",
    }
    assert set(answer) == keys
    assert (answer["valid"], answer["n_runs"], answer["n_cells"]) == (True, 9, 1)


def test_check_of_a_table_of_losses(scaleband: Command, tmp_path: Path) -> None:
    lines = ["n_params,n_tokens,loss", *(f"{n},{20 * n},{3 - 0.1 * k}" for k, n in enumerate((1e8, 2e8, 4e8)))]
    (tmp_path / "losses.csv").write_text("\n".join(lines) + "\n")
    refused = scaleband("check", tmp_path / "losses.csv")
    assert refused.code == 1
    assert "lr_peak" in refused.err
    answer = scaleband("check", tmp_path / "losses.csv", "--loss", "--json").json()
    assert answer["valid"]
    assert (answer["n_runs"], answer["n_cells"]) == (3, 3)


def test_check_json_of_a_bad_table(scaleband: Command, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("")
    done = scaleband("check", tmp_path / "runs.csv", "--json")
    assert done.code == 1
    assert done.json() == {"valid": False, "errors": [done.err.strip().removeprefix("error: ")]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "VERB"),
        (("report",), "invalid choice"),
        (("recommend", *CELL), "--fit"),
        (("recommend", "--fit", "a.nc", "--model", "b", *CELL), "not allowed with"),
        (("recommend", "--fit", "a.nc", "--params", "1B"), "--tokens"),
        (
            ("recommend", "--fit", "a.nc", *CELL, "--batch-max", "1M", "--batch-tokens", "1M"),
            "not allowed with",
        ),
        (
            ("recommend", "--fit", "a.nc", *CELL, "--batch-tokens", "1M", "--batch-grid", "1M"),
            "leave one out",
        ),
        (("recommend", "--fit", "a.nc", *CELL, "--batch-tokens", "30B"), "larger than --tokens"),
        (("recommend", "--fit", "a.nc", *CELL, "--active-params", "2B", "--arch", "moe"), "swap them"),
        (("recommend", "--fit", "a.nc", *CELL, "--active-params", "0.2B"), "add --arch moe"),
        (("recommend", "--fit", "a.nc", *CELL, "--jso"), "unrecognized"),
        (("regret", "--fit", "a.nc", *CELL, "--lr", "0", "--batch-tokens", "1M"), "not a learning rate"),
        (("regret", "--fit", "a.nc", *CELL, "--lr", "1e-3", "--batch-tokens", "30B"), "larger than --tokens"),
        (("fit", "runs.csv", "--out", "x.nc", "--trust", "0.5"), "give --prior"),
        (("fit", "runs.csv", "--out", "x.nc", "--prior", "m", "--trust", "1.5"), "from 0"),
        (("fit", "runs.csv", "--out", "x.nc", "--draws", "0"), "whole number from 20"),
        (("fit", "runs.csv", "--out", "x.nc", "--form", "cubic"), "invalid choice"),
        (("fit", "runs.csv"), "--out"),
        (("models",), "list|show"),
        (("data", "fetch"), "NAME"),
    ],
)
def test_bad_usage_is_2_with_a_sentence(scaleband: Command, words: tuple[str, ...], says: str) -> None:
    done = scaleband(*words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("recommend", "--help"), ("models", "show", "-h")]
)
def test_help_and_version(scaleband: Command, words: tuple[str, ...]) -> None:
    done = scaleband(*words)
    assert (done.code, done.err) == (0, "")
    assert "scaleband" in done.out


def test_a_failed_gate_marks_every_answer(scaleband: Command, failed_fit: Path, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("n_params,n_tokens\n1e9,2e10\n")
    setting = ("--lr", "1e-3", "--batch-tokens", "1M")
    for words in (
        ("recommend", "--fit", failed_fit, *KNOWN),
        ("recommend", "--fit", failed_fit, *KNOWN, "--json"),
        ("regret", "--fit", failed_fit, *KNOWN, *setting),
        ("predict", "--fit", failed_fit, "--points", tmp_path / "points.csv", "--out", tmp_path / "out.csv"),
    ):
        done = scaleband(*words)
        assert done.code == 3
        assert "the diagnostic gate failed: R-hat 1.2" in done.err
        assert words[0] == "predict" or "R-hat 1.2" in done.out
    assert (tmp_path / "out.csv").is_file()
    assert scaleband("recommend", "--fit", failed_fit, *KNOWN, "--json").json()["gate"]["passed"] is False
