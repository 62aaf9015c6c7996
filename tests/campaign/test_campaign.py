"""Ask and tell: what is proposed, what it costs, what comes back, what is written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_campaign import small_settings

from scaleband.campaign import Campaign, pool
from scaleband.campaign.offers import numbered
from scaleband.campaign.strategies import Request, cost_weighted_runs, random_runs
from scaleband.design import Proposals
from scaleband.errors import UserError

Make = Callable[..., Campaign]
SMALL, LARGE = 3e17, 6e17


def test_ask_tell_and_open_again(make: Make) -> None:
    campaign = make()
    asked = campaign.ask(2)
    assert [r.run_id for r in asked.runs] == ["small-0001", "small-0002"]
    assert all(r.state == "pending" and r.price_flops == SMALL for r in asked.runs)
    assert asked.account.committed == 2 * SMALL
    done = campaign.tell("small-0001", 3.25, loss_se=0.01, facts={"device": "cpu"})
    assert (done.state, done.result.loss, done.result.facts) == ("completed", 3.25, {"device": "cpu"})
    assert campaign.tell("small-0002", status="diverged", loss=float("inf"), flops=1e17).spent_flops == 1e17

    with Campaign.open(campaign.place.folder) as again:
        assert again.settings == campaign.settings
        assert again.runs() == campaign.runs()
        account = again.account()
        assert (account.spent, account.committed, account.left) == (SMALL + 1e17, 0, 3e18 - SMALL - 1e17)
        table = again.table().set_index("run_id")
    assert table.loc["small-0001", "loss"] == 3.25
    assert table.loc["small-0001", "loss_kind"] == "validation, web"
    assert table.loc["small-0002", "status"] == "diverged"
    assert np.isnan(table.loc["small-0002", "loss"])


def test_budget_pays_for_what_is_out_and_no_more(make: Make) -> None:
    campaign = make(budget_flops=5 * SMALL + 0.5 * LARGE)
    runs = campaign.ask(16).runs
    assert [r.price_flops for r in runs] == [SMALL] * 6
    stopped = campaign.ask(1)
    assert stopped.runs == ()
    assert stopped.verdict.stop
    assert "no candidate costs as little" in stopped.verdict.why
    campaign.tell(runs[0].run_id, 3.0, flops=0.0)  # came for nothing: its price is free again
    assert len(campaign.ask(3).runs) == 1


def test_a_budget_of_exactly_all_prices_buys_every_run_whatever_rounding_does(make: Make) -> None:
    rng = np.random.default_rng(0)
    cell = {"source": ["own"] * 6, "data": ["web"] * 6, "n_params": [5e7] * 6, "n_tokens": [1e9] * 6,
            "lr_peak": [1e-4 * 2**k for k in range(6)], "batch_tokens": [65536.0] * 6}  # fmt: skip
    for k in range(6):
        prices = rng.uniform(1e17, 9e18, 6).tolist()
        changes = {"candidates": cell | {"flops": prices}, "budget_flops": sum(prices), "seed": k}
        campaign = make(f"all-{k}", strategy="random", **changes)
        runs = campaign.ask(6).runs
        assert len(runs) == 6
        for run in runs[:-1]:
            campaign.tell(run.run_id, 3.0)
        assert campaign.give_back(runs[-1].run_id).state == "waiting"


def test_overhead_is_paid_by_every_attempt(make: Make) -> None:
    # 1e15 FLOP/s at half of it: an hour is 1.8e18 FLOP, so a sixth of one costs as much as a small run trains
    device = {"peak_flops_per_s": 1e15, "utilisation": 0.5, "overhead_hours": SMALL / 1.8e18, "price_per_hour": 3.0}
    campaign = make(budget_flops=5 * SMALL, device=device, retries=1)
    runs = campaign.ask(16).runs
    assert [(r.flops, r.overhead_flops) for r in runs] == [(SMALL, pytest.approx(SMALL))] * 2
    assert campaign.account().committed == pytest.approx(4 * SMALL)
    first, second = (r.run_id for r in runs)
    assert campaign.tell(first, status="failed", flops=0).spent_flops == pytest.approx(SMALL)  # started up for nothing
    assert campaign.account().left == pytest.approx(0)
    assert campaign.give_back(second).spent_flops == 0  # never started up
    campaign.ask(2)
    assert campaign.tell(second, 3.0).spent_flops == pytest.approx(2 * SMALL)
    assert campaign.runs()[1].result.flops == SMALL
    assert campaign.table().set_index("run_id").loc[second, "flops"] == SMALL
    assert campaign.settings.prices().price(campaign.account().spent) == pytest.approx(3 * 3 * SMALL / 1.8e18)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ({"utilisation": 0.4}, "has no peak_flops_per_s"),
        ({"peak_flops_per_s": 1e15, "watts": 700.0}, "has 'watts'"),
        ({"peak_flops_per_s": 1e15, "utilisation": 1.5}, "utilisation = 1.5 cannot be"),
        ({"peak_flops_per_s": 0.0}, "peak_flops_per_s = 0.0 cannot be"),
        ({"peak_flops_per_s": 1e15, "overhead_hours": -1.0}, "overhead_hours = -1.0 cannot be"),
    ],
)
def test_a_device_that_cannot_be_is_refused(make: Make, device: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(device=device)


def test_no_setting_twice_until_none_is_left(make: Make) -> None:
    campaign = make(budget_flops=1e20)
    runs = [r for _ in range(8) for r in campaign.ask(3).runs]
    assert len({r.key for r in runs}) == len(runs) == 16
    assert "was made, is out, or was given up" in campaign.ask(1).verdict.why


def test_failed_run_comes_back_and_is_charged_then_given_up(make: Make) -> None:
    campaign = make(retries=1)
    first = campaign.ask(1).runs[0]
    back = campaign.tell(first.run_id, status="failed", flops=1e17, facts={"reason": "out of memory"})
    assert (back.state, back.attempts, back.spent_flops) == ("waiting", 2, 1e17)
    assert campaign.account().committed == SMALL
    again = campaign.ask(1)
    assert [r.run_id for r in again.runs] == [first.run_id]
    assert again.runs[0].inputs == first.inputs  # the same setting with the same seed
    given_up = campaign.tell(first.run_id, status="failed")
    assert (given_up.state, given_up.spent_flops) == ("failed", 1e17 + SMALL)
    assert campaign.account().committed == 0
    assert first.key not in {r.key for r in campaign.ask(16, past_stop=True).runs}


def test_failed_run_that_the_budget_cannot_pay_again_stays_failed(make: Make) -> None:
    campaign = make(budget_flops=1.5 * SMALL)
    run = campaign.ask(1).runs[0]
    assert campaign.tell(run.run_id, status="failed").state == "failed"
    assert campaign.account().left == 0.5 * SMALL


def test_failure_for_good_does_not_come_back(make: Make) -> None:
    campaign = make()
    run = campaign.ask(1).runs[0]
    assert campaign.tell(run.run_id, status="failed", flops=0, facts={"for_good": True}).state == "failed"


def test_given_back_run_is_no_try_and_costs_nothing(make: Make) -> None:
    campaign = make(retries=0)
    run = campaign.ask(1).runs[0]
    back = campaign.give_back(run.run_id)
    assert (back.state, back.attempts, back.spent_flops) == ("waiting", 1, 0.0)
    with pytest.raises(UserError, match="is waiting, not pending"):
        campaign.give_back(run.run_id)
    with pytest.raises(UserError, match="there is no run 'nothing'"):
        campaign.give_back("nothing")


def test_only_the_attempt_that_was_taken_is_given_back(make: Make) -> None:
    """Whoever gives back late must not end what another worker has begun since."""
    campaign = make()
    first = campaign.ask(1).runs[0]
    campaign.give_back(first.run_id)
    again = campaign.ask(1).runs[0]
    assert again.run_id == first.run_id
    with pytest.raises(UserError, match="is another worker's"):
        campaign.give_back(first.run_id, first.trial_id)
    assert campaign.runs()[0].state == "pending"
    assert campaign.give_back(again.run_id, again.trial_id).state == "waiting"


def test_silent_worker_is_lost_and_its_run_comes_back(make: Make) -> None:
    campaign = make(heartbeat_s=1, grace_s=2)
    by_hand, watched, begun = (campaign.ask(1, heartbeat=h).runs[0] for h in (False, True, True))
    assert campaign.beat(begun.run_id)
    time.sleep(4.1)
    taken = campaign.ask(3, heartbeat=True).runs
    assert [r.run_id for r in taken] == [watched.run_id, begun.run_id, "small-0004"]
    spent = {r.run_id: (r.attempts, r.spent_flops) for r in campaign.runs()}
    assert spent[watched.run_id] == (2, 0.0)  # it never began
    assert spent[begun.run_id] == (2, SMALL)
    assert spent[by_hand.run_id] == (1, 0.0)  # nobody promised a sign of life
    # the worker that was taken for lost tells after all: its result counts, the second one is refused
    assert campaign.tell(begun.run_id, 3.1).state == "completed"
    assert not campaign.beat(begun.run_id)
    with pytest.raises(UserError, match=r"was told already \(completed, loss 3.1\)"):
        campaign.tell(begun.run_id, 3.2)


def test_lost_for_good_and_told_after_all(make: Make) -> None:
    campaign = make(heartbeat_s=1, grace_s=2, retries=0)
    run = campaign.ask(1, heartbeat=True).runs[0]
    campaign.beat(run.run_id)
    time.sleep(4.1)
    assert campaign.ask(1).runs[0].run_id == "small-0002"
    assert next(r for r in campaign.runs() if r.run_id == run.run_id).state == "failed"
    told = campaign.tell(run.run_id, 3.1)
    assert (told.state, told.spent_flops) == ("completed", SMALL)  # charged once


def test_a_lost_attempt_that_failed_after_all_is_charged_for_what_it_did(make: Make) -> None:
    campaign = make(heartbeat_s=1, grace_s=2, retries=2)
    run = campaign.ask(1, heartbeat=True).runs[0]
    campaign.beat(run.run_id)
    time.sleep(4.1)
    other = campaign.ask(1).runs[0]  # the attempt is noticed as lost, comes back and is handed out
    campaign.give_back(other.run_id)
    assert (other.run_id, other.spent_flops) == (run.run_id, SMALL)
    failed = campaign.tell(run.run_id, status="failed", flops=1e17)  # the worker that was taken for lost
    assert (failed.state, failed.spent_flops) == ("waiting", 1e17)
    assert campaign.ask(1).runs[0].spent_flops == 1e17
    assert campaign.tell(run.run_id, 3.1).spent_flops == 1e17 + SMALL


def bundle_proposer(request: Request, n: int) -> Proposals:
    """Three random runs in one bundle whatever is asked, the third a replicate of the first."""
    answer = random_runs(request, 2)
    first, second = (replace(p, bundle="sweep") for p in answer.proposals)
    return replace(answer, proposals=(first, second, replace(first, run_id="again", replicate=True)))


def test_bundle_is_kept_whole_and_replicates_get_another_seed(make: Make) -> None:
    campaign = make(proposer=bundle_proposer, seed=5)
    assert len(campaign.ask(1).runs) == 1
    states = {r.run_id: r.state for r in campaign.runs()}
    assert list(states.values()) == ["pending", "waiting", "waiting"]
    rest = campaign.ask(2)
    assert rest.verdict is None  # out of the pool: nothing was proposed
    first, _, again = campaign.runs()
    assert first.key == again.key
    assert (first.inputs["seed"], again.inputs["seed"]) == (5, 6)


def test_neither_ids_nor_seeds_of_earlier_runs_are_taken_again(make: Make) -> None:
    campaign = make("first")
    some = random_runs(campaign.request([]), 2).proposals
    row = {**some[0].inputs, "n_tokens": 1.002e9, "loss": 3.0}
    given = {k: [v] * 3 for k, v in row.items()} | {"run_id": ["small-0001", "a", "b"], "seed": [5.0, None, 7.0]}
    again = make("second", seed=5, given=given)
    records = numbered([some[0], some[1], some[0]], [], again.settings, {})
    assert [r["run_id"] for r in records] == ["small-0002", "small-0003", "small-0004"]
    assert [r["inputs"]["seed"] for r in records] == [6, 5, 8]


def test_unaffordable_bundle_is_not_cut(make: Make) -> None:
    campaign = make(proposer=bundle_proposer, budget_flops=2.5 * SMALL)
    assert campaign.ask(3).runs == ()


def three_bundles(request: Request, n: int) -> Proposals:
    """More than was asked for: bundles of one, two and one runs."""
    answer = random_runs(request, 4)
    names = ("a", "b", "b", "c")
    return replace(answer, proposals=tuple(replace(p, bundle=b) for p, b in zip(answer.proposals, names, strict=True)))


@pytest.mark.parametrize(("n", "made"), [(1, 1), (2, 3), (3, 3), (4, 4)])
def test_bundles_beyond_what_was_asked_for_are_thought_over_again(make: Make, n: int, made: int) -> None:
    campaign = make(proposer=three_bundles)
    assert len(campaign.ask(n).runs) == n
    assert len(campaign.runs()) == made


def test_the_proposer_looks_as_far_ahead_however_few_runs_are_asked_for(make: Make) -> None:
    """A mini-sweep that is worth its price may not be missed because one run was asked for."""
    changes = {"strategy": "evsi", "prior": "step-law", "trust": 0.5, "draws": 200, "tune": 100, "budget_flops": 6e18}
    verdicts = [make(f"ask-{n}", **changes).ask(n).verdict for n in (1, 3, 9)]
    assert len({v.action for v in verdicts}) == 1
    assert verdicts[0] == verdicts[1] == verdicts[2]


def stopping(request: Request, n: int) -> Proposals:
    """Proposes, and says that it is not worth it."""
    answer = random_runs(request, n)
    return replace(answer, verdict=replace(answer.verdict, action="stop", why="it costs more than it saves"))


def test_stop_hands_out_nothing_unless_asked_past_it(make: Make) -> None:
    campaign = make(proposer=stopping)
    assert campaign.verdict() is None
    asked = campaign.ask(2)
    assert asked.runs == ()
    assert asked.verdict.why == "it costs more than it saves"
    assert campaign.verdict()["verdict"]["action"] == "stop"
    assert len(campaign.ask(2, past_stop=True).runs) == 2


def test_proposer_sees_what_is_known_and_the_record_says_so(make: Make) -> None:
    seen: list[Request] = []

    def watching(request: Request, n: int) -> Proposals:
        seen.append(request)
        return random_runs(request, n)

    campaign = make(proposer=watching, given={"run_id": ["old"], "source": ["own"], "data": ["web"], "n_params": [5e7],
                                              "n_tokens": [1e9], "lr_peak": [2e-3], "batch_tokens": [65536.0],
                                              "loss": [3.4]})  # fmt: skip
    one, two, three = campaign.ask(3).runs
    campaign.tell(two.run_id, 3.2)
    campaign.tell(one.run_id, status="diverged")
    campaign.tell(three.run_id, status="failed", facts={"for_good": True})
    four = campaign.ask(1).runs[0]
    request = seen[-1]
    assert list(request.history["run_id"]) == ["old", two.run_id, one.run_id]  # in the order of the tells
    assert request.pending is None
    assert request.given_up == {three.key}
    assert request.budget_flops == campaign.account().left + four.price_flops
    basis = four.proposal["basis"]
    assert basis["told"] == 3
    assert basis["given_up"] == [three.run_id]
    assert basis["seed"] == request.seed != seen[0].seed
    assert basis["settings"] == campaign.settings.digest()
    campaign.ask(1)
    assert list(seen[-1].pending["run_id"]) == [four.run_id]


@pytest.mark.parametrize("strategy", ["random", "cost-weighted", "cheapest-first"])
def test_strategies_repeat_with_the_seed(make: Make, strategy: str) -> None:
    def ids(name: str, seed: int) -> list[str]:
        return [r.key for r in make(name, strategy=strategy, seed=seed).ask(4).runs]

    assert ids("a", 1) == ids("b", 1)
    assert ids("a2", 1) != ids("c", 2)


def test_cost_weighted_prefers_cheap_runs(make: Make) -> None:
    request = make(budget_flops=1e20).request([])
    first = [cost_weighted_runs(replace(request, seed=s), 1).proposals[0].flops for s in range(300)]
    cheap = np.mean(np.array(first) == SMALL)
    assert abs(cheap - 2 / 3) < 4 * np.sqrt(2 / 9 / 300)  # eight at weight 2, eight at weight 1


def test_kill_between_result_and_state_is_mended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = make()
    run = campaign.ask(1).runs[0]

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("scaleband.campaign.pool._close", killed)
        with pytest.raises(KeyboardInterrupt):
            campaign.tell(run.run_id, 3.2)
    with Campaign.open(campaign.place.folder) as again:
        told = again.runs()[0]
        assert (told.state, told.result.loss) == ("completed", 3.2)
        assert again.ask(1).runs[0].run_id == "small-0002"
        trials = again.place.study.trials
        assert (trials[0].state.name, trials[0].value) == ("COMPLETE", 3.2)


def test_kill_between_proposing_and_handing_out_leaves_runs_in_the_pool(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = make()
    original = Campaign.take
    calls = []

    def killed(self: Campaign, n: int, heartbeat: bool) -> Any:
        calls.append(n)
        if len(calls) == 3:  # after the proposals were written
            raise KeyboardInterrupt
        return original(self, n, heartbeat)

    monkeypatch.setattr(Campaign, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        campaign.ask(2)
    assert [r.state for r in campaign.runs()] == ["waiting", "waiting"]
    assert [r.run_id for r in campaign.ask(2).runs] == ["small-0001", "small-0002"]


def test_kill_between_two_runs_of_a_bundle_is_mended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign, calls = make(proposer=bundle_proposer), []
    add = pool.add

    def killed(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            campaign.ask(1)
    asked = campaign.ask(3)
    assert asked.verdict is None  # all out of the pool: the bundle is whole
    assert [r.run_id for r in asked.runs] == ["small-0001", "small-0002", "small-0003"]
    assert len(campaign.runs()) == 3


def test_kill_between_a_sign_of_life_and_handing_out_is_mended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = make(heartbeat_s=1, grace_s=2)
    run = campaign.ask(1).runs[0]
    campaign.give_back(run.run_id)

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(campaign.place.storage), "set_trial_state_values", killed)
        with pytest.raises(KeyboardInterrupt):
            campaign.ask(1, heartbeat=True)
    assert campaign.ask(1).runs[0].run_id == run.run_id  # by hand: waited for however long it takes
    time.sleep(4.1)
    assert campaign.ask(1).runs[0].run_id == "small-0002"
    first = campaign.runs()[0]
    assert (first.state, first.attempts) == ("pending", 1)


def test_ask_that_is_interrupted_while_it_proposes_gives_back_what_it_took(make: Make) -> None:
    def interrupted(request: Request, n: int) -> Proposals:
        if request.pending is not None:
            raise KeyboardInterrupt
        return random_runs(request, n)

    campaign = make(proposer=interrupted)
    for run in campaign.ask(2).runs:
        campaign.give_back(run.run_id)
    for heartbeat in (False, True):
        with pytest.raises(KeyboardInterrupt):
            campaign.ask(4, heartbeat=heartbeat)
        assert [r.state for r in campaign.runs()] == ["waiting", "waiting"]
    assert campaign.account().spent == 0.0


def test_optuna_shows_the_campaign(make: Make) -> None:
    campaign = make()
    run = campaign.ask(1).runs[0]
    campaign.tell(run.run_id, 3.2)
    import optuna

    study = optuna.load_study(
        study_name="small", storage=f"sqlite:///{campaign.place.folder / 'campaign.db'}"
    )
    assert study.best_trial.params == {
        k: run.inputs[k] for k in ("lr_peak", "batch_tokens", "n_params", "n_tokens")
    }


def test_storage_in_postgresql(tmp_path: Path, postgresql: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with Campaign.create(here, small_settings(name="shared"), storage=postgresql) as campaign:
        run = campaign.ask(1).runs[0]
        with Campaign.join(there, postgresql, "shared") as other:
            other.tell(run.run_id, 3.2)
        assert campaign.runs()[0].result.loss == 3.2
    with Campaign.open(there) as again:
        assert again.account().spent == SMALL
    with pytest.raises(UserError, match="there is a study 'shared' already"):
        Campaign.create(tmp_path / "twice", small_settings(name="shared"), storage=postgresql)
    with pytest.raises(UserError, match="there is no campaign 'other' in this database"):
        Campaign.join(tmp_path / "other", postgresql, "other")
    assert not (tmp_path / "other").exists()
