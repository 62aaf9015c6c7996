"""`fit` on the command line: refusals before sampling, progress, marks, interrupts, and one real fit."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from command import Command
from malformed import good
from synthetic import write_fit

from scaleband.bayes.simulate import prior_draws
from scaleband.cli import fit as fit_verb
from scaleband.cli import pictures
from scaleband.cli import progress as progress_module
from scaleband.cli.progress import progress
from scaleband.inference import fitting, forms, prior
from scaleband.inference.fitting import run_id_digests
from scaleband.inference.gate import Gate
from scaleband.inference.scores import CellScores
from scaleband.inference.store import read_draws
from scaleband.laws import FORMS

ONE_CELL = ("--params", "1e8", "--tokens", "2e9", "--source", "us", "--data", "web")


@pytest.fixture
def no_sampling(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`fitting.fit` replaced by one that notes what it got, reports progress and is interrupted."""
    got: dict[str, Any] = {}

    def interrupted(frame: Any, **options: Any) -> None:
        got.update(options, frame=frame)
        options["progress"]("compiling", 0, 1)
        options["progress"]("sampling", 0, 100)
        options["progress"]("sampling", 50, 100)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit", interrupted)
    return got


def test_the_file_is_written_and_marked(real_fit: tuple[Path, int], scaleband: Command) -> None:
    path, code = real_fit
    assert code == 3, "100 draws are too few for the gate, and the exit code says so"
    draws = read_draws(path)
    assert draws.n_samples == 200
    with h5py.File(path) as file:  # the groups that the design promises
        assert {"posterior", "prior", "sample_stats", "observed_data", "constant_data", "log_likelihood"} <= set(file)
        assert file["prior/state"].shape[2:] == file["posterior/state"].shape[2:]
    assert sorted(p.name for p in path.parent.iterdir()) == ["fit.nc", "runs.csv"]
    done = scaleband("recommend", "--fit", path, *ONE_CELL, "--json")
    assert done.code == 3
    assert "warning: the diagnostic gate failed: " in done.err
    answer = done.json()
    assert answer["gate"]["passed"] is False
    assert answer["extrapolation"]["verdict"] == "fitted cell"
    # The table's minimum is at 2e-3 and 131,072 tokens.
    assert answer["lr_peak"]["lower"] < 2e-3 < answer["lr_peak"]["upper"]
    assert answer["batch_tokens"]["lower"] < 131072 < answer["batch_tokens"]["upper"]


def test_an_interrupt_leaves_nothing(
    scaleband: Command, runs_csv: Path, tmp_path: Path, no_sampling: dict[str, Any]
) -> None:
    words = ("--draws", 50, "--tune", 30, "--chains", 3, "--seed", 7)
    done = scaleband("fit", runs_csv, "--out", tmp_path / "fit.nc", "--form", "quadratic", *words)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-4:] == [
        "compiling ...",
        "sampling ...",
        "sampling: 50 %",
        "interrupted: nothing was written",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]
    settings = dataclasses.asdict(no_sampling["settings"])
    assert {k: settings[k] for k in ("draws", "tune", "chains", "seed")} == {
        "draws": 50,
        "tune": 30,
        "chains": 3,
        "seed": 7,
    }
    assert no_sampling["form"] == "quadratic"
    assert no_sampling["beliefs"] is None


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_swallowed_interrupt_still_counts(
    goes_on: bool, scaleband: Command, runs_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallows(frame: Any, **options: Any) -> SimpleNamespace:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if goes_on:
            options["progress"]("sampling", 0, 100)
            time.sleep(1)
        return SimpleNamespace()

    monkeypatch.setattr(fitting, "fit", swallows)
    before = signal.getsignal(signal.SIGINT)
    done = scaleband("fit", runs_csv, "--out", tmp_path / "fit.nc", "--quiet")
    assert done.code == 130
    assert done.err.endswith("interrupted: nothing was written\n")
    assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("words", "counts"), [((), [1200, 800]), (("--draws", 2500), [2500])])
def test_a_fit_that_is_short_of_draws_samples_once_more_unless_told_how_many(
    words: tuple[Any, ...], counts: list[int], scaleband: Command, runs_csv: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: list[dict[str, Any]] = []
    short = Gate(False, (1.004, "rho"), (230.0, "rho"), (300.0, "nu"), 0, ("bulk ESS 230 at rho is below 400",))

    def fit(frame: Any, **options: Any) -> SimpleNamespace:
        got.append(options)
        if len(got) == len(counts):
            raise KeyboardInterrupt
        return SimpleNamespace(gate=short, settings=options["settings"])

    monkeypatch.setattr(fitting, "fit", fit)
    done = scaleband("fit", runs_csv, "--out", tmp_path / "fit.nc", "--quiet", *words)
    assert done.code == 130
    assert [options["settings"].draws for options in got] == counts
    assert [options["settings"].copies for options in got] == [4, 1][: len(counts)]
    assert ("sampling again, 800 draws of NUTS a chain" in done.err) == (len(counts) == 2)
    assert got[0]["reuse"] is None
    assert (got[-1]["reuse"] is not None) == (len(counts) == 2)


def test_the_runs_are_drawn_beside_what_prior_and_posterior_expect(
    scaleband: Command, runs_csv: Path, tmp_path: Path, fit_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = Gate(True, (1.0, "rho"), (900.0, "rho"), (900.0, "rho"), 0, ())
    shown: list[dict[str, Any]] = []
    drawn = pictures.draw_contrasts

    def made(frame: Any, **options: Any) -> fitting.Fit:
        frame, table, stated, inputs = fitting.prepared(frame, options["form"], options["beliefs"])
        how = options["settings"]
        meta = fitting.facts(frame, table, passed, stated, how, options["form"]) | {"seconds": {"sample": 1.0}}
        return fitting.Fit(prior_draws(inputs, stated, 30, 9), {}, inputs, stated, passed, meta, settings=how)

    def look(out: Path, runs: Any, sets: Any) -> None:
        shown.append(dict(sets))
        drawn(out, runs, sets)

    monkeypatch.setattr(fitting, "fit", made)
    monkeypatch.setattr(fit_verb, "draw_contrasts", look)
    words = ("--out", tmp_path / "fit.nc", "--quiet", "--loss", "none", "--plot", tmp_path / "runs.png")
    done = scaleband("fit", runs_csv, "--prior", fit_file, "--trust", "0.3", *words)
    assert done.code == 0, done.err
    assert (tmp_path / "runs.png").stat().st_size > 10_000
    assert list(shown[0]) == ["prior (made up, trust 0.3)", "posterior"]
    assert [draws.n_samples for draws in shown[0].values()] == [1000, 30]


@pytest.mark.parametrize(
    ("plot", "code", "says"),
    [
        ("fit.png", 2, "--plot and --out name the same file"),
        ("runs.gif", 1, "a picture can be written as .png"),
        ("runs.png", 1, "no cell of the draws has two runs"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_before_sampling(
    plot: str, code: int, says: str, scaleband: Command, tmp_path: Path, no_sampling: dict[str, Any]
) -> None:
    lost = good()
    lost.loc[1:, "n_tokens"] *= 4.0  # one run completed, those of the other cell all diverged
    lost.loc[1:, "status"] = "diverged"
    lost.loc[1:, "loss"] = None
    lost.to_csv(tmp_path / "runs.csv", index=False)
    done = scaleband("fit", tmp_path / "runs.csv", "--out", tmp_path / "fit.png", "--plot", tmp_path / plot)
    assert done.code == code
    assert says in done.err
    assert no_sampling == {}


def test_quiet_has_no_progress(
    scaleband: Command, runs_csv: Path, tmp_path: Path, no_sampling: dict[str, Any]
) -> None:
    done = scaleband("fit", runs_csv, "--out", tmp_path / "fit.nc", "--quiet")
    assert "sampling" not in done.err
    assert "warning: runs.csv: there is one cell only" in done.err


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("nowhere/fit.nc", r"the folder .* does not exist; make it"),
        (".", "this is a directory"),
        ("runs.csv", "--out would overwrite what is read"),
        ("same.csv", "--out would overwrite what is read"),
    ],
)
def test_a_bad_place_is_refused_before_sampling(
    out: str, says: str, scaleband: Command, runs_csv: Path, tmp_path: Path, no_sampling: dict[str, Any]
) -> None:
    (tmp_path / "same.csv").hardlink_to(runs_csv)
    done = scaleband("fit", runs_csv, "--out", tmp_path / out)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert no_sampling == {}
    good().to_csv(tmp_path / "again.csv", index=False)
    assert runs_csv.read_bytes() == (tmp_path / "again.csv").read_bytes()


def test_a_prior_by_file(
    scaleband: Command, runs_csv: Path, tmp_path: Path, fit_file: Path, no_sampling: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[Any] = []
    monkeypatch.setattr(prior, "beliefs_from", lambda *words: asked.append(words))
    done = scaleband("fit", runs_csv, "--prior", fit_file, "--trust", "0.3", "--out", tmp_path / "fit.nc")
    assert done.code == 130
    no_sampling["beliefs"]("a design")
    draws, design, form, trust = asked[0]
    assert (draws.n_samples, design, form, trust) == (200, "a design", FORMS["quadratic"], 0.3)
    words = ("--form", "linear", "--out", tmp_path / "fit.nc")  # the form that the prior has; or no trust in it
    assert scaleband("fit", runs_csv, "--prior", fit_file, *words).code == 130
    assert scaleband("fit", runs_csv, "--prior", "step-law", "--trust", 0, *words).code == 130
    assert no_sampling["form"] == "linear"


def test_runs_that_the_prior_has_seen_are_refused(
    scaleband: Command, runs_csv: Path, tmp_path: Path, no_sampling: dict[str, Any]
) -> None:
    seen = write_fit(tmp_path / "seen.nc", run_ids_sha256=run_id_digests(["r00", "r12", "row-000001"]))
    done = scaleband("fit", runs_csv, "--prior", seen, "--out", tmp_path / "fit.nc")
    assert done.code == 1
    assert "2 runs of the table (run_id r00, ...) are among those" in done.err
    assert "leave them out" in done.err
    assert no_sampling == {}
    good().drop(columns="run_id").to_csv(tmp_path / "unnamed.csv", index=False)
    done = scaleband("fit", tmp_path / "unnamed.csv", "--prior", seen, "--out", tmp_path / "fit.nc")
    assert "have no run_id" in done.err
    assert no_sampling, "numbers of rows are no names"


def from_the_prior(
    frame: Any, *, form: str, settings: Any, beliefs: Any, progress: Any, reuse: Any
) -> fitting.Fit:
    """A fit in no time: draws of its prior."""
    frame, cells, stated, inputs = fitting.prepared(frame, form, beliefs)
    draws = {n: v.reshape(2, 40, *v.shape[2:]) for n, v in prior_draws(inputs, stated, 80, 1).items()}
    progress("sampling", 40, 40)
    passed = Gate(True, (1.0, "rho"), (900.0, "rho"), (900.0, "rho"), 0, ())
    meta = fitting.facts(frame, cells, passed, stated, settings, form) | {"seconds": {"sample": 1.0}}
    return fitting.Fit(draws, {"energy": np.ones((2, 40))}, inputs, stated, passed, meta, settings=settings)


def test_forms_are_stacked_and_answers_say_their_weights(
    scaleband: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = good().assign(n_tokens=8e9, run_id=[f"longer-{k}" for k in range(len(good()))])
    pd.concat([good(), longer]).to_csv(tmp_path / "runs.csv", index=False)
    scores = [CellScores(np.array(s), np.array([0.9, 0.1]), np.zeros((2, 1))) for s in ([-1.0, -9.0], [-9.0, -1.5])]
    monkeypatch.setattr(fitting, "fit", from_the_prior)
    monkeypatch.setattr(forms, "leave_one_cell_out", lambda *_, **__: scores.pop(0))
    words = ("--form", "stack", "--forms", "linear, quadratic", "--loss", "none", "--draws", 40)
    done = scaleband("fit", tmp_path / "runs.csv", "--out", tmp_path / "fit.nc", *words)
    assert done.code == 0
    assert "linear, sampling: 100 %" in done.err
    assert "quadratic, sampling: 100 %" in done.err
    assert "form stack (linear 0.50, quadratic 0.50), " in done.err
    assert "scores of 2 cells left out, log density under the best: linear 0.0, quadratic 0.5" in done.err
    assert "rough scores" in done.err
    assert "linear in 1 cells, quadratic in 1 cells" in done.err
    answer = scaleband("recommend", "--fit", tmp_path / "fit.nc", *ONE_CELL)
    assert "form stack (linear 0.50, quadratic 0.50), prior: stated beliefs" in answer.out
    model = scaleband("recommend", "--fit", tmp_path / "fit.nc", *ONE_CELL, "--json").json()["model"]
    assert model["form"] == "stack"
    assert model["forms"] == pytest.approx({"linear": 0.5, "quadratic": 0.5}, abs=0.01)


def test_a_model_of_one_form_says_that_form(scaleband: Command) -> None:
    done = scaleband("recommend", "--model", "step-law", "--params", "1e9", "--tokens", "2e10")
    assert "3591 runs in 57 cells, form quadratic, prior" in done.out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--forms", "linear"), 2, "add --form stack, or leave --forms out"),
        (("--form", "stack", "--forms", "quadratic,cubic"), 2, "there is no form 'cubic'; choose of linear"),
        (("--form", "stack", "--forms", "quadratik"), 2, "did you mean quadratic?"),
        (("--form", "stack", "--forms", ","), 2, "--forms names no form"),
        (("--form", "stack", "--prior", "step-law"), 2, "leave one of them out"),
        (("--form", "linear", "--prior", "step-law"), 2, "is of form quadratic, and that is what is fitted, not"),
        (("--form", "stack"), 1, "the table has 1 whose runs share no trunk"),
    ],
)
def test_forms_that_cannot_be_had_are_refused_before_sampling(
    words: tuple[str, ...], code: int, says: str, scaleband: Command, runs_csv: Path, tmp_path: Path,
    no_sampling: dict[str, Any],
) -> None:  # fmt: skip
    done = scaleband("fit", runs_csv, "--out", tmp_path / "fit.nc", *words)
    assert done.code == code
    assert says in done.err
    assert no_sampling == {}


def test_an_unknown_prior(scaleband: Command, runs_csv: Path, tmp_path: Path) -> None:
    done = scaleband("fit", runs_csv, "--prior", "nobody", "--out", tmp_path / "fit.nc")
    assert done.code == 1
    assert "no released model 'nobody'" in done.err


def test_a_full_disk_leaves_nothing(
    scaleband: Command, runs_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        subtree = ()

        def to_netcdf(self, *_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

    passed = Gate(True, (1.0, "rho"), (900.0, "rho"), (900.0, "rho"), 0, ())
    monkeypatch.setattr(fitting, "fit", lambda *_, **o: SimpleNamespace(gate=passed, settings=o["settings"]))
    monkeypatch.setattr(fitting, "tree_of", lambda fitted: Full())
    done = scaleband("fit", runs_csv, "--out", tmp_path / "fit.nc")
    assert done.code == 1
    assert "No space left on device" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


def test_plain_progress_is_sparse(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=False) as report:
        for done in range(0, 1001):
            report("sampling", done, 1000)
    assert len(capsys.readouterr().err.splitlines()) == progress_module.STEPS + 1


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with progress(quiet=False) as report:
        report("compiling", 0, 1)
        report("sampling", 500, 1000)
    assert "sampling" in screen.getvalue()
