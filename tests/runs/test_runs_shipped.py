"""The run table that comes with the package: whole, valid, and what its card says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from scaleband.cli import main
from scaleband.errors import UserError
from scaleband.runs import cell_table, own_sweep, sweep_card, sweep_path


def test_the_own_sweep_is_what_its_card_says() -> None:
    card, frame = sweep_card(), own_sweep().frame
    cells = cell_table(frame)
    assert card["sha256"] == hashlib.sha256(sweep_path().read_bytes()).hexdigest()
    assert (card["runs"], card["cells"]) == (len(frame), len(cells))
    assert set(frame["arch"]) == {"dense", "moe-e8-k2", "moe-e16-k2"}
    assert set(frame["data"]) == {"prose", "code"}
    assert frame["run_id"].is_unique
    assert frame["loss"].between(1.4, 5.5)[frame["status"] == "completed"].all()
    assert (frame["loss_se"] == 0).all()
    whole = cells[cells["n_runs"] >= 15]
    assert (whole["n_lr"] >= 5).all()
    assert (whole["n_batch"] >= 3).all()
    assert len(whole) >= 0.8 * len(cells)
    assert (~cells["best_on_edge"]).mean() >= 0.8
    for arch in ("dense", "moe-e8-k2", "moe-e16-k2"):
        part = cells[cells["arch"] == arch]
        assert (part["n_active"].nunique(), part["n_tokens"].nunique()) == (4, 3)
        assert part["n_active"].max() >= 8 * part["n_active"].min()
    seeds = frame.groupby(["arch", "data", "n_params", "n_tokens", "batch_tokens", "lr_peak"])["seed"].nunique()
    assert (seeds >= 3).sum() >= 12
    assert card["licence"] == "Apache-2.0"
    assert card["text"]["prose"]["train_tokens"] > 1_000_000


def test_mixtures_have_the_active_parameters_of_the_dense_ones() -> None:
    frame = own_sweep().frame
    dense = sorted(set(frame.loc[frame["arch"] == "dense", "n_active"]))
    for arch in ("moe-e8-k2", "moe-e16-k2"):
        part = frame[frame["arch"] == arch]
        assert (part["n_params"] > 1.9 * part["n_active"]).all()
        for active, other in zip(sorted(set(part["n_active"])), dense, strict=False):
            assert active == pytest.approx(other, rel=0.12)


def test_it_is_listed_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["data"]}
    assert entries["scaleband-tiny"]["url"] == ""
    assert entries["scaleband-tiny"]["n_bytes"] == sweep_path().stat().st_size
    assert "steplaw-dense" in entries
    assert main(["data", "fetch", "scaleband-tiny"]) == 0
    assert capsys.readouterr().out.strip() == str(sweep_path())


def test_a_copy_goes_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "scaleband-tiny", "--dir", str(tmp_path / "new")]) == 0
    copy = tmp_path / "new" / "scaleband-tiny.csv"
    assert capsys.readouterr().out.strip() == str(copy)
    assert copy.read_bytes() == sweep_path().read_bytes()
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]
    (tmp_path / "file").touch()
    assert main(["data", "fetch", "scaleband-tiny", "--dir", str(tmp_path / "file")]) == 1
    assert "choose another folder" in capsys.readouterr().err
    assert main(["data", "fetch", "scaleband-tny"]) == 1
    assert "choose one of scaleband-tiny" in capsys.readouterr().err


def test_another_name_is_refused() -> None:
    with pytest.raises(UserError, match="choose one of scaleband-tiny"):
        sweep_path("../models")
