"""Forms of the law on one's own table: scores, weights, and a mixture that is saved and asked like any fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from made_fits import made_fit, small_frame

from scaleband.errors import UserError
from scaleband.inference import forms as forms_module
from scaleband.inference.fitting import Fit, log_likelihood, prepared, tree_of
from scaleband.inference.forms import fit_forms, stack_forms
from scaleband.inference.gate import Gate
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.scores import CellScores
from scaleband.inference.store import read_draws, write_netcdf
from scaleband.predict import basins, recommend, target_cells


def scored(monkeypatch: pytest.MonkeyPatch, *scores: np.ndarray, k: float = 0.1) -> None:
    """Scores of one form after the other in place of those of its draws."""
    left = [CellScores(s, np.full(len(s), k), np.zeros((len(s), 1))) for s in scores]
    monkeypatch.setattr(forms_module, "leave_one_cell_out", lambda *_, **__: left.pop(0))


def two_forms() -> dict[str, Fit]:
    return {"linear": made_fit(60, seed=0), "quadratic": replace(made_fit(40, seed=0), gate=PASSED)}


PASSED = Gate(True, (1.001, "rho"), (900.0, "rho"), (800.0, "rho"), 0, ())
EVEN = (np.array([-1.0, -9.0, -1.0, 0.0, 0.0]), np.array([-9.0, -1.0, -2.0, 50.0, 0.0]))
"""Cells 3 and 4 have runs of shared trunks and are not scored: 50 would give one form all weight."""


def test_a_stack_is_saved_loaded_and_asked_like_any_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scored(monkeypatch, *EVEN, k=0.9)
    fits = two_forms()
    stack = stack_forms(fits)
    assert stack.meta["form"] == "stack"
    weights: Any = stack.meta["forms"]
    assert list(weights) == ["linear", "quadratic"]
    assert 0.3 < weights["quadratic"] < 0.7
    assert (stack.meta["n_scored"], stack.meta["rough_scores"]) == (3, {"linear": 3, "quadratic": 3})
    assert stack.meta["scores"] == {"linear": -11.0, "quadratic": -12.0}
    assert stack.posterior["rho"].shape == (2, 40), "as many draws as the form of fewest"
    count = round(40 * weights["linear"])
    for name in ("state", "law"):
        assert np.isin(stack.posterior[name][:, :count], fits["linear"].posterior[name]).all()
        assert np.isin(stack.posterior[name][:, count:], fits["quadratic"].posterior[name]).all()

    write_netcdf(tree_of(stack), tmp_path / "fit.nc")
    read = read_draws(tmp_path / "fit.nc")
    np.testing.assert_array_equal(read.law, stack.draws().law)
    assert (read.meta["form"], read.meta["forms"]) == ("stack", weights)
    target = target_cells(3e9, 1e11, source="team-a", data="web")
    asked = [recommend(basins(draws, target)).lr_peak for draws in (read, stack.draws())]
    np.testing.assert_array_equal(*asked)
    with h5py.File(tmp_path / "fit.nc") as file:
        assert set(file) == {
            "posterior", "prior", "sample_stats", "observed_data", "constant_data", "log_likelihood"
        }  # fmt: skip
        by_form = [log_likelihood(fits[form]).astype("float32") for form in fits]
        got = file["log_likelihood/log_loss"][()]
        assert got.shape == (2, 40, len(stack.inputs.y))
        assert np.isin(got[:, :count], by_form[0]).all()
        assert np.isin(got[:, count:], by_form[1]).all()
    json.dumps(stack.meta, allow_nan=False)


def test_a_stack_is_marked_when_a_form_with_weight_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = two_forms()
    failed = Gate(False, (1.2, "nu"), (float("nan"), "nu"), (90.0, "nu"), 2, ("R-hat 1.2 at nu is above 1.01: ...",))
    fits["linear"] = replace(fits["linear"], gate=failed)
    scored(monkeypatch, *EVEN)
    gate = stack_forms(fits).gate
    assert not gate.passed
    assert gate.messages == ("linear: R-hat 1.2 at nu is above 1.01: ...",)
    assert (gate.rhat, gate.ess_tail, gate.divergences) == ((1.2, "nu"), (90.0, "nu"), 2)
    assert np.isnan(gate.ess_bulk[0]), "what cannot be computed is the worst"
    # Without weight it has no draws in the stack.
    scored(monkeypatch, np.full(5, -9.0), np.full(5, -1.0))
    alone = stack_forms(fits)
    assert alone.gate.passed
    assert alone.parts is None
    assert (alone.meta["form"], alone.meta["forms"]) == ("quadratic", {"linear": 0.0, "quadratic": 1.0})
    np.testing.assert_array_equal(alone.posterior["state"], fits["quadratic"].posterior["state"])


def test_one_form_needs_no_score_and_may_be_thinned() -> None:
    fitted = made_fit(40)
    thinned = stack_forms({"linear": fitted}, n_draws=10)
    assert (thinned.meta["form"], thinned.meta["forms"]) == ("linear", {"linear": 1.0})
    assert thinned.posterior["rho"].shape == thinned.stats["energy"].shape == (2, 10)


def test_every_form_is_fitted_once_and_the_compiled_model_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, got, said = small_frame(0), [], []

    def fit(frame: pd.DataFrame, **options: Any) -> Fit:
        got.append(options)
        options["progress"]("sampling", 1, 2)
        return replace(made_fit(40), gate=PASSED)

    monkeypatch.setattr(forms_module, "fit", fit)
    settings = SamplerSettings(draws=40)
    fitted = fit_forms(
        frame, forms=["linear", "quadratic", "linear"], settings=settings, progress=lambda *words: said.append(words)
    )
    assert [options["form"] for options in got] == ["linear", "quadratic"]
    assert got[0]["reuse"] is None
    assert isinstance(got[1]["reuse"], Fit)
    assert all(options["settings"] is settings for options in got)
    assert ("quadratic, sampling", 1, 2) in said
    assert ("quadratic, scoring cells left out", 5, 5) in said
    # The same draws twice: nothing tells the forms apart.
    assert fitted.meta["forms"] == pytest.approx({"linear": 0.5, "quadratic": 0.5}, abs=0.01)


def test_what_cannot_be_stacked_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms_module, "fit", None)
    frame = small_frame(0)
    with pytest.raises(UserError, match="unknown form 'cubic'; choose of linear"):
        fit_forms(frame, forms=["linear", "cubic"])
    with pytest.raises(UserError, match="no form to fit; choose of"):
        fit_forms(frame, forms=[])
    one = (frame["source"] == "team-b") | (frame["arch"] != "dense")  # and two cells of shared trunks
    with pytest.raises(UserError, match="the table has 1 whose runs share no trunk; it takes 2 at least"):
        fit_forms(frame[one])
    short = made_fit(40)
    inputs = prepared(frame.iloc[:-1], "linear", None)[3]
    with pytest.raises(UserError, match="of different runs"):
        stack_forms({"linear": short, "quadratic": replace(short, inputs=inputs)})


@pytest.mark.parametrize("forms", [["linear", 1.0], {"linear": "all"}, {"linear": 2.0}])
def test_weights_that_are_none_are_no_fit(forms: object, tmp_path: Path) -> None:
    fitted = made_fit(4)
    write_netcdf(tree_of(replace(fitted, meta=fitted.meta | {"forms": forms})), tmp_path / "fit.nc")
    with pytest.raises(UserError, match="the weights of its forms are not numbers from 0 to 1"):
        read_draws(tmp_path / "fit.nc")


def test_a_form_that_has_all_weight_is_named_whatever_the_file_says(tmp_path: Path) -> None:
    fitted = made_fit(4)
    said = {"form": "stack", "forms": {"quadratic": 0.0, "linear": 1.0}}
    write_netcdf(tree_of(replace(fitted, meta=fitted.meta | said)), tmp_path / "fit.nc")
    assert read_draws(tmp_path / "fit.nc").meta["form"] == "linear"
