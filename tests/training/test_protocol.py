"""What a specification and a result may be, and that both survive JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleband.errors import UserError
from scaleband.runs import COLUMNS, run_table
from scaleband.training import (
    Limits,
    RunResult,
    RunSpec,
    result_from_json,
    spec_from_json,
    table_row,
    to_json,
)


@given(
    run_id=st.text(min_size=1),
    n_params=st.integers(1, 10**13),
    seed=st.integers(0, 2**40),
    lr=st.floats(1e-8, 10, allow_nan=False),
    shape=st.dictionaries(st.text(), st.integers(0, 10**6), max_size=3),
    wall=st.none() | st.floats(1e-3, 1e9),
)
def test_a_specification_survives_json(run_id, n_params, seed, lr, shape, wall) -> None:
    spec = RunSpec(run_id, n_params, 10**6, lr, 1000, seed=seed, shape=shape, limits=Limits(wall))
    assert spec_from_json(to_json(spec)) == spec


def test_a_result_survives_json(spec) -> None:
    result = RunResult(spec.run_id, "completed", loss=2.5, loss_se=0.1, n_tokens=64_000, curve="curve.csv")
    assert result_from_json(to_json(result)) == result


def test_whole_numbers_written_as_floats_are_whole() -> None:
    found = spec_from_json(
        '{"run_id": "a", "n_params": 1e6, "n_tokens": 1e9, "lr_peak": 1, "batch_tokens": 1e3}'
    )
    assert (found.n_params, type(found.n_params)) == (1_000_000, int)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        RunSpec("", n_params=-1, n_tokens=100, lr_peak=float("nan"), batch_tokens=1.5, seed=True)  # type: ignore[arg-type]
    text = str(caught.value)
    for name in ("run_id", "n_params", "lr_peak", "batch_tokens", "seed"):
        assert name in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_active": 2_000_000}, "above n_params"),
        ({"batch_tokens": 100_000}, "not one step"),
        ({"batch_tokens": 8}, "multiply by seq_len"),
        ({"shape": {"d_model": -1}}, "shape.d_model"),
        ({"limits": Limits(wall_seconds=0)}, "wall_seconds"),
        ({"limits": {"wall_seconds": 1}}, "limits"),
    ],
)
def test_a_specification_that_cannot_be_is_refused(spec_of, changes, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        spec_of(**changes)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"status": "completed", "loss": 2.0', "not whole JSON"),
        ('{"status": "completed", "loss": NaN}', "NaN is not a number"),
        ('{"status": "completed", "loss": -Infinity}', "not a number"),
        ('{"status": "completed", "loss": 1e999}', "not finite"),
        ('{"status": "completed"}', "loss is missing"),
        ('{"status": "completed", "loss": "2.0"}', "a value of type float"),
        ('{"status": "completed", "loss": 0}', "above 0"),
        ('{"status": "done", "loss": 2.0}', "is not one of"),
        ('{"status": "failed"}', "reason is missing"),
        ('{"status": "completed", "loss": 2.0, "los_se": 0.1}', "'los_se' is not a field"),
        ('{"status": "completed", "loss": 2.0, "loss": 1.0}', "given twice"),
        ('{"status": "completed", "loss": 2.0, "format": 7}', "format 7"),
        ("[" * 100_000, "not whole JSON"),
        ("[1]", "a JSON object is needed"),
    ],
)
def test_a_result_that_cannot_be_is_refused(text, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        result_from_json(text, run_id="a")


def test_the_table_row_is_a_row_of_the_run_table(spec) -> None:
    import pandas as pd

    rows = [
        table_row(spec, RunResult(spec.run_id, "completed", loss=2.0, n_tokens=64_512, n_params=990_000)),
        table_row(spec, RunResult("b", "diverged", n_tokens=999, n_params=990_000))
        | {"run_id": "b", "lr_peak": 0.5},
    ]
    assert {column.name for column in COLUMNS} - {"gpu_hours", "unique_tokens"} <= rows[0].keys()
    assert (rows[0]["n_params"], rows[0]["n_active"], rows[0]["n_tokens"]) == (990_000, 990_000, 64_000)
    assert rows[1]["n_tokens"] == spec.n_tokens  # where it was meant to end, which is its cell
    table = run_table(pd.DataFrame(rows))
    assert list(table.frame["status"]) == ["completed", "diverged"]


def test_a_row_says_how_many_tokens_it_saw_if_that_is_another_cell(spec) -> None:
    result = RunResult(spec.run_id, "completed", loss=2.0, n_tokens=65_000)
    assert table_row(spec, result)["n_tokens"] == 65_000


def test_json_is_plain(spec) -> None:
    assert json.loads(to_json(spec))["limits"] == {"wall_seconds": None, "output_bytes": 268_435_456}


def test_an_error_that_runs_share_is_not_noise_of_a_run(spec) -> None:
    result = RunResult(spec.run_id, "completed", loss=3.0, loss_se=0.02, n_tokens=64_000)
    own = table_row(spec, result)
    shared = table_row(spec, dataclasses.replace(result, loss_se_shared=True))
    assert (own["loss_se"], own["validation_se"]) == (0.02, 0.02)
    assert (shared["loss_se"], shared["validation_se"]) == (0.0, 0.02)
    assert result_from_json(to_json(dataclasses.replace(result, loss_se_shared=True))).own_loss_se == 0.0
