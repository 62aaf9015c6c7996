"""The whole loop against the synthetic trainer: every run ends once, whatever workers do."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scaleband.campaign import Campaign
from scaleband.campaign.loop import Outcome, run_campaign, run_folder, spec_of, tell_result
from scaleband.campaign.proposers import candidates_for
from scaleband.campaign.refit import prior_draws_of
from scaleband.campaign.settings import setting_key
from scaleband.campaign.strategies import Request, random_runs
from scaleband.design import Proposals
from scaleband.errors import UserError
from scaleband.training import CommandAdapter, Limits, RunResult, RunSpec, SyntheticAdapter, failed, run_one

Make = Callable[..., Campaign]
PRICE = 3e17


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(3) as pool:
        yield pool


def test_until_the_budget_is_spent(make: Make, threads: Any) -> None:
    said: list[str] = []
    campaign = make(budget_flops=12 * PRICE)
    ended = run_campaign(campaign, SyntheticAdapter(), threads, workers=3, report=said.append)
    assert ended.why == "budget"
    runs = campaign.runs()
    assert {r.state for r in runs} <= {"completed", "diverged"}
    assert ended.completed + ended.diverged == len(runs)
    account = campaign.account()
    assert account.committed == 0
    assert account.spent <= account.budget  # although whole steps make a few tokens more than were asked for
    assert account.left < 2 * PRICE
    assert {r.spent_flops for r in runs if r.state == "completed"} == {r.price_flops for r in runs}
    first = runs[0]
    assert first.result.facts["device"] == "synthetic"
    assert (run_folder(campaign, first.run_id) / "result.json").is_file()
    assert any(text.startswith(f"{first.run_id}: ") for text in said)
    table = campaign.table()
    assert len(table) == len(runs)


@dataclass(frozen=True)
class Fails:
    """Fails the first so many calls of each run."""

    times: int
    reason: str = "out of memory: 80 GB"

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        tries = len(list(folder.glob("try-*")))
        (folder / f"try-{tries}").touch()
        if tries < self.times and spec.run_id.endswith(("2", "5")):
            return failed(spec, self.reason, n_tokens=int(spec.n_tokens / 4))
        return SyntheticAdapter().run(spec, folder)


def test_failed_trainings_come_back_and_cost_what_they_used(make: Make, threads: Any) -> None:
    campaign = make(budget_flops=8 * PRICE, retries=2)
    ended = run_campaign(campaign, Fails(1), threads, workers=2)
    assert ended.failed == 2
    again = [r for r in campaign.runs() if r.attempts == 2]
    assert [r.run_id for r in again] == ["small-0002", "small-0005"]
    assert all(r.result is not None and r.state != "failed" for r in again)
    assert again[0].spent_flops == pytest.approx(again[0].result.flops + PRICE / 4)


@dataclass(frozen=True)
class FailsEvery:
    """Fails every so many runs."""

    share: int

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        if int(spec.run_id[-4:]) % self.share == 0:
            return failed(spec, "disk full")
        return SyntheticAdapter().run(spec, folder)


@dataclass(frozen=True)
class Broken:
    """Never works."""

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        raise FileNotFoundError("train.py")


def test_broken_set_up_ends_the_loop_and_keeps_the_budget(make: Make, threads: Any) -> None:
    campaign = make()
    ended = run_campaign(campaign, Broken(), threads, workers=1)
    assert (ended.why, ended.failed) == ("failures", 3)
    assert "3 runs failed in a row" in ended.sentence
    assert campaign.account().spent == 0.0
    assert (
        "FileNotFoundError: train.py"
        in next(a.result.facts["reason"] for a in campaign.attempts() if a.result is not None)
    )


def test_an_end_for_want_of_settings_that_were_given_up_is_no_spent_budget(make: Make, threads: Any) -> None:
    def bad(share: int) -> Outcome:
        campaign = make(f"of-{share}", retries=0, budget_flops=1e20)
        return run_campaign(campaign, FailsEvery(share), threads, workers=1)

    ended = bad(2)
    assert (ended.why, ended.failed, ended.completed + ended.diverged) == ("given up", 8, 8)
    assert "settings given up after failures: 8" in ended.sentence
    assert "start a new campaign" in ended.sentence
    assert bad(99).why == "budget"


def test_a_failure_s_line_names_what_the_program_printed(make: Make, threads: Any) -> None:
    campaign, said = make(), []
    crash = CommandAdapter(
        (sys.executable, "-I", "-c", "print('CUDA out of memory'); raise SystemExit(3)", "{result}")
    )
    run_campaign(campaign, crash, threads, workers=1, report=said.append)
    log = run_folder(campaign, "small-0001") / "log-tail.txt"
    assert log.read_text().strip() == "CUDA out of memory"
    assert any("exit code 3" in line and f"; the end of what it printed: {log};" in line for line in said)
    run_campaign(other := make("other"), Broken(), threads, workers=1, report=said.append)
    assert f"; its folder: {run_folder(other, 'small-0001')};" in said[-1]


def test_refused_loss_is_a_failure_with_the_reason(make: Make) -> None:
    campaign = make()
    run = campaign.ask(1).runs[0]
    told = tell_result(campaign, run, RunResult(run_id=run.run_id, status="completed", loss=28.0))
    assert told.state == "failed"
    assert "perplexity is not loss" in told.result.facts["reason"]
    assert "convert it in the training program" in told.result.facts["reason"]
    assert "confirm it" not in told.result.facts["reason"]  # nobody is asked, and it is told already


@dataclass(frozen=True)
class Perplexity:
    """Hands back what is no loss."""

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        return RunResult(run_id=spec.run_id, status="completed", loss=22.4, n_tokens=spec.n_tokens)


def test_the_table_has_what_was_trained_where_that_is_another_cell(make: Make) -> None:
    campaign = make()
    others = ({}, {"n_tokens": 800_000_000}, {"n_params": 45_000_000}, {"n_params": 50_200_000}, {"n_tokens": 10**8})
    for run, other in zip(campaign.ask(5).runs, others, strict=True):
        blown = run.run_id.endswith("5")  # in its beginning: it keeps the cell that it was meant for
        said = {"status": "diverged"} if blown else {"status": "completed", "loss": 3.0}
        tell_result(campaign, run, RunResult(**({"run_id": run.run_id, "n_tokens": 10**9} | said | other)))
    table = campaign.table()
    assert list(table["n_tokens"]) == [1e9, 8e8, 1e9, 1e9, 1e9]
    assert list(table["n_params"]) == list(table["n_active"]) == [5e7, 5e7, 4.5e7, 5e7, 5e7]
    # and what was asked for counts as made all the same
    made = {run.key for run in campaign.runs()}
    assert not made & {run.key for run in campaign.ask(3).runs}
    request = campaign.request(campaign.attempts())
    assert request.made == made
    offered = candidates_for(request, prior_draws_of(campaign.settings, "0" * 8))
    keys = {setting_key(offered.inputs(k)) for k in range(len(offered.flops))}
    assert [run.key in keys for run in campaign.runs()[:5]] == [True, False, False, True, True]


def test_losses_that_are_refused_count_as_failures_and_end_the_loop(make: Make, threads: Any) -> None:
    said: list[str] = []
    ended = run_campaign(make(), Perplexity(), threads, workers=1, report=said.append)
    assert (ended.why, ended.completed, ended.failed) == ("failures", 0, 3)
    assert sum("perplexity is not loss" in line for line in said) == 3


@pytest.mark.parametrize(
    ("said", "spent"),
    [
        ({"reason": "the worker was lost (killed)"}, PRICE),
        ({"reason": "ran past its limit of 2 s and was stopped", "wall_seconds": 2.0}, PRICE),
        ({"reason": "the program ended with exit code 1", "wall_seconds": 3600.0}, PRICE),
        ({"reason": "the program ended with exit code 1", "wall_seconds": 3.0}, 0.0),  # it had not begun
        ({"reason": "out of memory", "steps": 900}, PRICE),
        ({"reason": "ran past its limit of 2 s", "steps": 900, "flops": 1e17, "wall_seconds": 2.0}, 1e17),
    ],
)
def test_what_a_failure_costs(make: Make, said: dict[str, Any], spent: float) -> None:
    campaign = make()
    run = campaign.ask(1).runs[0]
    told = tell_result(campaign, run, RunResult(run_id=run.run_id, status="failed", **said))
    assert (told.state, told.spent_flops) == ("waiting", spent)


def test_finished_training_of_a_killed_loop_is_not_done_again(make: Make, threads: Any) -> None:
    campaign = make(budget_flops=3 * PRICE, heartbeat_s=1, grace_s=2)
    run = campaign.ask(1, heartbeat=True).runs[0]
    campaign.beat(run.run_id)
    # the loop dies here; its worker goes on and writes its result
    then = spec_of(run, campaign, Limits(wall_seconds=3600.0))
    done = run_one(SyntheticAdapter(), then, run_folder(campaign, run.run_id))
    calls: list[str] = []

    @dataclass(frozen=True)
    class Counting:
        def run(self, spec: RunSpec, folder: Path) -> RunResult:
            calls.append(spec.run_id)
            return SyntheticAdapter().run(spec, folder)

    run_campaign(campaign, Counting(), threads, workers=1, limits=Limits(wall_seconds=7200.0))
    assert calls == ["small-0002", "small-0003"]
    told = next(r for r in campaign.runs() if r.run_id == run.run_id)
    assert told.result.loss == done.loss
    assert told.spent_flops == PRICE  # charged once, for all the tokens that it was asked for


def test_training_that_ends_after_its_run_was_given_up(make: Make, threads: Any) -> None:
    campaign = make(budget_flops=1.5 * PRICE, heartbeat_s=1, grace_s=2, retries=0)
    run = campaign.ask(1, heartbeat=True).runs[0]
    campaign.beat(run.run_id)
    time.sleep(4.1)
    assert campaign.ask(1).runs == ()
    assert campaign.runs()[0].state == "failed"
    done = run_one(SyntheticAdapter(), spec_of(run, campaign, Limits()), run_folder(campaign, run.run_id))
    ended = run_campaign(campaign, SyntheticAdapter(), threads, workers=1)
    assert ended.completed + ended.diverged == 1
    told = campaign.runs()[0]
    assert told.result.loss == done.loss
    assert told.spent_flops == PRICE  # once, not twice


def test_a_sign_of_life_that_fails_is_not_the_last(make: Make, threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign, said, calls = make(budget_flops=1.5 * PRICE, heartbeat_s=1, grace_s=60), [], []

    def beat(self: Campaign, run_id: str) -> bool:
        calls.append(run_id)
        if len(calls) == 1:
            raise OSError("database is locked")
        return True

    monkeypatch.setattr(Campaign, "beat", beat)
    ended = run_campaign(campaign, SyntheticAdapter(seconds=3.5), threads, workers=1, report=said.append)
    assert (ended.completed, len(calls) >= 2) == (1, True)
    assert any("no sign of life could be written (database is locked)" in line for line in said)


def test_while_it_waits_for_others_it_proposes_only_when_something_changed(make: Make, threads: Any) -> None:
    seen: list[tuple[int, int]] = []

    def counting(request: Request, n: int) -> Proposals:
        seen.append((0 if request.pending is None else len(request.pending),
                     0 if request.history is None else len(request.history)))  # fmt: skip
        return random_runs(request, n)

    campaign = make(budget_flops=1.5 * PRICE, heartbeat_s=1, grace_s=3, proposer=counting)
    lost = campaign.ask(1, heartbeat=True).runs[0]  # another loop's, whose worker dies
    campaign.beat(lost.run_id)
    seen.clear()
    with Campaign.open(campaign.place.folder, proposer=counting) as other:
        ended = run_campaign(other, SyntheticAdapter(), threads, workers=2)
    assert ended.why == "budget"
    assert seen == [(1, 0), (0, 0)]  # while it was out, and once it was taken for lost


def test_a_run_out_of_the_pool_is_no_lost_one_while_others_are_weighed(make: Make, threads: Any) -> None:
    def slow(request: Request, n: int) -> Proposals:
        time.sleep(5.0)  # longer than the grace period, as sampling may be
        return random_runs(request, n)

    campaign = make(budget_flops=2 * PRICE, heartbeat_s=1, grace_s=3)
    campaign.give_back(campaign.ask(1).runs[0].run_id)
    with Campaign.open(campaign.place.folder, proposer=slow) as other:
        ended = run_campaign(other, SyntheticAdapter(seconds=6.0), threads, workers=2)
    assert ended.completed + ended.diverged == len(campaign.runs())
    assert not any(attempt.lost for attempt in campaign.attempts())


def test_asked_to_stop_waits_for_what_is_out(make: Make, threads: Any) -> None:
    campaign = make()
    enough = threading.Event()
    ended = run_campaign(
        campaign,
        SyntheticAdapter(seconds=0.2),
        threads,
        workers=2,
        enough=enough.is_set,
        report=lambda text: enough.set(),
    )
    assert ended.why == "asked"
    assert {r.state for r in campaign.runs()} <= {"completed", "diverged"}
    with pytest.raises(UserError, match="workers = 0"):
        run_campaign(campaign, SyntheticAdapter(), threads, workers=0)
