"""Refits: earlier draws moved on to a longer table are those of a fit from the start, and where not, it is sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_fits import made_fit, small_frame

from scaleband.bayes import Beliefs, default_beliefs, model_inputs
from scaleband.errors import UserError
from scaleband.inference import refit as refit_module
from scaleband.inference.fitting import Fit, Parts, fit
from scaleband.inference.refit import refit
from scaleband.inference.sampler import SamplerSettings
from scaleband.laws import FORMS, Design
from scaleband.laws.simulated import simulated_sweep
from scaleband.runs import cell_table, run_table

QUICK = SamplerSettings(draws=600, tune=250, chains=2, seed=1)
#: Of 600 draws a chain 75 are moved on, whose means drift by 0.25 to 0.31 standard deviations by chance, and 0.3 is
#: what `refit` allows; of 1,200 it is 0.16 to 0.20.
MOVED = replace(QUICK, draws=1200)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return run_table(pd.DataFrame(simulated_sweep(seed=0).columns)).frame


def in_last_cell(table: pd.DataFrame) -> pd.Series:
    last = table.iloc[-1]
    return (table[["arch", "n_params", "n_tokens"]] == last[["arch", "n_params", "n_tokens"]]).all(axis=1)


@pytest.fixture(scope="module")
def early(table: pd.DataFrame) -> Fit:
    """Nine of ten runs, and none of the last cell's."""
    keep = np.random.default_rng(1).random(len(table)) < 0.9
    return fit(table[~in_last_cell(table) & keep], settings=QUICK)


@pytest.fixture
def never_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> Fit:
        raise AssertionError("sampled")

    monkeypatch.setattr(refit_module, "fit", stop)


@pytest.fixture(scope="module")
def whole(table: pd.DataFrame) -> Fit:
    return fit(table, settings=QUICK)


@pytest.mark.usefixtures("never_sampled")
def test_more_runs_and_a_new_cell_without_sampling(table: pd.DataFrame, early: Fit, whole: Fit) -> None:
    said: list[str] = []
    moved = refit(table, early, settings=MOVED, progress=lambda stage, *_: said.append(stage))
    assert moved.meta["refit"] == "moved"
    assert {"moving", "keeping"} == set(said)
    assert moved.meta["n_cells"] == len(cell_table(table)) == early.meta["n_cells"] + 1
    assert moved.gate.rhat[0] < 1.03
    for name in ("state", "scatter", "sigma", "rho", "nu"):
        a, b = moved.posterior[name], whole.posterior[name]
        sd = b.std(axis=(0, 1))
        assert np.sqrt(np.mean(((a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))) / sd) ** 2)) < 0.15, name
        np.testing.assert_allclose(a.std(axis=(0, 1)), sd, rtol=0.35, err_msg=name)
    # The new cell is known from its own runs now, and was not before.
    def names(fitted: Fit) -> list[tuple]:
        c = fitted.inputs.cells
        return list(zip(c.arch, c.n_params, c.n_tokens, strict=True))

    new = [k for k, name in enumerate(names(moved)) if name not in names(early)]
    assert len(new) == 1
    assert moved.posterior["state"][..., 4, new].std() < 0.3
    assert moved.draws().n_samples == moved.posterior["rho"].size


@pytest.mark.usefixtures("never_sampled")
def test_the_same_seed_gives_the_same_refit(
    table: pd.DataFrame, early: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("_REMEMBERED", "_DRIFT"):
        monkeypatch.setattr(refit_module, limit, 2.0)
    known = table[~in_last_cell(table)]
    brief = SamplerSettings(draws=300, rounds=2)
    one, two = (refit(known, early, settings=brief) for _ in range(2))
    np.testing.assert_array_equal(one.posterior["state"], two.posterior["state"])
    assert one.compiled is early.compiled, "the same cells: the model may be used again"


@pytest.mark.usefixtures("never_sampled")
def test_trunks_that_the_earlier_fit_did_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_REMEMBERED", "_DRIFT"):
        monkeypatch.setattr(refit_module, limit, 1e9)
    table, made = small_frame(0), made_fit(60)
    inputs = model_inputs(table.assign(trunk=""), made.inputs.design)
    assert (made.inputs.n_trunks > 0, inputs.n_trunks) == (True, 0)
    posterior = {name: v for name, v in made.posterior.items() if not name.startswith("trunk")}
    moved = refit(
        table, replace(made, inputs=inputs, posterior=posterior), form="linear",
        settings=SamplerSettings(draws=300, rounds=2),
    )  # fmt: skip
    assert moved.meta["refit"] == "moved"
    assert moved.posterior["trunk_effect"].shape[2] == made.inputs.n_trunks
    assert moved.posterior["trunk_scale"].std() > 0


@pytest.mark.parametrize("warm", [False, True])
def test_form_and_prior_are_the_earlier_fits_unless_given(
    warm: bool, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is another one, so it is sampled: what `fit` is asked for is what the refit is of."""
    got: dict[str, Any] = {}
    made = made_fit(4)

    def noted(frame: pd.DataFrame, **options: Any) -> Fit:
        got.update(options)
        return replace(made, meta={})

    monkeypatch.setattr(refit_module, "fit", noted)

    def its_own(design: Design) -> Beliefs:
        return replace(default_beliefs(design, FORMS["linear"]), origin="a model, trust 0.5")

    earlier = replace(made, prior_for=its_own, beliefs=its_own(made.inputs.design)) if warm else made
    refit(table, earlier)
    assert (got["form"], got["beliefs"]) == ("linear", its_own if warm else None)
    refit(table, earlier, form="quadratic", beliefs=lambda design: default_beliefs(design, FORMS["quadratic"]))
    assert got["form"] == "quadratic"
    assert got["beliefs"] is not its_own
    if not warm:
        refit(table, earlier, form="quadratic")
        assert (got["form"], got["beliefs"]) == ("quadratic", None)
        return
    with pytest.raises(UserError, match=r"\(a model, trust 0.5\) is of form linear, not quadratic; leave form out"):
        refit(table, earlier, form="quadratic")
    with pytest.raises(UserError, match=r"prior \(a model, trust 0.5\) was made is not known; give beliefs"):
        refit(table, replace(earlier, prior_for=None))


def test_a_stack_of_forms_is_not_moved(table: pd.DataFrame) -> None:
    made = made_fit(4)
    parts = Parts({"linear": made, "quadratic": made}, {"linear": 0.5, "quadratic": 0.5})
    with pytest.raises(UserError, match=r"is a stack of linear, quadratic, .*fit_forms, or refit one of them"):
        refit(table, replace(made, parts=parts))


def gone(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["n_tokens"] > table["n_tokens"].min()]


def another_source(table: pd.DataFrame) -> pd.DataFrame:
    last = in_last_cell(table)
    return table.assign(source=np.where(last, "another-team", table["source"]))


def one_batch(table: pd.DataFrame) -> pd.DataFrame:
    return table[~in_last_cell(table) | (table["batch_tokens"] == table["batch_tokens"].iloc[-1])]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (gone, "cells of the earlier fit are gone"),
        (another_source, "a new source"),
        (one_batch, "cells with one batch"),
    ],
)
def test_what_cannot_be_moved_is_sampled_and_says_why(
    table: pd.DataFrame, early: Fit, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pd.DataFrame], pd.DataFrame], why: str,
) -> None:  # fmt: skip
    sampled = Fit({}, {}, early.inputs, early.beliefs, early.gate, {})
    monkeypatch.setattr(refit_module, "fit", lambda *_, **__: sampled)
    done = refit(change(table), early, settings=QUICK)
    assert done is sampled
    assert done.meta["refit"] == f"sampled: {why}"


@pytest.mark.parametrize(("limit", "why"), [("_REMEMBERED", "still remembers its start"), ("_DRIFT", "still drifts")])
def test_draws_that_did_not_arrive_are_sampled(
    table: pd.DataFrame, early: Fit, monkeypatch: pytest.MonkeyPatch, limit: str, why: str
) -> None:
    sampled = Fit({}, {}, early.inputs, early.beliefs, early.gate, {})
    monkeypatch.setattr(refit_module, "fit", lambda *_, **__: sampled)
    monkeypatch.setattr(refit_module, "_REMEMBERED", 1.0)
    monkeypatch.setattr(refit_module, limit, -1.0)
    monkeypatch.setattr(refit_module, "_BURNS", 1)
    monkeypatch.setattr(refit_module, "_KEEPS", 1)
    done = refit(table[~in_last_cell(table)], early, settings=SamplerSettings(draws=300, rounds=2))
    assert why in str(done.meta["refit"])


@pytest.mark.parametrize(
    ("change", "form", "match"),
    [
        (lambda t: t, "cubic", "unknown form 'cubic'; choose one of linear"),
        (lambda t: t.assign(status="failed"), "quadratic", "no completed run"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    table: pd.DataFrame, early: Fit, change: Callable[[pd.DataFrame], pd.DataFrame], form: str, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        refit(change(table), early, form=form)
