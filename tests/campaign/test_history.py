"""Posteriors of a campaign: prior, refit, cache, history; and the strategy that weighs runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState
from small_campaign import TARGET

from scaleband.campaign import Campaign, audit, pool
from scaleband.campaign.diverged import weighed
from scaleband.campaign.history import history
from scaleband.campaign.proposers import PROPOSERS, candidates_for, evsi_runs
from scaleband.campaign.refit import data_digest, known_posterior
from scaleband.campaign.settings import setting_key
from scaleband.campaign.strategies import open_candidates, settings_in
from scaleband.cli.campaign_init import STRATEGIES
from scaleband.cli.campaign_status import step_json
from scaleband.inference.released import model_path
from scaleband.inference.store import read_draws
from scaleband.laws import LawDraws
from scaleband.plots import campaign_data, draw_campaign
from scaleband.plots.canvas import figure_of
from scaleband.predict import target_cells
from scaleband.training import SyntheticAdapter

Make = Callable[..., Campaign]
QUICK: dict[str, Any] = {"draws": 60, "tune": 60, "chains": 1}
LIMITS = {"sizes": [[6e7, 6e7], [1.5e8, 1.5e8]], "tokens": [4e9], "flops_max": 1e19}


@pytest.fixture(scope="module")
def draws_of_a_fit() -> LawDraws:
    """The released model."""
    return read_draws(model_path("step-law"))


def tell_all(campaign: Campaign, runs: Any) -> None:
    """Losses out of the synthetic formula."""
    for run in runs:
        i = run.inputs
        loss = SyntheticAdapter().expected_loss(i["n_params"], i["n_tokens"], i["lr_peak"], i["batch_tokens"])
        campaign.tell(run.run_id, loss)


def test_prior_of_a_released_model_is_narrower_and_keeps_trust(make: Make) -> None:
    def width(name: str, **changes: Any) -> float:
        steps = history(make(name, draws=1000, chains=2, **changes))
        low, high = steps[0].band.lr_peak[1:]
        return float(np.log(high / low))

    released = width("released", prior="step-law")
    assert released < 0.7 * width("stated")
    assert released < width("less", prior="step-law", trust=0.2)


def test_evsi_proposes_mini_sweeps_in_a_grid_inside_limits(make: Make) -> None:
    campaign = make(strategy="evsi", candidates={}, limits=LIMITS, prior="step-law", budget_flops=2e19,
                    target_runs=10.0, draws=400)  # fmt: skip
    candidates = campaign.settings.candidate_frame()
    assert set(candidates["n_params"]) == {6e7, 1.5e8}
    asked = campaign.ask(4)
    assert len(asked.runs) == 4
    assert asked.verdict.action == "continue"
    assert asked.account.committed == pytest.approx(sum(r.price_flops for r in asked.runs))
    first = asked.runs[0].proposal
    assert first["evsi"] > 3 * first["evsi_error"] > 0
    together = [r for r in asked.runs if r.proposal["bundle"] == first["bundle"]]
    assert len(together) >= 3
    assert len({(r.inputs["n_params"], r.inputs["n_tokens"]) for r in together}) == 1
    # the same request gives the same answer
    assert first["basis"]["draws"]
    again = evsi_runs(replace(campaign.request([]), seed=first["basis"]["seed"]), 4)
    assert [setting_key(p.inputs) for p in again.proposals][:4] == [r.key for r in asked.runs]
    # what is out is conditioned on: the next bundle is another one, at a smaller gain
    more = evsi_runs(campaign.request(campaign.attempts()), 4)
    assert len(more.pending) == len(campaign.runs())
    assert more.verdict.evpi < again.verdict.evpi - again.proposals[0].evsi / 2
    assert more.proposals[0].evsi < again.proposals[0].evsi


def test_given_up_settings_are_not_proposed_again(make: Make) -> None:
    campaign = make(
        strategy="evsi", candidates={}, limits=LIMITS, prior="step-law", budget_flops=2e19, draws=200
    )
    request = campaign.request([])
    gone = frozenset(setting_key(p.inputs) for p in evsi_runs(request, 4).proposals)
    again = {setting_key(p.inputs) for p in evsi_runs(replace(request, given_up=gone), 4).proposals}
    assert again
    assert not gone & again


def test_without_replicates_nothing_is_made_twice(make: Make) -> None:
    campaign = make(strategy="evsi", prior="step-law", draws=200, budget_flops=1e20, options={"replicates": False})
    request = campaign.request([])
    draws, table = request.draws(), request.candidates
    made = table.assign(loss=3.0, status="completed", run_id=[f"h{i}" for i in range(len(table))])
    half = replace(request, history=made.iloc[:8], draws=lambda: draws)
    known = settings_in(half.history)
    proposed = [setting_key(p.inputs) for p in evsi_runs(half, 4).proposals]
    assert proposed
    assert not known & set(proposed)
    again = evsi_runs(replace(half, options={}), 9).proposals
    assert known & {setting_key(p.inputs) for p in again}  # as it is by default
    every = evsi_runs(replace(half, history=made), 4)
    assert (every.proposals, every.verdict.action) == ((), "stop")


def test_a_setting_is_the_same_within_the_tolerances_of_the_run_table(make: Make) -> None:
    rows = make("a").settings.candidate_frame()
    given = rows.iloc[:6].assign(n_params=5.001e7, n_active=5.001e7, n_tokens=9.98e8, loss=3.0, run_id=list("abcdef"))
    campaign = make("b", given={str(c): given[c].tolist() for c in given})
    request = campaign.request([])
    assert open_candidates(request).tolist() == list(range(6, 16))
    draws = make("c", prior="step-law", draws=60).posterior().draws
    for options, count in (({"mini_sweeps": False, "replicates": False}, 10), ({"mini_sweeps": False}, 16)):
        offered = candidates_for(replace(request, options=options), draws)
        assert len(offered.flops) == count


def test_when_every_setting_was_given_up_the_verdict_is_stop(make: Make) -> None:
    campaign = make(strategy="evsi", prior="step-law", draws=60)
    request = campaign.request([])
    every = frozenset(setting_key(row) for row in request.candidates.to_dict("records"))
    answer = evsi_runs(replace(request, given_up=every), 2)
    assert (answer.proposals, answer.verdict.action) == ((), "stop")
    assert answer.verdict.why == "every candidate was made, is out, or was given up"


def test_told_runs_are_fitted_once_and_the_band_shrinks(make: Make) -> None:
    stages: list[str] = []
    campaign = make(prior="step-law", candidates={}, limits=LIMITS, budget_flops=1e20, **QUICK)
    runs = campaign.ask(14).runs
    tell_all(campaign, runs)
    told = history(campaign)
    assert [s.n_told for s in told] == list(range(15))
    assert told[-1].band is None  # nothing was sampled for it
    assert told[-1].spent_flops == pytest.approx(sum(r.price_flops for r in runs))
    steps = history(campaign, fill="latest", progress=lambda stage, done, total: stages.append(stage))
    assert "sampling" in stages
    start, end = steps[0].band, steps[-1].band
    assert np.log(end.lr_peak[2] / end.lr_peak[1]) < np.log(start.lr_peak[2] / start.lr_peak[1])
    assert end.expected_regret < start.expected_regret
    assert [s.band is None for s in steps[1:]] == [True] * 13 + [False]

    stages.clear()
    posterior = campaign.posterior(progress=lambda stage, done, total: stages.append(stage))
    assert stages == []  # out of the cache
    assert posterior.n_runs == 14
    assert posterior.draws.n_samples == 60
    assert posterior.gate_messages  # sixty draws are too few, and it says so
    tries = [m for m in posterior.gate_messages if "try --" in m]
    assert tries
    assert all("a new campaign" in m for m in tries)
    assert posterior.draws.meta["gate"]["messages"] == list(posterior.gate_messages)

    # the record is enough to ask again: the prior's posterior then, the same now
    first = audit(campaign, runs[0].run_id)
    assert first.differences == ()
    assert set(first.run_ids) >= {runs[0].run_id}

    # one more result is other data
    campaign.tell(campaign.ask(1).runs[0].run_id, status="diverged")
    table = campaign.table()
    assert known_posterior(campaign.place.folder, table, campaign.settings) is None

    rows = [step_json(s) for s in steps]
    data = campaign_data(rows, budget_flops=1e20)
    assert data.lr_peak.shape == (2, 3)
    assert len(data.told_flops) == 14
    axes = draw_campaign(data)
    assert axes[2].get_xlabel().startswith("FLOP spent")
    figure_of(axes[0]).savefig(campaign.place.folder / "picture.png")


def test_digest_follows_data_and_prior_only(make: Make) -> None:
    campaign = make()
    table = make("given", given={"run_id": ["a", "b"], "source": ["own"] * 2, "data": ["web"] * 2,
                                 "n_params": [5e7] * 2, "n_tokens": [1e9] * 2, "lr_peak": [1e-3, 2e-3],
                                 "batch_tokens": [65536.0] * 2, "loss": [3.4, 3.5]}).table()  # fmt: skip
    assert table is not None
    settings = campaign.settings
    same = data_digest(
        table, replace(settings, budget_flops=1.0, target=TARGET | {"n_params": 7e9, "n_active": 7e9})
    )
    assert same == data_digest(table, settings)
    changed = [
        data_digest(table.assign(loss=table["loss"] + 1e-9), settings),
        data_digest(table, replace(settings, trust=0.5)),
        data_digest(table, replace(settings, seed=2)),
        data_digest(table, replace(settings, prior="step-law")),
        data_digest(table.iloc[:1], settings),
    ]
    assert len({same, *changed}) == 6


def test_command_line_offers_every_strategy() -> None:
    assert set(STRATEGIES) == set(PROPOSERS)


def test_runs_that_all_diverged_move_the_proposals_to_lower_rates(make: Make) -> None:
    campaign = make(strategy="evsi", prior="step-law", draws=200, budget_flops=1e20)
    before = campaign.posterior()
    start = history(campaign)[0].band
    rows = campaign.settings.candidate_frame()
    hot = rows[(rows["n_params"] == 5e7) & (rows["lr_peak"] == 3e-3)]
    records = [{"run_id": f"small-{k + 1:04d}", "inputs": row | {"seed": 1}, "flops": row["flops"]}
               for k, row in enumerate(hot.to_dict("records"))]  # fmt: skip
    pool.plan(campaign.place, records)
    runs = campaign.take(2)
    campaign.tell(runs[0].run_id, status="diverged")
    campaign.tell(runs[1].run_id, status="diverged")
    after = campaign.posterior()
    assert (before.n_runs, after.n_runs, after.n_completed) == (0, 2, 0)
    assert after.draws.meta["name"] == "campaign small, 2 runs diverged, none completed"
    assert after.draws.n_samples == before.draws.n_samples
    end = history(campaign)[-1].band
    assert end.lr_peak[0] < 0.7 * start.lr_peak[0]
    assert end.recommended_lr_peak < 0.8 * start.recommended_lr_peak
    # one more seed of a setting that diverged is not on offer
    request = campaign.request(campaign.attempts())
    offered = candidates_for(request, after.draws)
    keys = {setting_key(offered.inputs(k)) for k in range(len(offered.flops))}
    assert len(keys) == len(rows) - 2
    assert not keys & {r.key for r in runs}


def test_diverged_runs_of_a_group_that_none_completed_in_count_beside_a_fit(draws_of_a_fit: LawDraws) -> None:
    cell = {"source": "new", "arch": "dense", "data": "web", "n_params": 1e8, "n_active": 1e8, "n_tokens": 2e9}
    runs = pd.DataFrame([cell | {"lr_peak": lr, "batch_tokens": 131072.0, "status": "diverged", "loss": np.nan}
                         for lr in (4e-3, 8e-3)])  # fmt: skip
    found = weighed(draws_of_a_fit, runs, 300, [1])
    # another cell of the group is told too: what a draw says of a group never seen is kept with it
    other = target_cells(3e8, 6e9, source="new", data="web")
    assert np.median(found.at(other)[:, 0]) < np.median(draws_of_a_fit.at(other)[:, 0]) - 0.2
    np.testing.assert_array_equal(found.take(np.arange(5)).at(other), found.at(other)[:5])


def test_draws_that_cannot_explain_what_diverged_are_marked(draws_of_a_fit: LawDraws) -> None:
    cell = {"source": "new", "arch": "dense", "data": "web", "n_params": 1e8, "n_active": 1e8, "n_tokens": 2e9}
    runs = pd.DataFrame([cell | {"lr_peak": lr, "batch_tokens": 131072.0, "status": "diverged", "loss": np.nan}
                         for lr in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)])  # fmt: skip
    found = weighed(draws_of_a_fit, runs, 300, [1])
    gate: Any = found.meta["gate"]
    assert not gate["passed"]
    assert "they count for" in gate["messages"][0]
    assert len(set(found.rho)) > 20


def test_a_lost_worker_is_spent_from_when_it_was_lost(make: Make) -> None:
    campaign = make(retries=1, heartbeat_s=1000, grace_s=2000)
    first, second, third = campaign.ask(3, heartbeat=True).runs
    campaign.tell(first.run_id, status="diverged")
    campaign.beat(second.run_id)
    campaign.place.storage.set_trial_state_values(second.trial_id, TrialState.FAIL)  # its worker fell silent
    price = first.price_flops
    assert [s.spent_flops for s in history(campaign)] == pytest.approx([0.0, 2 * price])
    campaign.tell(third.run_id, status="diverged")
    assert [s.spent_flops for s in history(campaign)] == pytest.approx([0.0, price, 3 * price])
    again = campaign.ask(1).runs[0]
    assert again.run_id == second.run_id
    campaign.tell(again.run_id, status="diverged")
    steps = history(campaign)
    assert [s.spent_flops for s in steps] == pytest.approx([0.0, price, 3 * price, 4 * price])
    assert steps[-1].spent_flops == campaign.account().spent
