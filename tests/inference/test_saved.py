"""Saved fits with their runs again: the same fit, moved on as it would have been; another table is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from made_fits import made_fit, small_frame

from scaleband.bayes import default_beliefs
from scaleband.errors import UserError
from scaleband.inference.fitting import Fit, prepared, tree_of
from scaleband.inference.refit import _start
from scaleband.inference.released import model_path
from scaleband.inference.saved import read_fit
from scaleband.inference.store import write_netcdf
from scaleband.laws import FORMS


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return made_fit(60)


@pytest.fixture(scope="module")
def path(fitted: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("fits") / "fit.nc"
    write_netcdf(tree_of(fitted), file)
    return file


def longer(frame: pd.DataFrame) -> pd.DataFrame:
    """A cell more, in front, and the old rows the other way round."""
    more = frame[frame["n_tokens"] == frame["n_tokens"].min()]
    more = more.assign(n_tokens=2e9, run_id=[f"more-{k}" for k in range(len(more))], loss=more["loss"] * 1.05)
    return pd.concat([more, frame.iloc[::-1]], ignore_index=True)


def test_a_saved_fit_is_the_fit_again(fitted: Fit, path: Path) -> None:
    for frame in (small_frame(0), longer(small_frame(0))):
        again = read_fit(path, frame)
        assert again.posterior.keys() == fitted.posterior.keys()
        for name, value in fitted.posterior.items():
            np.testing.assert_array_equal(again.posterior[name], value, err_msg=name)
        assert sorted(again.inputs.run_ids) == sorted(fitted.inputs.run_ids)
        assert again.inputs.n_trunks == fitted.inputs.n_trunks > 0
        np.testing.assert_array_equal(again.beliefs.law_factor, fitted.beliefs.law_factor)
        assert again.gate.messages == fitted.gate.messages
        np.testing.assert_array_equal(again.draws().law, fitted.draws().law)


def test_it_is_moved_on_from_where_the_fit_itself_would_be(fitted: Fit, path: Path) -> None:
    frame = longer(small_frame(0))
    _, _, prior, inputs = prepared(frame, "linear", None)
    known = np.arange(1, 6)  # the new cell is the first
    starts = [
        _start(earlier, inputs, prior, known, 20, np.random.default_rng(0))[0]
        for earlier in (fitted, read_fit(path, frame))
    ]
    assert starts[0].keys() == starts[1].keys() > {"state", "trunk_effect"}
    for name, value in starts[0].items():
        np.testing.assert_array_equal(starts[1][name], value, err_msg=name)


def another_loss(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(loss=frame["loss"].where(frame.index != 3, frame["loss"] * 1.01))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda frame: frame.iloc[2:], r"2 of its 60 runs are not in the table \(run_id .*\); give the table that"),
        (another_loss, r"runs are others in the table \(run_id .*, log_loss\); give the table"),
        (lambda frame: frame.assign(n_params=frame["n_params"] * 2), "its cells are not those of the table's runs"),
        (lambda frame: frame.assign(trunk=""), "its trunks are not the table's"),
    ],
)
def test_another_table_is_refused(change: Callable[[pd.DataFrame], pd.DataFrame], says: str, path: Path) -> None:
    with pytest.raises(UserError, match=says):
        read_fit(path, change(small_frame(0)))


def test_a_prior_that_is_not_stated_has_to_be_given(fitted: Fit, tmp_path: Path) -> None:
    write_netcdf(tree_of(replace(fitted, meta=fitted.meta | {"prior": "a model, trust 0.5"})), tmp_path / "fit.nc")
    with pytest.raises(UserError, match=r"this fit.s prior is a model, trust 0\.5; give beliefs that make it"):
        read_fit(tmp_path / "fit.nc", small_frame(0))
    with pytest.raises(UserError, match=r"is a model, trust 0\.5, not stated beliefs; give beliefs"):
        read_fit(tmp_path / "fit.nc", small_frame(0), beliefs=lambda d: default_beliefs(d, FORMS["linear"]))
    again = read_fit(
        tmp_path / "fit.nc", small_frame(0),
        beliefs=lambda d: replace(default_beliefs(d, FORMS["linear"]), origin="a model, trust 0.5"),
    )  # fmt: skip
    assert again.prior_for is not None


def test_what_has_no_runs_or_several_forms_is_refused(fitted: Fit, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this file holds no runs"):
        read_fit(model_path("step-law"), small_frame(0))
    said = {"form": "stack", "forms": {"linear": 0.5, "quadratic": 0.5}}
    write_netcdf(tree_of(replace(fitted, meta=fitted.meta | said)), tmp_path / "fit.nc")
    with pytest.raises(UserError, match="this fit is of form stack, not of one form; fit the longer table anew"):
        read_fit(tmp_path / "fit.nc", small_frame(0))


def test_runs_that_were_cut_or_are_no_numbers_are_one_sentence(fitted: Fit, tmp_path: Path) -> None:
    path = tmp_path / "fit.nc"
    for change, says in (
        (lambda seen: seen.pop("run"), "observed_data/run is missing"),
        (lambda seen: seen.update(run=seen["run"][:-1]), "its runs differ in their number from their names"),
        (lambda seen: seen.update(log_lr=seen["log_lr"][:-1]), "observed_data/log_lr has shape"),
        (lambda seen: seen["log_loss"].__setitem__(0, np.nan), "observed_data/log_loss holds numbers that are not"),
    ):
        write_netcdf(tree_of(fitted), path)
        with h5py.File(path, "r+") as file:
            group = file["observed_data"]
            seen = {name: group[name][()] for name in group}
            change(seen)
            del file["observed_data"]
            for name, value in seen.items():
                kind = h5py.string_dtype() if name == "run" else value.dtype
                file.create_dataset(f"observed_data/{name}", data=value, dtype=kind)
        with pytest.raises(UserError, match=says):
            read_fit(path, small_frame(0))
