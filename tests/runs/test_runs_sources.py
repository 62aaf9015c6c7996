"""Real run tables, the Step Law release format, and the catalogue of what can be fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from malformed import good

from scaleband.errors import UserError
from scaleband.runs import (
    CATALOGUE,
    catalogue,
    cell_index,
    cell_table,
    data_set,
    fetch,
    read_runs,
    read_steplaw,
)

SWEPT = [
    "steplaw_dense",
    "steplaw_dense_small",
    "steplaw_moe",
    "oellm_dense",
    "misfitting_lr",
    "marin_moe_lr",
]
LOSS_ONLY = [
    "gadre_overtraining", "kempner_loss_to_loss", "marin_dense_isoflop", "chinchilla_epoch", "porian_isoflop",
    "gemstones", "olmo_ladder", "clark_routing_moe", "critical_batch_size", "marin_moe_cbs",
]  # fmt: skip


@pytest.mark.parametrize("files", [*([name] for name in SWEPT), SWEPT[:3], SWEPT], ids="+".join)
def test_swept_tables_load(files: list[str], shared_data: Path) -> None:
    table = read_runs([shared_data / f"{name}.csv" for name in files])
    cells = cell_table(table.frame)
    assert cells["cell"].is_unique
    assert (np.bincount(cell_index(table.frame, cells)) == cells["n_runs"]).all()


@pytest.mark.parametrize("name", LOSS_ONLY)
def test_loss_tables_load(name: str, shared_data: Path) -> None:
    assert len(read_runs(shared_data / f"{name}.csv", purpose="loss").frame) > 0


@pytest.mark.parametrize(
    ("name", "n_cells"),
    [("steplaw_dense", 17), ("steplaw_dense_small", 24), ("steplaw_moe", 16), ("oellm_dense", 51)],
)
def test_cells_are_those_of_the_sources(name: str, n_cells: int, shared_data: Path) -> None:
    assert len(cell_table(read_runs(shared_data / f"{name}.csv").frame)) == n_cells


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_release_files_read_as_the_tidied_ones(kind: str, shared_data: Path) -> None:
    table = read_steplaw(shared_data / "raw" / f"steplaw_{kind}_lr_bs_loss.csv")
    tidy = read_runs(shared_data / f"steplaw_{kind}.csv").frame
    for column in tidy.columns:
        if tidy[column].dtype == np.float64:
            # the tidied file rounds to ten digits
            np.testing.assert_allclose(table.frame[column], tidy[column], rtol=1e-9, err_msg=column)
        else:
            assert (table.frame[column] == tidy[column]).all(), column
    assert [problem.severity for problem in table.warnings] == ["note"]


def test_release_files_are_recognised_by_their_columns(shared_data: Path) -> None:
    paths = [shared_data / "raw" / f"steplaw_{kind}_lr_bs_loss.csv" for kind in ("dense", "moe")]
    table = read_runs(paths, batch_in_sequences=True)  # the format is known: nothing is multiplied twice
    assert len(cell_table(table.frame)) == 33
    assert table.frame["batch_tokens"].max() < 1e7


def steplaw_rows() -> pd.DataFrame:
    """A made-up file in the release format: one cell, one run that left the basin."""
    return pd.DataFrame(
        {
            "lr": [1e-3, 2e-3, 4e-3], "bs": [64, 64, 64], "ti": 1000, "loss": [3.1, 3.0, 9.0],
            "smooth loss": [3.11, 3.01, 8.9], "exp_name": ["a", "b", "c"], "D": 1e9, "N": 1e8, "h": 512,
        }
    )  # fmt: skip


def test_release_format_without_the_release(tmp_path: Path) -> None:
    steplaw_rows().to_csv(tmp_path / "raw.csv", index=False)
    frame = read_steplaw(tmp_path / "raw.csv").frame
    assert list(frame["batch_tokens"]) == [64 * 2048] * 3
    assert list(frame["status"]) == ["completed", "completed", "diverged"]
    assert list(frame["loss"]) == [3.11, 3.01, 8.9]
    assert list(frame["loss_last"]) == [3.1, 3.0, 9.0]
    assert frame["source"].iloc[0] == "step-law"
    pd.testing.assert_frame_equal(read_runs(tmp_path / "raw.csv").frame, frame)


def test_release_format_with_bad_rows_is_refused(tmp_path: Path) -> None:
    steplaw_rows().assign(D=["1e9", "1B", "1e9"], bs=[64, 64, -1]).to_csv(tmp_path / "raw.csv", index=False)
    with pytest.raises(
        UserError, match=r"raw\.csv row 2: n_tokens = '1B' is not a number.*\n.*row 3: batch_tokens"
    ):
        read_runs(tmp_path / "raw.csv")


def test_another_table_is_not_a_release_file(tmp_path: Path) -> None:
    good().to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(UserError, match=r"runs\.csv: this is not a Step Law release file.*; use read_runs"):
        read_steplaw(tmp_path / "runs.csv")


def test_catalogue_is_complete() -> None:
    assert (
        len({entry.name for entry in CATALOGUE}) == len({entry.file for entry in CATALOGUE}) == len(CATALOGUE)
    )
    for entry in CATALOGUE:
        assert len(entry.sha256) == 64
        assert "32a8f4c" in entry.url
        assert entry.url.startswith("https://")


def test_fetch_from_a_mirror_then_from_the_cache(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEBAND_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("SCALEBAND_MIRROR", str(shared_data / "raw"))
    for entry in CATALOGUE:
        path = fetch(entry.name)
        assert path == tmp_path / "cache" / entry.file
        assert path.stat().st_size == entry.n_bytes
    monkeypatch.setenv("SCALEBAND_MIRROR", str(tmp_path / "nowhere"))
    assert fetch("steplaw-moe").is_file()  # kept: neither mirror nor network is asked again
    assert len(list((tmp_path / "cache").iterdir())) == len(CATALOGUE)


def test_upstream_names_are_found_in_a_mirror(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    shutil.copy(
        shared_data / "raw" / "steplaw_moe_lr_bs_loss.csv", tmp_path / "mirror" / "moe_lr_bs_loss.csv"
    )
    assert fetch("steplaw-moe", directory=tmp_path / "cache", mirror=tmp_path / "mirror").is_file()


def test_other_bytes_are_refused_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / data_set("steplaw-dense").file).write_text("lr,bs\n1,2\n")
    with pytest.raises(
        UserError, match=r"steplaw-dense: the file has SHA-256 .*, not 9e46181.*; upstream or the mirror"
    ):
        fetch("steplaw-dense", directory=tmp_path / "cache", mirror=tmp_path / "mirror")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_replaced(shared_data: Path, tmp_path: Path) -> None:
    entry = data_set("steplaw-moe")
    (tmp_path / entry.file).write_text("broken")
    assert (
        fetch("steplaw-moe", directory=tmp_path, mirror=shared_data / "raw").stat().st_size == entry.n_bytes
    )


def test_empty_mirror_and_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the mirror has no steplaw_dense_lr_bs_loss\.csv; copy it there"):
        fetch("steplaw-dense", directory=tmp_path, mirror=tmp_path)
    with pytest.raises(UserError, match="no data set named 'mnist'; choose one of steplaw-dense"):
        fetch("mnist")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.cache: .*; choose a folder that can be written"):
        fetch("steplaw-dense", directory=tmp_path / "file" / "cache", mirror=tmp_path)


def test_no_network_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCALEBAND_MIRROR", raising=False)
    import requests

    def offline(*args: object, **kwargs: object) -> None:
        raise requests.exceptions.ConnectionError("offline")

    monkeypatch.setattr(requests, "get", offline)
    with pytest.raises(
        UserError, match=r"steplaw-dense: https://.* cannot be downloaded \(offline\); check the network"
    ):
        catalogue.fetch("steplaw-dense", directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
