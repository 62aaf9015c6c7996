"""What is refused: with a remedy, and with nothing changed."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_campaign import TARGET, small_settings

from scaleband.campaign import Campaign
from scaleband.campaign.strategies import random_runs
from scaleband.errors import UserError
from scaleband.inference.released import model_path

Make = Callable[..., Campaign]


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file, locks left out."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(".lock")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"loss": math.nan}, "the loss is NaN; if the run blew up, tell it as diverged"),
        ({"loss": math.inf}, "a loss of inf cannot be"),
        ({"loss": -3.0}, "a loss of -3 cannot be"),
        ({"loss": 22.2}, "outside 0.3 to 12 nats per token; perplexity is not loss"),
        ({"loss": 0.9}, "far below every other of this campaign .* bits per byte perhaps"),
        (
            {"loss": 3.1, "unit": "bits per token"},
            "the loss is in 'bits per token' and this campaign counts nats per token; convert",
        ),
        (
            {"loss": 3.1, "loss_kind": "training"},
            "this loss is 'training', and the campaign's losses are 'validation, web'",
        ),
        ({"loss": 3.1, "loss_se": -0.1}, "loss_se = -0.1 is no standard error"),
        ({"loss": 3.1, "flops": math.nan}, "flops = nan is no cost"),
        ({"loss": 3.1, "status": "failed"}, "a failed run has no final loss"),
        ({}, "status 'none given' is not known; tell one of completed, diverged, failed"),
        ({"status": "completed"}, "a completed run has a loss"),
        ({"loss": 3.1, "facts": {"x": math.nan}}, "not plain text and finite numbers"),
        ({"loss": 3.1, "facts": {"log": "x" * 30_000}}, "keep logs and curves in files"),
    ],
)
def test_a_result_that_cannot_be(make: Make, told: dict[str, Any], message: str) -> None:
    campaign = make()
    one, two = campaign.ask(2).runs
    campaign.tell(one.run_id, 3.2)
    before = contents(campaign.place.folder)
    with pytest.raises(UserError, match=message):
        campaign.tell(two.run_id, **told)
    assert contents(campaign.place.folder) == before
    assert campaign.runs()[1].state == "pending"
    assert campaign.tell(two.run_id, 3.1, unit="nats", loss_kind="validation, web").state == "completed"


def test_a_doubtful_loss_can_be_confirmed(make: Make) -> None:
    campaign = make()
    run = campaign.ask(1).runs[0]
    assert campaign.tell(run.run_id, 13.0, sure=True).result.loss == 13.0


def test_unknown_id_and_second_tell(make: Make) -> None:
    campaign = make()
    run = campaign.ask(1).runs[0]
    before = contents(campaign.place.folder)
    with pytest.raises(UserError, match=r"there is no run 'small-001' \(did you mean small-0001\?\)"):
        campaign.tell("small-001", 3.2)
    assert contents(campaign.place.folder) == before
    campaign.tell(run.run_id, 3.2)
    before = contents(campaign.place.folder)
    for again in ({"loss": 3.2}, {"loss": 3.0}, {"status": "failed"}, {"status": "diverged"}):
        with pytest.raises(
            UserError, match=r"small-0001 was told already \(completed, loss 3.2\); a result is told once"
        ):
            campaign.tell(run.run_id, **again)
    assert contents(campaign.place.folder) == before


def test_asking_for_nothing(make: Make) -> None:
    with pytest.raises(UserError, match="ask for at least one run"):
        make().ask(0)


def spoil_text(path: Path) -> None:
    path.write_text("run_id,loss\n")


def spoil_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:40960] = b"\xff" * 36864
    path.write_bytes(data)


def spoil_empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil_foreign(path: Path) -> None:
    path.unlink()
    base = sqlite3.connect(path)
    base.execute("create table recipes (name text)")
    base.commit()
    base.close()


def spoil_study(path: Path) -> None:
    """An Optuna storage with a study of somebody else's."""
    import optuna

    path.unlink()
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    optuna.create_study(storage=storage, study_name="mine")
    storage.engine.dispose()


def spoil_settings(path: Path) -> None:
    base = sqlite3.connect(path)
    base.execute(
        "update study_user_attributes set value_json = ?",
        (json.dumps({"format": "scaleband-campaign", "version": 1}),),
    )
    base.commit()
    base.close()


def spoil_version(path: Path) -> None:
    base = sqlite3.connect(path)
    base.execute(
        "update study_user_attributes set value_json = ?",
        (json.dumps({"format": "scaleband-campaign", "version": 9}),),
    )
    base.commit()
    base.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_text, "damaged .it is not an SQLite file.; nothing was changed: restore it"),
        (spoil_empty, "damaged .it is empty."),
        (spoil_cut, "damaged"),
        (spoil_middle, "damaged"),
        (spoil_foreign, "this SQLite file is not Optuna's, so it holds no campaign; it was left as it is"),
        (spoil_study, "an Optuna storage without a campaign of scaleband's"),
        (spoil_settings, "the campaign's settings are damaged"),
        (spoil_version, "written by a newer scaleband .campaign format 9.; upgrade"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_a_storage_that_is_none(make: Make, spoil: Callable[[Path], None], message: str) -> None:
    campaign = make()
    campaign.tell(campaign.ask(1).runs[0].run_id, 3.2)
    campaign.close()
    folder = campaign.place.folder
    spoil(folder / "campaign.db")
    before = contents(folder)
    with pytest.raises(UserError, match=message):
        Campaign.open(folder)
    assert contents(folder) == before


def test_copied_storage_opens(make: Make, tmp_path: Path) -> None:
    campaign = make()
    campaign.tell(campaign.ask(1).runs[0].run_id, 3.2)
    shutil.copytree(campaign.place.folder, tmp_path / "copy")
    with Campaign.open(tmp_path / "copy") as copy:
        assert copy.account().spent > 0


def test_no_campaign_and_a_second_one(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no campaign here; start one: scaleband campaign init"):
        Campaign.open(tmp_path)
    campaign = make()
    before = contents(campaign.place.folder)
    with pytest.raises(UserError, match="there is a campaign already"):
        Campaign.create(campaign.place.folder, small_settings())
    assert contents(campaign.place.folder) == before


def test_pointer_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "campaign.json").write_text("{}")
    with pytest.raises(UserError, match="does not lead to a campaign"):
        Campaign.open(tmp_path)
    address = "postgresql://me:secret@127.0.0.1:9/none"
    (tmp_path / "campaign.json").write_text(
        json.dumps({"format": "scaleband-campaign", "storage": address, "study": "x"})
    )
    with pytest.raises(
        UserError, match=r"postgresql://me@127.0.0.1:9/none: the database does not answer"
    ) as refused:
        Campaign.open(tmp_path)
    assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match="is not PostgreSQL's"):
        Campaign.create(tmp_path / "new", small_settings(), storage="mysql://me@host/db")


CELL = {
    "source": ["own"],
    "data": ["web"],
    "n_params": [5e7],
    "n_tokens": [1e9],
    "lr_peak": [1e-3],
    "batch_tokens": [65536.0],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_flops": 0.0}, "a budget of 0 FLOP buys nothing"),
        ({"budget_flops": math.inf}, "positive, finite"),
        ({"target_runs": 0.0}, "target runs = 0"),
        ({"trust": 2.0}, "trust = 2 is outside 0 to 1"),
        ({"strategy": "luck"}, "there is no strategy 'luck'; choose one of evsi, random"),
        ({"name": "a b"}, "the name 'a b' is not letters"),
        ({"stated": {"colour": "blue"}}, "'colour' is no convention"),
        ({"target": {k: v for k, v in TARGET.items() if k != "n_tokens"}}, "the target has no n_tokens"),
        ({"target": TARGET | {"n_tokens": -1.0}}, "the target's n_tokens = -1 cannot be"),
        ({"target": TARGET | {"source": "a/b"}}, "is no name"),
        ({"target": TARGET | {"n_active": 5e9}}, r"n_active = 5e\+09 is above its n_params = 1e\+09"),
        ({"options": {"replicate": False}}, "there is no option 'replicate' of a strategy; choose from replicates"),
        ({"draws": 0}, "draws = 0 is no number for a fit; give 1 or more"),
        ({"chains": 0}, "chains = 0 is no number"),
        ({"tune": -5}, "tune = -5 is no number"),
        ({"candidates": {}}, "a table of runs that could be made, or limits"),
        ({"candidates": CELL | {"lr_peak": [-1.0]}}, "lr_peak = -1 is not positive"),
        ({"candidates": {k: v for k, v in CELL.items() if k != "lr_peak"}}, "lr_peak is missing"),
        ({"candidates": CELL | {"flops": [0.0]}}, "a candidate costs nothing"),
        ({"candidates": CELL | {"flops": ["1e18x"]}}, "candidates row 1: flops = '1e18x' is no number"),
        ({"candidates": {k: v * 2 for k, v in CELL.items()}}, "candidates row 2: the same setting is there twice"),
        ({"candidates": CELL, "budget_flops": 1e15}, r"cheapest candidate costs 3e\+17 FLOP and the budget is 1e\+15"),
        ({"prior": "no-such-model"}, "no released model 'no-such-model'"),
        ({"grace_s": 10}, "grace period must be longer"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Campaign.create(tmp_path / "new", small_settings(**changes))
    assert not (tmp_path / "new").exists()


def test_a_budget_below_any_run_of_a_grid_is_refused_too(tmp_path: Path) -> None:
    limits = {"sizes": [[5e7, 5e7]], "tokens": [1e9], "flops_max": 3e17}  # 3e17 FLOP a run, and an hour of 1e14 FLOP/s
    changes = {"candidates": {}, "limits": limits, "device": {"peak_flops_per_s": 1e14, "utilisation": 1.0,
                                                              "overhead_hours": 1.0}}  # fmt: skip
    with pytest.raises(UserError, match=r"cheapest candidate costs 6.6e\+17 FLOP \(3.6e\+17 of it overhead\) and the "):
        Campaign.create(tmp_path / "new", small_settings(budget_flops=4e17, **changes))
    assert not (tmp_path / "new").exists()
    Campaign.create(tmp_path / "new", small_settings(budget_flops=6.6e17, **changes)).close()


def test_a_prior_whose_file_is_gone_is_said_and_runs_are_told_all_the_same(tmp_path: Path) -> None:
    prior = tmp_path / "prior.nc"
    shutil.copy(model_path("step-law"), prior)
    with Campaign.create(tmp_path / "new", small_settings(prior=str(prior))) as campaign:
        run = campaign.ask(1).runs[0]
        prior.unlink()
        with pytest.raises(UserError, match=r"prior.nc: the fit that this campaign starts from cannot be read"):
            campaign.posterior()
        assert campaign.tell(run.run_id, 3.2).state == "completed"


def test_candidates_that_do_not_say_what_they_cost_are_priced(tmp_path: Path) -> None:
    two = {k: v * 2 for k, v in CELL.items()} | {"lr_peak": [1e-3, 2e-3], "flops": ["", "1e18"]}
    with Campaign.create(tmp_path / "new", small_settings(candidates=two)) as campaign:
        assert campaign.settings.candidates["flops"] == [6 * 5e7 * 1e9, 1e18]


def test_a_proposer_of_one_s_own_has_its_own_options(tmp_path: Path) -> None:
    settings = small_settings(options={"greed": 0.5})
    with Campaign.create(tmp_path / "new", settings, proposer=random_runs) as campaign:
        assert campaign.settings.options == {"greed": 0.5}
