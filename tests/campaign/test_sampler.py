"""The proposer as an Optuna sampler in a study of somebody's own."""

from __future__ import annotations

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
