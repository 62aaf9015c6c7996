"""`scaleband campaign`: a whole campaign in words, what it prints, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaleband.campaign import Campaign, campaign, refit, strategies
from scaleband.campaign.history import Band, Step
from scaleband.campaign.offers import numbered
from scaleband.campaign.strategies import random_runs
from scaleband.cli import main
from scaleband.cli.campaign_status import step_row
from scaleband.cli.words import REGRET_UNIT
from scaleband.design import Proposals, Verdict
from scaleband.design.propose import draws_digest

INIT = [
    "--params", "1e9", "--tokens", "20B", "--source", "mine", "--data", "web", "--budget", "6e18",
    "--sizes", "60M,150M", "--lengths", "2B", "--strategy", "cheapest-first", "--state", "loss_kind=validation",
]  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of one command."""
    code = main(["campaign", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    code, out, err = call(capsys, "init", tmp_path / "first sweep", *INIT)
    assert (code, out) == (0, "")
    assert "started first-sweep in" in err
    assert "candidates, 0 earlier runs, 6e18 FLOP" in err
    return tmp_path / "first sweep"


@pytest.mark.parametrize(("words", "noted"), [(["--strategy", "evsi"], True), (["--strategy", "random"], False),
                                             (["--strategy", "evsi", "--prior", "step-law"], False)])  # fmt: skip
def test_a_start_from_nothing_says_what_would_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], noted: bool
) -> None:
    code, _, err = call(capsys, "init", tmp_path / "a", *INIT, *words)
    assert code == 0
    assert ("--prior step-law --trust 0.5" in err) is noted


def test_a_sparse_target_is_as_sparse_as_the_prior_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparse = [*INIT, "--arch", "moe-1in8", "--json"]
    code, out, err = call(capsys, "init", tmp_path / "a", *sparse, "--prior", "step-law")
    assert code == 0
    assert json.loads(out)["target"]["n_active"] == pytest.approx(1e9 / 3.650, rel=1e-3)
    assert "n_params / n_active is taken to be 3.65, as in the fitted cells of moe-1in8" in err
    code, out, err = call(capsys, "init", tmp_path / "b", *sparse)
    assert json.loads(out)["target"]["n_active"] == 1e9
    assert "moe-1in8 without --active-params: taken as if every parameter were used" in err


def test_a_campaign_from_start_to_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "ask", folder, "-n", 3, "--json")
    asked = json.loads(out)
    assert code == 0
    assert [r["run_id"] for r in asked["runs"]] == ["first-sweep-0001", "first-sweep-0002", "first-sweep-0003"]
    assert asked["runs"][0]["n_tokens"] == 2e9
    assert asked["budget"]["committed_flops"] == pytest.approx(3 * 6 * 60e6 * 2e9)
    assert asked["verdict"]["action"] == "continue"
    assert asked["gate"] == {"passed": None, "messages": []}, "this strategy asks no posterior"

    code, out, _ = call(capsys, "tell", folder, "first-sweep-0001", "3.71")
    assert out == "first-sweep-0001: completed, loss 3.71; 7.2e17 of 6e18 FLOP spent\n"
    code, out, _ = call(capsys, "tell", folder, "first-sweep-0002", "--diverged", "--json")
    assert json.loads(out)["state"] == "diverged"
    code, out, _ = call(capsys, "tell", folder, "first-sweep-0003", "--failed", "--flops", "0", "--reason", "disk full")
    assert out.startswith("first-sweep-0003: back in the pool; 1.44e18 of 6e18")
    code, out, err = call(capsys, "ask", folder)
    assert out.splitlines()[0].split()[:3] == ["run_id", "params", "tokens"]
    assert out.splitlines()[1].split()[0] == "first-sweep-0003"
    assert "budget: 6e18 FLOP, 1.44e18 spent, 7.2e17 out, 3.84e18 left" in err
    code, out, _ = call(capsys, "tell", folder, "first-sweep-0003", "--give-back")
    assert "back in the pool" in out

    table = folder / "runs.csv"
    code, out, err = call(capsys, "status", folder, "--fill", "known", "--runs-out", table, "--json")
    said = json.loads(out)
    assert (code, said["interval_kind"]) == (0, "eti")
    assert said["runs"] == {"completed": 1, "diverged": 1, "pending": 0, "waiting": 1, "failed": 0}
    assert [s["run_id"] for s in said["steps"]] == ["", "first-sweep-0001", "first-sweep-0002"]
    assert set(said["steps"][0]["lr_peak"]) == {"median", "lower", "upper"}
    assert said["steps"][1]["lr_peak"] is None  # never sampled
    assert said["gate"] == {"passed": None, "messages": []}, "never sampled: not known"
    assert said["reasons"] == {"first-sweep-0003": "disk full"}
    from scaleband.runs import read_runs

    assert list(read_runs(table, purpose="loss").frame["run_id"]) == [f"first-sweep-000{k}" for k in (1, 2, 3)]

    code, out, err = call(capsys, "status", folder, "--fill", "known")
    assert out.startswith("first-sweep: 1B parameters, 20B tokens, group mine/dense/web\nbudget ")
    assert "1 completed, 1 diverged, 1 waiting" in out
    assert "first-sweep-0003: disk full\n" in out
    assert "first-sweep-0001  3.7100" in out
    assert "--fill all fits them" in err


def test_an_ask_repeats_the_mark_of_the_posterior_that_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*INIT[:-4], "--state", "loss_kind=validation"]
    assert call(capsys, "init", tmp_path / "c", *words, "--draws", 100, "--json")[0] == 0
    assert json.loads(call(capsys, "status", tmp_path / "c", "--json")[1])["gate"]["passed"] is True

    def doubted(*asked: Any) -> refit.Posterior:
        found = refit.posterior_for(*asked)
        gate = {"passed": False, "messages": ["R-hat 1.2 at rho is above 1.01"]}
        return replace(found, draws=replace(found.draws, meta={**found.draws.meta, "gate": gate}))

    monkeypatch.setattr(campaign, "posterior_for", doubted)
    mark = "warning: the diagnostic gate failed: R-hat 1.2 at rho is above 1.01\n"
    code, out, err = call(capsys, "ask", tmp_path / "c", "--past-stop", "--quiet")
    assert (code, mark in err) == (3, True)
    assert out.splitlines()[1].startswith("c-0001")
    monkeypatch.undo()
    code, out, err = call(capsys, "ask", tmp_path / "c", "--quiet", "--json")
    assert [r["run_id"] for r in json.loads(out)["runs"]] == ["c-0002"], "out of the same bundle"
    assert (code, mark in err) == (3, True)
    assert json.loads(out)["gate"] == {"passed": False, "messages": ["R-hat 1.2 at rho is above 1.01"]}


def test_a_run_that_diverged_at_a_loss_is_shown_as_diverged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "ask", folder, "-n", 2, "--json")
    call(capsys, "tell", folder, "first-sweep-0001", "3.71")
    assert call(capsys, "tell", folder, "first-sweep-0002", "9.5", "--diverged")[0] == 0
    code, out, _ = call(capsys, "status", folder, "--fill", "known")
    assert code == 0
    assert "first-sweep-0001  3.7100" in out
    assert "first-sweep-0002  diverged" in out
    assert "9.5" not in out


def test_status_says_that_all_runs_diverged_and_how_old_the_verdict_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = tmp_path / "c", ("--prior", "step-law", "--draws", 60, "--chains", 1)
    assert call(capsys, "init", folder, *INIT, *words)[0] == 0
    assert "trust 1: nothing told yet" in call(capsys, "status", folder)[1]
    call(capsys, "ask", folder, "-n", 2)
    call(capsys, "tell", folder, "c-0001", "--failed", "--flops", 0)
    call(capsys, "ask", folder, "-n", 2)  # the verdict knows of the failure
    call(capsys, "tell", folder, "c-0002", "--give-back")
    call(capsys, "tell", folder, "c-0003", "--diverged")
    _, out, _ = call(capsys, "status", folder)
    assert "trust 1: 1 runs diverged, none completed" in out
    assert "before the last result, `ask` thinks again: continue" in out


def test_regrets_are_told_in_percent_and_their_unit_stands_in_the_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    band = Band((1e-3, 5e-4, 2e-3), (5e5, 2e5, 1e6), 1e-3, 5e5, 60.0)
    row = step_row(Step("first-sweep-0001", "completed", 3.71, 1, 7.2e17, band))
    assert row[3] == "82 %", "60 log units"
    call(capsys, "ask", folder, "-n", 1, "--json")
    call(capsys, "tell", folder, "first-sweep-0001", "3.71")
    words = ("status", folder, "--fill", "known")
    assert json.loads(call(capsys, *words, "--json")[1])["regret_unit"] == REGRET_UNIT
    assert "regret, %" not in call(capsys, *words)[1]


def test_a_cost_that_looks_like_a_slip_is_asked_about(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "ask", folder, "-n", 2)
    for flops in ("7.2e20", "0.72"):
        code, _, err = call(capsys, "tell", folder, "first-sweep-0001", 3.4, "--flops", flops)
        assert (code, "times the 7.2e+17 that it was to train, and the budget is charged" in err) == (1, True)
    assert call(capsys, "tell", folder, "first-sweep-0001", 3.4, "--flops", "7.2e15", "--sure")[0] == 0
    code, out, _ = call(capsys, "tell", folder, "first-sweep-0002", "--diverged", "--flops", "1e15")
    assert (code, "8.2e15 of 6e18 FLOP spent" in out) == (0, True)


def test_a_table_of_no_runs_is_said_not_to_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "status", folder, "--fill", "known", "--runs-out", folder / "runs.csv")
    assert (code, (folder / "runs.csv").exists()) == (0, False)
    assert "there is no run yet, so " in err


def test_a_campaign_in_dollars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "init", tmp_path / "a", *INIT, "--overhead-hours", 1)
    assert (code, "needs --device-flops" in err) == (2, True)
    device = ("--device-flops", "1e15", "--utilisation", 0.5, "--overhead-hours", 0.5, "--price-per-hour", 2)
    assert call(capsys, "init", tmp_path / "a", *INIT, *device)[0] == 0
    code, out, err = call(capsys, "ask", tmp_path / "a", "-n", 8)
    assert out.splitlines()[0].split()[-1] == "dollars"
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["$1.80"] * 3  # 0.4 h of training and 0.5 h
    assert "in dollars: $6.67, $0.00 spent, $5.40 out, $1.27 left; overhead counted" in err
    code, out, _ = call(capsys, "status", tmp_path / "a", "--fill", "known", "--json")
    budget = json.loads(out)["budget"]
    assert (budget["committed_price"], budget["price_unit"]) == (pytest.approx(5.4), "dollars")
    assert "in dollars" in call(capsys, "status", tmp_path / "a", "--fill", "known")[1]


def test_run_until_the_budget_is_spent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "run", folder, "--workers", 2, "--synthetic", "--quiet", "--json")
    said = json.loads(out)
    assert (code, said["why"]) == (0, "budget")
    assert said["completed"] + said["diverged"] == 8
    assert "started first-sweep-0001" in err
    code, out, _ = call(capsys, "ask", folder, "--json")
    assert json.loads(out)["runs"] == []


def test_a_loop_repeats_the_mark_of_the_posterior_that_it_ended_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(capsys, "init", tmp_path / "c", *INIT[:-4], "--draws", 60)[0] == 0

    def doubted(*asked: Any) -> refit.Posterior:
        found = refit.posterior_for(*asked)
        gate = {"passed": False, "messages": ["R-hat 1.2 at rho is above 1.01"]}
        return replace(found, draws=replace(found.draws, meta={**found.draws.meta, "gate": gate}))

    def stop(asked: strategies.Request, n: int) -> Any:
        verdict = Verdict("stop", "stop: not worth it", 1.0, 0.1, 0.0, 1e18, 0.0, 1e18)
        return Proposals((), verdict, 1e18, 1e18, draws_digest(asked.draws()), 0, {})

    monkeypatch.setattr(campaign, "posterior_for", doubted)
    monkeypatch.setitem(campaign.PROPOSERS, "evsi", stop)
    code, out, err = call(capsys, "run", tmp_path / "c", "--synthetic", "--quiet", "--json")
    assert (code, json.loads(out)["why"]) == (3, "verdict")
    assert json.loads(out)["gate"] == {"passed": False, "messages": ["R-hat 1.2 at rho is above 1.01"]}
    assert "warning: the diagnostic gate failed: R-hat 1.2 at rho is above 1.01" in err


def test_run_a_command_that_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "run", folder, "--quiet", "--command", "false", "{lr_peak}", "{result}")
    assert code == 1
    assert "ended (failures): 3 runs failed in a row" in out
    assert "failed: " in err


def test_candidates_and_runs_of_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "can.csv").write_text(
        "n_params,n_tokens,lr_peak,batch_tokens\n6e7,2e9,1e-3,65536\n6e7,2e9,2e-3,65536\n"
    )
    (tmp_path / "old.csv").write_text(
        "run_id,source,data,n_params,n_tokens,lr_peak,batch_tokens,loss\n"
        "old-1,mine,web,6e7,2e9,5e-4,65536,3.9\nold-2,mine,web,6e7,2e9,4e-3,65536,3.8\n"
    )
    base = ["--params", "1e9", "--tokens", "2e10", "--source", "mine", "--data", "web", "--budget", "1e19",
            "--strategy", "random"]  # fmt: skip
    code, out, _ = call(
        capsys, "init", tmp_path / "c", *base, "--candidates", tmp_path / "can.csv", "--runs", tmp_path / "old.csv",
        "--prior", "step-law", "--trust", 0.5, "--json",
    )  # fmt: skip
    said = json.loads(out)
    assert (code, said["candidates"], said["given_runs"]) == (0, 2, 2)
    assert (said["prior"], said["trust"]) == ("step-law", 0.5)
    assert "none yet, beside 2 of before" in call(capsys, "status", tmp_path / "c", "--fill", "known")[1]
    assert json.loads(call(capsys, "status", tmp_path / "c", "--fill", "known", "--json")[1])["given_runs"] == 2
    code, out, _ = call(capsys, "ask", tmp_path / "c", "-n", 5, "--json")
    assert sorted(r["lr_peak"] for r in json.loads(out)["runs"]) == [1e-3, 2e-3]
    code, _, err = call(capsys, "tell", tmp_path / "c", "of-my-own", 3.7)
    assert (code, "runs that it did not propose are for a new campaign, init --runs" in err) == (1, True)


def test_candidates_keep_their_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "can.csv").write_text(
        "run_id,n_params,n_tokens,lr_peak,batch_tokens\nexp-a,6e7,2e9,1e-3,65536\n,6e7,2e9,2e-3,65536\n"
    )
    assert call(capsys, "init", tmp_path / "c", *BASE, "--candidates", tmp_path / "can.csv")[0] == 0
    out = call(capsys, "ask", tmp_path / "c", "-n", 2, "--json")[1]
    assert {r["lr_peak"]: r["run_id"] for r in json.loads(out)["runs"]}[1e-3] == "exp-a"
    assert call(capsys, "tell", tmp_path / "c", "exp-a", 3.5)[1].startswith("exp-a: completed")
    with Campaign.open(tmp_path / "c") as campaign:
        some = random_runs(campaign.request([]), 2).proposals
        mine = min(some, key=lambda p: p.inputs["lr_peak"])
        records = numbered([mine, mine], campaign.runs(), campaign.settings, {})
    assert [r["run_id"] for r in records] == ["exp-a-r1", "exp-a-r2"]


def test_earlier_runs_that_run_are_refused_and_failed_ones_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "run_id,source,data,n_params,n_tokens,lr_peak,batch_tokens,loss,status\n"
    rows = "a,mine,web,6e7,2e9,1e-3,65536,3.5,completed\nb,mine,web,6e7,2e9,2e-3,65536,,failed\n"
    (tmp_path / "old.csv").write_text(head + rows + "c,mine,web,6e7,2e9,4e-3,65536,,running\n")
    code, _, err = call(capsys, "init", tmp_path / "c", *INIT, "--runs", tmp_path / "old.csv")
    assert code == 1
    assert "the earlier runs: 1 of 3 are still running (first run_id c, row 3)" in err
    assert not (tmp_path / "c").exists()
    (tmp_path / "old.csv").write_text(head + rows)
    code, _, err = call(capsys, "init", tmp_path / "c", *INIT, "--runs", tmp_path / "old.csv")
    assert code == 0
    assert "note: 1 of the earlier runs failed and say nothing: left out" in err
    assert ", 1 earlier run," in err


BASE = ["--params", "1e9", "--tokens", "2e10", "--source", "mine", "--data", "web", "--budget", "1e19",
        "--strategy", "random"]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("n_params,n_tokens,lr,batch\n6e7,2e9,1e-3,65536\n", "can.csv: column lr is not read; rename it lr_peak"),
        ("n_params,n_tokens,lr_peak,batch_tokens,FLOPs\n6e7,2e9,1e-3,65536,7e17\n", "rename it flops"),
        ("n_params,n_tokens,lr_peak,batch_tokens\n6e7,2e9,,65536\n", "can.csv row 1: lr_peak is missing"),
        ("n_params,n_tokens,lr_peak,batch_tokens\n6e7,2e9,1e-3,65536\n6e7,2e9,,\n", "can.csv: row 2 has no lr_peak"),
        ("n_params,n_tokens,lr_peak,batch_tokens,flops\n6e7,2e9,1e-3,65536,-5\n", "can.csv: row 1: flops = -5"),
        ("run_id,n_params,n_tokens,lr_peak,batch_tokens\na,6e7,2e9,1e-3,65536\na,6e7,2e9,2e-3,65536\n",
         "can.csv: two candidates have the run_id 'a'"),
        ("run_id,n_params,n_tokens,lr_peak,batch_tokens\n../a,6e7,2e9,1e-3,65536\n",
         "can.csv row 1: run_id '../a' cannot name a run's folder"),
        ("n_params,n_tokens,lr_peak,batch_tokens\n" + "6e7,2e9,1e-3,65536\n" * 2, "can.csv row 2: the same setting"),
        ("n_params,n_tokens,lr_peak,batch_tokens\n1e9,2e10,1e-3,65536\n", "the cheapest candidate costs 1.2e+20 FLOP"),
    ],
)  # fmt: skip
def test_candidates_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, says: str
) -> None:
    (tmp_path / "can.csv").write_text(table)
    code, out, err = call(capsys, "init", tmp_path / "c", *BASE, "--candidates", tmp_path / "can.csv")
    assert (code, out) == (1, "")
    assert says in err
    assert not (tmp_path / "c").exists()


def test_candidates_of_a_related_group_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "can.csv").write_text(
        "source,n_params,n_tokens,lr_peak,batch_tokens,bundle\nother,6e7,2e9,1e-3,65536,\n,6e7,2e9,2e-3,65536,b\n"
    )
    assert call(capsys, "init", tmp_path / "c", *BASE, "--candidates", tmp_path / "can.csv")[0] == 0
    with Campaign.open(tmp_path / "c") as campaign:
        assert campaign.settings.candidates["source"] == ["other", "mine"]
        assert campaign.settings.candidates["bundle"] == ["", "b"]
    code, _, err = call(capsys, "init", tmp_path / "d", *INIT[:4], "--budget", "1e18")
    assert (code, "a campaign answers for one group" in err) == (2, True)


def test_runs_of_before_without_rates_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "mine,web,6e7,2e9,3.9\nmine,web,9e7,2e9,3.8\n"
    (tmp_path / "old.csv").write_text("source,data,n_params,n_tokens,loss\n" + rows)
    words = ["init", tmp_path / "c", *INIT, "--runs", tmp_path / "old.csv"]
    code, out, err = call(capsys, *words)
    assert (code, out) == (1, "")
    assert "lr_peak is missing in 2 of 2 rows" in err
    assert not (tmp_path / "c").exists()


def test_a_verdict_of_before_the_last_results_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "ask", folder, "-n", 2)
    assert "before the last" not in call(capsys, "status", folder, "--fill", "known")[1]
    call(capsys, "tell", folder, "first-sweep-0001", 3.1)
    assert "before the last result" in call(capsys, "status", folder, "--fill", "known")[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tell", "DIR", "first-sweep-0001", "nan"], 1, "the loss is NaN"),
        (["tell", "DIR", "first-sweep-0001", "3.1", "--unit", "bits"], 1, "this campaign counts nats per token"),
        (["tell", "DIR", "first-sweep-0001", "0.9", "--loss-kind", "bits per byte"], 1, "they cannot be compared"),
        (["tell", "DIR", "first-sweep-0001", "40"], 1, "perplexity is not loss"),
        (["tell", "DIR", "first", "3.1"], 1, "there is no run 'first'"),
        (["tell", "DIR", "first-sweep-0001"], 2, "give the loss, or --diverged"),
        (["tell", "DIR", "first-sweep-0001", "3", "--failed"], 2, "leave the loss out"),
        (["tell", "DIR", "first-sweep-0001", "three"], 2, "'three' is not a number"),
        (["ask", "NONE"], 1, "there is no campaign here"),
        (["status", "NONE"], 1, "there is no campaign here"),
        (["init", "DIR", *INIT], 1, "there is a campaign already"),
        (["init", "NONE", *INIT[:8], "--budget", "1e18"], 2, "say what can be run"),
        (["init", "NONE", *INIT, "--trust", "0.5"], 2, "give --prior MODEL too"),
        (["init", "NONE", *INIT, "--state", "loss_kind"], 2, "states nothing"),
        (["init", "NONE", *INIT, "--prior", "nobody"], 1, "no released model 'nobody'"),
        (["run", "DIR", "--command"], 2, "names a program"),
        (["init", "NONE", *INIT[:8], "--budget", "1e18", "--sizes", "60M", "--lengths", "2B", "--batch-max", "1000"], 1,
         "is below the smallest that may be run"),
        (["join", "NONE", "--storage", "sqlite:///x", "--name", "x"], 1, "is not PostgreSQL's"),
    ],
)  # fmt: skip
def test_refusals(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    if words[0] == "tell":
        call(capsys, "ask", folder)
    places = {"DIR": str(folder), "NONE": str(tmp_path / "none")}
    found, out, err = call(capsys, *[places.get(w, w) for w in words])
    assert (found, out) == (code, "")
    assert message in err
    assert not (tmp_path / "none").exists()
