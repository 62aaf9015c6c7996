"""The proposer as an Optuna sampler in a study of somebody's own."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from scaleband.campaign.sampler import ScalebandSampler, grid_of
from scaleband.errors import UserError
from scaleband.training import SyntheticAdapter

TARGET = {"source": "own", "data": "web", "n_params": 1e8, "n_tokens": 2e9}
SPACE: dict[str, Any] = {
    "lr_peak": FloatDistribution(1e-4, 1e-1, log=True),
    "batch_tokens": CategoricalDistribution([65536, 131072, 262144]),
}


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_float("lr_peak", 1e-4, 1e-1, log=True)
    batch = trial.suggest_categorical("batch_tokens", [65536, 131072, 262144])
    trial.suggest_float("dropout", 0.0, 0.5)  # none of ours: at random
    if trial.number == 2:
        raise optuna.TrialPruned
    return SyntheticAdapter().expected_loss(1e8, 2e9, lr, batch)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_simple_strategy_in_a_study() -> None:
    study = optuna.create_study(sampler=ScalebandSampler(TARGET, SPACE, strategy="random", seed=3))
    study.optimize(objective, n_trials=12)
    chosen = [(t.params["lr_peak"], t.params["batch_tokens"]) for t in study.trials]
    assert len(set(chosen)) == 12  # never the same setting twice
    assert {b for _, b in chosen} <= {65536, 131072, 262144}
    grid = grid_of("lr_peak", SPACE["lr_peak"])
    assert all(min(abs(lr / g - 1) for g in grid) < 1e-9 for lr, _ in chosen)
    assert all("scaleband" in t.system_attrs for t in study.trials)


def test_evsi_uses_what_the_study_knows(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "there"
    sampler = ScalebandSampler(TARGET, SPACE, prior="step-law", draws=60, tune=60, chains=1, cache=cache)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=3)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert len(list((cache / "fits").glob("*.nc"))) == 2  # after one and after two told trials
    digests = {t.system_attrs["scaleband"]["draws"] for t in study.trials}
    assert len(digests) == 3


def test_threads_do_not_choose_the_same_run() -> None:
    study = optuna.create_study(sampler=ScalebandSampler(TARGET, SPACE, strategy="cheapest-first"))
    together = threading.Barrier(4)

    def slow(trial: optuna.Trial) -> float:
        together.wait(60)  # all were chosen, and none has said its parameters
        return objective(trial)

    study.enqueue_trial({"lr_peak": 2e-3, "batch_tokens": 65536})
    study.optimize(slow, n_trials=4, n_jobs=4)
    made = [(t.params["lr_peak"], t.params["batch_tokens"]) for t in study.trials]
    assert len(set(made)) == 4
    assert (2e-3, 65536) in made


def test_sampler_takes_over_an_existing_study() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=2)
    study.add_trial(
        optuna.trial.create_trial(
            params={"other": 0.5}, distributions={"other": FloatDistribution(0, 1)}, value=1.0
        )
    )
    study.sampler = ScalebandSampler(TARGET, SPACE, strategy="cheapest-first")
    study.optimize(objective, n_trials=2)
    assert len(study.trials) == 5


def test_budget_spent_falls_back_to_random() -> None:
    one = 6 * 1e8 * 2e9
    study = optuna.create_study(
        sampler=ScalebandSampler(TARGET, SPACE, strategy="random", budget_flops=1.5 * one)
    )
    study.optimize(objective, n_trials=2)
    assert ["scaleband" in t.system_attrs for t in study.trials] == [True, False]


def test_trials_that_were_there_before_are_paid_by_the_same_budget() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=1)
    study.sampler = ScalebandSampler(TARGET, SPACE, strategy="random", budget_flops=2.5 * 6 * 1e8 * 2e9)
    study.optimize(objective, n_trials=2)
    assert ["scaleband" in t.system_attrs for t in study.trials] == [False, True, False]


def test_grids() -> None:
    assert grid_of("lr_peak", FloatDistribution(0.1, 0.5, step=0.1)) == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )
    assert grid_of("batch_tokens", IntDistribution(65536, 262144, step=65536)) == [
        65536,
        131072,
        196608,
        262144,
    ]
    whole = grid_of("batch_tokens", IntDistribution(1000, 1_000_000, log=True))
    assert (whole[0], whole[-1], len(whole)) == (1000, 1_000_000, 9)
    assert all(v == int(v) for v in whole)
    with pytest.raises(UserError, match="choices of lr_peak are not all positive numbers"):
        grid_of("lr_peak", CategoricalDistribution(["small", "large"]))
    with pytest.raises(UserError, match="needs a range of positive numbers"):
        grid_of("lr_peak", FloatDistribution(0.0, 1.0))


@pytest.mark.parametrize(
    ("space", "strategy", "message"),
    [
        ({"lr_peak": SPACE["lr_peak"]}, "random", "lr_peak and batch_tokens must be there"),
        (SPACE | {"dropout": FloatDistribution(0.1, 0.5)}, "random", "leave other parameters to the study"),
        (SPACE, "luck", "there is no strategy 'luck'"),
    ],
)
def test_refusals(space: dict[str, Any], strategy: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ScalebandSampler(TARGET, space, strategy=strategy)


ONE = 6 * 1e8 * 2e9
"""What a trial trains, FLOP."""


def trial_of(lr: float, state: str = "COMPLETE", value: float | None = None, **reported: float) -> Any:
    """A finished trial; `reported` are losses by step, as s100=3.3."""
    return optuna.trial.create_trial(
        params={"lr_peak": lr, "batch_tokens": 65536}, distributions=SPACE, value=value,
        state=optuna.trial.TrialState[state], intermediate_values={int(k[1:]): v for k, v in reported.items()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": {k: v for k, v in TARGET.items() if k != "n_params"}}, "the target has no n_params"),
        ({"trust": 3.0}, "trust = 3 is outside 0 to 1"),
        ({"draws": 0}, "draws = 0 is no number for a fit"),
        ({"budget_flops": -1.0}, "a budget of -1 FLOP buys nothing"),
        ({"options": {"replicate": False}}, "there is no option 'replicate' of a strategy"),
    ],
)
def test_settings_that_a_campaign_refuses_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ScalebandSampler(**({"target": TARGET, "space": SPACE} | changes))


def test_a_setting_that_failed_is_paid_and_given_up() -> None:
    def out_of_memory(trial: optuna.Trial) -> float:
        trial.suggest_float("lr_peak", 1e-4, 1e-1, log=True)
        trial.suggest_categorical("batch_tokens", [65536, 131072, 262144])
        raise RuntimeError

    sampler = ScalebandSampler(TARGET, SPACE, prior="step-law", draws=60, budget_flops=3.5 * ONE)
    study = optuna.create_study(sampler=sampler)
    study.optimize(out_of_memory, n_trials=4, catch=(RuntimeError,))
    assert ["scaleband" in t.system_attrs for t in study.trials] == [True, True, True, False]
    assert len({tuple(t.params.values()) for t in study.trials[:3]}) == 3


def test_a_stopped_trial_has_diverged_only_by_the_rule_of_the_fit() -> None:
    study = optuna.create_study(sampler=ScalebandSampler(TARGET, SPACE, strategy="random", budget_flops=100 * ONE))
    study.add_trials([
        trial_of(1e-3, value=3.3, s2000=6.0, s30518=3.3),
        trial_of(2e-3, "PRUNED", s2000=6.1),  # far above 3.3, as all are by then
        trial_of(3e-3, "PRUNED", s2000=9.1),
        trial_of(4e-3, "PRUNED"),
        trial_of(5e-3, "FAIL", s2000=math.nan),
        trial_of(6e-3, "FAIL", s2000=6.2),
    ])  # fmt: skip
    request = study.sampler._request(study.trials, 9)
    assert request.history is not None
    told = dict(zip(request.history["lr_peak"], request.history["status"], strict=True))
    assert told == {1e-3: "completed", 3e-3: "diverged", 5e-3: "diverged"}
    assert (len(request.made), len(request.given_up)) == (2, 1)
    # Four reported an end after 2,000 of 30,518 steps, one reported none.
    assert study.sampler._spent(study.trials) == pytest.approx(ONE * (2 + 4 * 2000 * 65536 / 2e9))
    epochs = [trial_of(1e-3, value=3.3, s3=3.3), trial_of(2e-3, "PRUNED", s1=4.0)]
    assert study.sampler._spent(epochs) == pytest.approx(2 * ONE), "steps of another kind"


def test_a_trial_without_a_setting_of_ours_is_paid_too() -> None:
    study = optuna.create_study(sampler=ScalebandSampler(TARGET, SPACE, strategy="random", budget_flops=2.5 * ONE))
    lone = {"lr_peak": SPACE["lr_peak"]}
    study.add_trials(
        [optuna.trial.create_trial(params={"lr_peak": 1e-3}, distributions=lone, value=3.0) for _ in range(2)]
    )
    study.optimize(objective, n_trials=1)
    assert "scaleband" not in study.trials[-1].system_attrs


@pytest.mark.parametrize(
    ("directions", "value", "message"),
    [
        (["minimize", "minimize"], None, "the study has 2 objectives"),
        (["maximize"], None, "the study maximises its value"),
        (["minimize"], -3.2, "trial 0 has the value -3.2, and a loss is positive"),
    ],
)
def test_a_study_whose_values_are_no_losses_is_refused(
    directions: list[str], value: float | None, message: str
) -> None:
    study = optuna.create_study(
        directions=directions, sampler=ScalebandSampler(TARGET, SPACE, strategy="random")
    )
    if value is not None:
        study.add_trial(trial_of(1e-3, value=value))
    with pytest.raises(UserError, match=message):
        study.ask(SPACE)
