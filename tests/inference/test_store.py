"""Fits on disk: what is written is what is read, a failed write leaves the old file, old files load forever."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from made_fits import made_fit

from scaleband.bayes.simulate import prior_draws
from scaleband.errors import UserError
from scaleband.inference.fitting import Fit, log_likelihood, tree_of
from scaleband.inference.store import DIMS, VERSION, read_draws, shortened, write_netcdf
from scaleband.laws import DRAWN, RESPONSES, LawDraws
from scaleband.predict import basins, recommend, target_cells

OLD = Path(__file__).parent / "data" / "fit_v1.nc"
ARRAYS = ("offset_scale", *DRAWN)


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return made_fit()


@pytest.fixture(scope="module")
def path(fitted: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("fits") / "fit.nc"
    write_netcdf(tree_of(fitted, prior=prior_draws(fitted.inputs, fitted.beliefs, 30, 1)), file)
    return file


def assert_same(a: LawDraws, b: LawDraws) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.design, a.sources, a.trunked) == (b.design, b.sources, b.trunked)
    for name in ("source", "arch", "data"):
        assert tuple(getattr(a.cells, name)) == tuple(getattr(b.cells, name))
    for name in ("n_params", "n_active", "n_tokens"):
        np.testing.assert_array_equal(getattr(a.cells, name), getattr(b.cells, name))


def test_a_fit_read_again_is_the_fit(fitted: Fit, path: Path) -> None:
    before, after = fitted.draws(), read_draws(path)
    assert_same(before, after)
    assert after.trunked == ("team-b",), "only its runs share trunks"
    assert after.meta["form"] == "linear"
    assert json.loads(json.dumps(fitted.meta)) == {k: v for k, v in after.meta.items() if k != "path"}
    target = target_cells(3e9, 1e11, source="team-a", data="web")
    np.testing.assert_array_equal(
        recommend(basins(before, target)).lr_peak, recommend(basins(after, target)).lr_peak
    )


def test_groups_and_dims_are_the_documented_ones(fitted: Fit, path: Path) -> None:
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        assert set(tree.children) == {
            "posterior", "prior", "sample_stats", "observed_data", "constant_data", "log_likelihood"
        }  # fmt: skip
        for group in ("posterior", "prior"):
            assert {str(k): v.dims for k, v in tree[group].data_vars.items()} == {
                name: ("chain", "draw", *dims) for name, dims in DIMS.items()
            }
        posterior = tree["posterior"].to_dataset()
        assert posterior.sizes["chain"] == 2
        assert tree["prior"].sizes == {**posterior.sizes, "chain": 1, "draw": 30}
        assert list(posterior["response"].to_numpy()) == list(RESPONSES)
        assert list(posterior["coefficient"].to_numpy()) == list(fitted.inputs.design.columns)
        assert list(posterior["source"].to_numpy()) == ["team-a", "team-b"]
        observed = tree["observed_data"].to_dataset()
        np.testing.assert_array_equal(observed["log_loss"], fitted.inputs.y)
        assert list(observed["run"].to_numpy()) == list(fitted.inputs.run_ids)
        np.testing.assert_allclose(tree["log_likelihood"]["log_loss"], log_likelihood(fitted), rtol=1e-6)


def test_a_file_that_does_not_say_whose_runs_share_trunks(fitted: Fit, path: Path, tmp_path: Path) -> None:
    """Those of before did not: of several sources, the one whose schedule speaks of a trunk."""
    for name, schedule, found in (("told", "WSD: trunk and branches", ("team-a",)), ("silent", "cosine", ())):
        old = tmp_path / f"{name}.nc"
        shutil.copy(path, old)
        with h5py.File(old, "r+") as file:
            del file["constant_data/source_trunked"]
            meta = json.loads(file.attrs["meta"])
            meta["conventions"]["team-a/dense/web"]["schedule"] = schedule
            file.attrs["meta"] = json.dumps(meta)
        read = read_draws(old)
        assert read.trunked == found
        np.testing.assert_array_equal(read.trunk_scale, fitted.draws().trunk_scale)


def test_every_label_stands_at_its_number(fitted: Fit, path: Path) -> None:
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        posterior = tree["posterior"].to_dataset()
        column = fitted.inputs.design.columns.index("source:team-b")
        np.testing.assert_array_equal(
            posterior["law"].sel(response="log_batch", coefficient="source:team-b"),
            fitted.posterior["law"][:, :, 1, column],
        )
        np.testing.assert_array_equal(
            posterior["offset_scale"].sel(hyperparameter="log_batch", role="family"),
            fitted.posterior["offset_scale"][:, :, 1, 1],
        )
        np.testing.assert_allclose(
            posterior["shared"].sel(shared_parameter="log_offset_family_log_batch"),
            np.log(fitted.posterior["offset_scale"][:, :, 1, 1]),
            rtol=1e-12,
        )
        np.testing.assert_array_equal(
            posterior["scatter"].sel(response="level"), fitted.posterior["scatter"][:, :, 4]
        )


def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    fitted: Fit, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, others = path.read_bytes(), sorted(path.parent.iterdir())
    tree = tree_of(fitted)

    def full_disk(self: xr.DataTree, file: str, **_: object) -> None:
        Path(file).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_netcdf(tree, path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == others


def test_a_write_replaces_the_old_file(fitted: Fit, tmp_path: Path) -> None:
    file = tmp_path / "fit.nc"
    file.write_bytes(b"an older fit")
    write_netcdf(tree_of(fitted), file)
    assert_same(read_draws(file), fitted.draws())
    assert [p.name for p in tmp_path.iterdir()] == ["fit.nc"]
    with pytest.raises(UserError, match="does not exist"):
        write_netcdf(tree_of(fitted), tmp_path / "nowhere" / "fit.nc")


def test_a_fit_with_draws_that_are_not_finite_is_not_read_as_one(fitted: Fit, tmp_path: Path) -> None:
    rho = fitted.posterior["rho"].copy()
    rho[0, 0] = np.nan
    write_netcdf(tree_of(replace(fitted, posterior=fitted.posterior | {"rho": rho})), tmp_path / "bad.nc")
    with pytest.raises(UserError, match="not finite"):
        read_draws(tmp_path / "bad.nc")


def test_a_newer_format_asks_for_an_upgrade(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "newer.nc"
    file.write_bytes(path.read_bytes())
    with h5py.File(file, "a") as content:
        content.attrs["version"] = VERSION + 1
    with pytest.raises(UserError, match="newer scaleband"):
        read_draws(file)


def test_a_file_of_version_1_loads_and_answers_as_it_did() -> None:
    """Written once by the first released form of the format, with `made_fit(4)`; never to be written again."""
    draws = read_draws(OLD)
    assert draws.meta["form"] == "linear"
    assert (draws.n_samples, len(draws.cells), draws.sources) == (8, 5, ("team-a", "team-b"))
    assert draws.design.columns[:9] == (
        "intercept", "n", "d", "n2", "d2", "nd", "sparsity", "source:team-a", "source:team-b"
    )  # fmt: skip
    with h5py.File(OLD) as file:
        stored = {name: file["posterior"][name][()] for name in ("rho", "state", "law")}
    for name, value in stored.items():
        np.testing.assert_array_equal(getattr(draws, name), value.reshape(8, *value.shape[2:]))
    fitted_cell = basins(draws, draws.cells)
    np.testing.assert_allclose(fitted_cell.lr_peak(), 1e-3 * np.exp(draws.state[:, 0]), rtol=1e-12)
    setting = recommend(basins(draws, target_cells(1e9, 5e10, source="team-a", data="web")))
    assert np.isfinite([setting.lr_peak[0], setting.batch_tokens[0]]).all()


def test_shortened_draws_keep_sixteen_bits() -> None:
    value = np.concatenate([np.random.default_rng(0).standard_normal(1000) * 1e3, [0.0, -0.0, 1e-30, 96.123456]])
    short = shortened(value)
    np.testing.assert_allclose(short, value, rtol=2.0**-16)
    assert (short.view(np.uint32) & 0xFF == 0).all()
    np.testing.assert_array_equal(shortened(short.astype(float)), short)
