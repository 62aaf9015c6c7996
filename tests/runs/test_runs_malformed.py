"""Every malformed table is refused with a sentence that names the place and the remedy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from malformed import MALFORMED, Builder, cell, good, options, table

from scaleband.errors import UserError
from scaleband.runs import read_runs, run_table


@pytest.mark.parametrize(("name", "build", "says"), MALFORMED, ids=[case[0] for case in MALFORMED])
def test_refused_with_place_and_remedy(name: str, build: Builder, says: str, tmp_path: Path) -> None:
    paths = build(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        read_runs(paths, **options(name, tmp_path))
    for problem in caught.value.problems:
        # one line each: place, colon, message, semicolon, remedy
        assert re.match(r"[^\n]+: [^\n]+; [^\n]+$", problem), problem
        assert "Traceback" not in problem
        assert problem.isprintable()


def test_there_are_many_cases_with_different_names() -> None:
    assert len({name for name, _, _ in MALFORMED}) == len(MALFORMED) >= 40


@pytest.mark.parametrize(
    "column", ["loss", "lr_peak", "n_params", "n_tokens", "n_active", "seq_len", "batch_tokens"]
)
@pytest.mark.parametrize("value", ["x", "0", "-1", "inf", "-inf", "1" + "0" * 400])
def test_one_mistake_is_one_problem(column: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"runs\.csv row 4: {column} = .* is not") as caught:
        read_runs(cell(column, value)(tmp_path))
    assert len(caught.value.problems) == 1


def test_all_problems_at_once_from_all_files(tmp_path: Path) -> None:
    frame = good().astype(object)
    frame.loc[0, "loss"] = "lost"
    frame.loc[2, "lr_peak"] = -1
    frame.loc[3, "batch_tokens"] = 16
    frame.loc[8, "run_id"] = "r00"
    frame.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.csv: the file is empty") as caught:
        read_runs([tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c.csv"])
    text = "\n".join(caught.value.problems)
    for part in (
        "a.csv row 1: loss",
        "a.csv row 3: lr_peak",
        "a.csv row 4: batch_tokens",
        "a.csv row 9: run_id",
        "c.csv",
    ):
        assert part in text
    assert len(caught.value.problems) == 6


def test_equal_problems_are_counted_not_repeated(tmp_path: Path) -> None:
    n = 5000
    frame = pd.DataFrame(
        {"n_params": "big", "n_tokens": -1e9, "lr_peak": 1e-3, "batch_tokens": 1e5, "loss": 3.0},
        index=range(n),
    )
    frame.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(
        UserError, match=r"row 20: n_params = 'big'.*\(and 4,980 more rows like this\)"
    ) as caught:
        read_runs(tmp_path / "runs.csv")
    assert len(caught.value.problems) <= 60


def test_many_ragged_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("a,b\n" + "1,2,3\n" * 100)
    with pytest.raises(UserError, match=r"row 20: it has 3 fields.*\(and 80 more rows like this\)") as caught:
        read_runs(tmp_path / "runs.csv")
    assert len(caught.value.problems) == 20


def test_files_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        good().to_csv(tmp_path / folder / "runs.csv", index=False)
    with pytest.raises(
        UserError, match=r"b.runs\.csv row 1: run_id = 'r00' is already used in .*a.runs\.csv row 1"
    ):
        read_runs([tmp_path / "a" / "runs.csv", tmp_path / "b" / "runs.csv"])


def test_a_message_never_prints_control_characters_or_pages_of_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss = ") as caught:
        read_runs(cell("loss", "\x1b[31m" + "x" * 10_000)(tmp_path))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "value",
    [
        object(),
        [1, 2],
        {"a": 1},
        1 + 2j,
        True,
        pd.Timestamp("2026-11-02"),
        b"3.0",
        "x",
        float("inf"),
        10**5000,
        -(10**400),
    ],
    ids=lambda value: type(value).__name__,
)
def test_odd_objects_in_memory_are_refused(value: object) -> None:
    frame = good().astype(object)
    frame.at[2, "loss"] = value
    with pytest.raises(UserError, match=r"table row 3: loss"):
        run_table(frame)


@pytest.mark.parametrize(
    "value", [["a"], {"a": 1}, object(), b"us", pd.Timestamp("2026-11-02")], ids=lambda v: type(v).__name__
)
def test_odd_objects_as_text_are_refused(value: object) -> None:
    frame = good().astype(object)
    frame.at[2, "source"] = value
    with pytest.raises(UserError, match=r"table row 3: source"):
        run_table(frame)


@pytest.mark.parametrize("dtype", [bool, complex, "datetime64[ns]", "timedelta64[ns]"])
def test_columns_of_other_dtypes_are_refused(dtype: object) -> None:
    frame = good().assign(loss=np.ones(9).astype(dtype))  # type: ignore[call-overload]
    with pytest.raises(UserError, match=r"table row 1: loss = '.*' is not a number"):
        run_table(frame)


def test_duplicate_columns_in_memory_are_refused() -> None:
    frame = good()
    with pytest.raises(UserError, match='the column "loss" appears more than once; keep one'):
        run_table(pd.concat([frame, frame[["loss"]]], axis=1))


def test_no_path_at_all() -> None:
    with pytest.raises(UserError, match="no run table was given; name at least one"):
        read_runs([])


def test_unknown_purpose_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="purpose must be"):
        run_table(good(), purpose="speed")  # type: ignore[arg-type]


def test_sequences_without_their_length(tmp_path: Path) -> None:
    paths = table(lambda frame: frame.drop(columns="seq_len"))(tmp_path)
    with pytest.raises(
        UserError, match=r"row 1: the batch counts sequences and seq_len is missing; give seq_len.*8 more"
    ):
        read_runs(paths, batch_in_sequences=True)
