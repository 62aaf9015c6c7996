"""The run table: what is read, what is filled in, what is doubted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from malformed import good

from scaleband.errors import UserError
from scaleband.runs import COLUMNS, Problem, RunTable, column_map, conventions, read_map, read_runs, run_table

REQUIRED = ["n_params", "n_tokens", "lr_peak", "batch_tokens", "loss"]


def written(folder: Path, frame: pd.DataFrame, file: str = "runs.csv") -> Path:
    frame.to_csv(folder / file, index=False)
    return folder / file


def said(table: RunTable, severity: str = "warning") -> list[str]:
    return [str(problem) for problem in table.warnings if problem.severity == severity]


def test_every_known_column_is_there_with_its_default(tmp_path: Path) -> None:
    frame = read_runs(written(tmp_path, good()[REQUIRED])).frame
    assert list(frame.columns) == [column.name for column in COLUMNS]
    first = frame.iloc[0]
    assert first["run_id"] == "row-000001"
    assert frame["run_id"].is_unique
    assert (first["source"], first["arch"], first["data"], first["status"]) == (
        "own",
        "dense",
        "unknown",
        "completed",
    )
    assert first["n_active"] == first["n_params"]
    assert first["flops"] == 6 * first["n_params"] * first["n_tokens"]
    assert first["loss_se"] == 0
    assert np.isnan(first["seq_len"])
    assert np.isnan(first["seed"])
    assert np.isnan(first["gpu_hours"])
    assert first["trunk"] == first["schedule"] == first["tokenizer"] == ""


def test_dtypes_are_float64_or_text(tmp_path: Path) -> None:
    frame = read_runs(written(tmp_path, good())).frame
    for column in COLUMNS:
        if column.dtype == "number":
            assert frame[column.name].dtype == np.float64
        else:
            assert all(isinstance(value, str) for value in frame[column.name])


def test_empty_fields_take_the_default_too(tmp_path: Path) -> None:
    frame = good().astype(object).assign(n_active=np.nan, flops=None)
    frame.loc[0, ["source", "arch", "status", "run_id"]] = ""
    table = read_runs(written(tmp_path, frame)).frame
    assert list(table.loc[0, ["run_id", "source", "arch", "status"]]) == [
        "row-000001",
        "own",
        "dense",
        "completed",
    ]
    assert (table["n_active"] == table["n_params"]).all()


def test_unknown_columns_are_kept_at_the_end(tmp_path: Path) -> None:
    frame = good().assign(steps=np.arange(9), note='a, "b"', mixed=[1, "x"] + [None] * 7)
    table = read_runs(written(tmp_path, frame)).frame
    assert list(table.columns[-3:]) == ["steps", "note", "mixed"]
    assert table["steps"].dtype == np.float64
    assert table["note"].iloc[0] == 'a, "b"'


@pytest.mark.parametrize("text", ["1e-3", "0.001", "+1E-03", " 0.001 ", "1.e-3", ".001"])
def test_ways_to_write_a_number(text: str, tmp_path: Path) -> None:
    frame = good().astype(object)
    frame.loc[0, "lr_peak"] = text
    assert read_runs(written(tmp_path, frame)).frame["lr_peak"].iloc[0] == 0.001


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\n\n"),
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b"run_id,source", b" run_id , source"),
    ],
    ids=["byte order mark", "carriage returns", "blank lines", "no last newline", "spaces in the header"],
)
def test_harmless_ways_to_write_a_csv(edit: object, tmp_path: Path) -> None:
    plain = read_runs(written(tmp_path, good())).frame
    (tmp_path / "other.csv").write_bytes(edit((tmp_path / "runs.csv").read_bytes()))  # type: ignore[operator]
    pd.testing.assert_frame_equal(read_runs(tmp_path / "other.csv").frame, plain)


def test_parquet_is_known_by_its_content(tmp_path: Path) -> None:
    frame = good().assign(
        arch=pd.Categorical(["dense"] * 9), seed=pd.array([1, None] + [2] * 7, dtype="Int64")
    )
    frame.to_parquet(tmp_path / "runs.csv")
    table = read_runs(tmp_path / "runs.csv").frame
    pd.testing.assert_frame_equal(table, run_table(frame).frame)
    assert np.isnan(table["seed"].iloc[1])


def test_several_files_are_one_table(tmp_path: Path) -> None:
    one = written(tmp_path, good()[REQUIRED], "a.csv")
    two = written(tmp_path, good().drop(columns="run_id").assign(data="code", extra=1), "b.csv")
    table = read_runs([one, two]).frame
    assert len(table) == 18
    assert table["run_id"].is_unique
    assert list(table["data"].unique()) == ["unknown", "code"]


def test_the_frame_given_is_not_changed() -> None:
    frame = good().set_index("run_id", drop=False)
    copy = frame.copy(deep=True)
    table = run_table(frame)
    table.frame.loc[0, "loss"] = 99.0
    pd.testing.assert_frame_equal(frame, copy)


def test_a_file_that_uses_our_names_already_is_not_scaled(tmp_path: Path) -> None:
    other = good().rename(columns={"n_tokens": "billions"}).assign(billions=2.0, run_id=[f"s{k}" for k in range(9)])
    (tmp_path / "map.toml").write_text(
        '[columns]\nn_tokens = "billions"\n[scale]\nn_tokens = 1e9\nloss = 2\n'
    )
    files = [written(tmp_path, other, "a.csv"), written(tmp_path, good(), "b.csv")]
    table = read_runs(files, mapping=tmp_path / "map.toml").frame
    assert (table["n_tokens"] == 2e9).all()
    # Not renamed by the map: in one unit everywhere.
    np.testing.assert_allclose(table["loss"], 2 * np.tile(good()["loss"], 2))


def test_map_renames_sets_and_scales(tmp_path: Path) -> None:
    frame = good().drop(columns="source").rename(columns={"n_params": "N", "n_tokens": "billions"})
    frame["billions"] /= 1e9
    (tmp_path / "map.toml").write_text(
        '[columns]\nn_params = "N"\nn_tokens = "billions"\n[constants]\nsource = "my-team"\nseed = 3\n'
        "[scale]\nn_tokens = 1e9\n"
    )
    table = read_runs(written(tmp_path, frame), mapping=tmp_path / "map.toml").frame
    assert (table["n_tokens"] == 2e9).all()
    assert (table["n_params"] == 1e8).all()
    assert (table["source"] == "my-team").all()
    assert (table["seed"] == 3).all()


def test_map_may_swap_two_columns() -> None:
    frame = (
        good()
        .rename(columns={"loss": "loss_se", "n_params": "loss"})
        .rename(columns={"loss": "n_params", "loss_se": "loss"})
    )
    plan = column_map({"columns": {"loss": "loss", "n_params": "n_params"}})
    pd.testing.assert_frame_equal(run_table(frame, mapping=plan).frame, run_table(frame).frame)
    swapped = good().rename(columns={"n_params": "n_tokens", "n_tokens": "n_params"})
    plan = column_map({"columns": {"n_params": "n_tokens", "n_tokens": "n_params"}})
    expected = run_table(good()).frame
    assert (run_table(swapped, mapping=plan).frame["n_tokens"] == expected["n_tokens"]).all()


def test_a_map_is_only_for_the_files_that_need_it(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text('[columns]\nn_params = "N"\n')
    one = written(tmp_path, good().rename(columns={"n_params": "N"}), "a.csv")
    two = written(tmp_path, good().assign(run_id=[f"s{i}" for i in range(9)]), "b.csv")
    assert len(read_runs([one, two], mapping=tmp_path / "map.toml").frame) == 18


def test_missing_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml: No such file.*; give the path of a TOML"):
        read_map(tmp_path / "none.toml")


def test_sequences_become_tokens(tmp_path: Path) -> None:
    frame = good()
    frame["batch_tokens"] /= frame["seq_len"]
    table = read_runs(written(tmp_path, frame), batch_in_sequences=True).frame
    assert (table["batch_tokens"] == good()["batch_tokens"]).all()


@pytest.mark.parametrize("status", ["diverged", "failed", "running", "Diverged"])
@pytest.mark.parametrize("loss", ["", "nan", "inf", "-inf", "8.1"])
def test_a_run_that_did_not_complete_needs_no_loss(status: str, loss: str, tmp_path: Path) -> None:
    frame = good().astype(object)
    frame.loc[8, ["status", "loss"]] = status, loss
    table = read_runs(written(tmp_path, frame)).frame
    assert table["status"].iloc[8] == status.lower()
    assert table["loss"].iloc[8] == 8.1 if loss == "8.1" else np.isnan(table["loss"].iloc[8])


@pytest.mark.parametrize("word", ["NA", "none", "-", "n/a", " None "])
def test_no_value_is_no_value_in_columns_of_text_too(word: str) -> None:
    frame = run_table(good().assign(trunk=word, source=word, schedule=["cosine"] * 8 + ["NA"])).frame
    assert set(frame["trunk"]) == {""}, "no trunk, and not one that all rows share"
    assert set(frame["source"]) == {"own"}
    assert frame["schedule"].iloc[8] == ""


def test_none_is_a_value_where_it_says_something() -> None:
    frame = run_table(good().assign(weight_decay="none", warmup="None", schedule="none", optimizer="none")).frame
    first = frame.iloc[0]
    assert (first["weight_decay"], first["warmup"], first["schedule"]) == ("none", "None", "none")
    assert first["optimizer"] == ""


def test_loss_only_tables_need_no_rate_and_no_batch() -> None:
    frame = good().drop(columns=["lr_peak", "batch_tokens"])
    assert run_table(frame, purpose="loss").frame["lr_peak"].isna().all()
    with pytest.raises(UserError, match="there is no column lr_peak"):
        run_table(frame)
    assert len(run_table(frame.head(1), purpose="loss").frame) == 1


@pytest.mark.parametrize(("column", "value", "says"), [
    ("batch_tokens", 512, "looks like sequences"), ("n_tokens", 90_000, "looks like billions"),
    ("n_params", 1.07, "looks like billions"), ("lr_peak", 3.0, "above 1"), ("loss", 22.0, "outside 0.3 to 12"),
    ("loss", 0.1, "outside 0.3 to 12"), ("unique_tokens", 2.5, "looks like billions"),
])  # fmt: skip
def test_probable_unit_slips_are_warnings(column: str, value: float, says: str) -> None:
    frame = good().drop(columns="seq_len").astype({"batch_tokens": float})
    frame.loc[3, column] = value
    found = [line for line in said(run_table(frame)) if says in line]
    assert len(found) == 1
    assert re.match(rf"table row 4: {column} = {value:.10g} .*; ", found[0])


def test_a_clean_table_of_two_cells_has_no_warnings() -> None:
    other = good().assign(n_tokens=4e9, run_id=[f"s{i}" for i in range(9)])
    assert run_table(pd.concat([good(), other])).warnings == ()


def test_a_first_table_is_accepted_and_told_what_it_cannot_tell() -> None:
    lines = said(run_table(good()))
    assert len(lines) == 1
    assert "one cell only" in lines[0]
    mixes = [good().assign(data=name, run_id=[f"{name}-{i}" for i in range(9)]) for name in ("web", "code")]
    lines = said(run_table(pd.concat(mixes)))
    assert len(lines) == 1
    assert "all cells have one size and one token count; it cannot tell how the optimum moves" in lines[0]
    lines = said(run_table(good(n_batches=1)))
    assert any("cannot tell where the best batch is" in line for line in lines)


@pytest.mark.parametrize(
    ("sizes", "per_parameter", "warned"),
    [
        ((1e8, 4e8, 2e9), (20, 20, 20), True),
        ((1e8, 4e8, 2e9), (18, 24, 20), True),
        ((1e8, 1e9), (10, 1), False),  # one token count
        ((1e8, 3e8, 1e9), (100, 11, 1), True),  # one budget of FLOPs, 10B to 1B tokens
        ((1e8, 1e8, 1e9, 1e9), (20, 80, 20, 80), False),
    ],
)
def test_sizes_and_tokens_that_only_go_together_are_doubted(
    sizes: tuple[float, ...], per_parameter: tuple[float, ...], warned: bool
) -> None:
    cells = [good().assign(n_params=n, n_active=n, n_tokens=n * k, run_id=[f"{n:g}-{k}-{i}" for i in range(9)])
             for n, k in zip(sizes, per_parameter, strict=True)]  # fmt: skip
    found = [line for line in said(run_table(pd.concat(cells))) if "go together" in line]
    assert len(found) == warned


@pytest.mark.parametrize(
    ("diverged", "warned"),
    [
        ({}, False),
        ({(2e-3, 262144.0)}, True),  # the best is 1e-3 there
        ({(2e-3, 131072.0), (2e-3, 524288.0)}, False),  # at other batches
        ({(1e-3, 131072.0), (4e-3, 262144.0)}, False),  # one completed between
    ],
)
def test_runs_that_diverge_next_to_the_best_rate_are_doubted(
    diverged: set[tuple[float, float]], warned: bool
) -> None:
    grid = [(lr, b) for b in (131072.0, 262144.0, 524288.0) for lr in (5e-4, 1e-3, 2e-3, 4e-3)]
    loss = [3.2, 3.1, 3.15, 3.3, 3.1, 3.0, 3.05, 3.2, 3.2, 3.1, 3.15, 3.3]
    frame = pd.DataFrame(grid, columns=["lr_peak", "batch_tokens"]).assign(
        n_params=1e8, n_tokens=2e9, seq_len=2048, loss=loss,
        status=["diverged" if g in diverged else "completed" for g in grid],
    )  # fmt: skip
    other = frame.assign(n_tokens=8e9, status="completed")
    table = pd.concat([frame, other, other.assign(n_params=2e8)], ignore_index=True)
    found = [line for line in said(run_table(table)) if "at its batch, diverged" in line]
    assert len(found) == warned
    assert all("in 1 of 3 cells" in line for line in found)


def test_cells_that_are_almost_one_are_doubted() -> None:
    other = good().assign(n_tokens=4e9, run_id=[f"s{i}" for i in range(9)])
    table = pd.concat([good(), other], ignore_index=True)
    counted = table["n_params"] * (1 + 1e-3 * np.arange(18) % 5e-3)  # as if positions were counted with the sequence
    for column, values in (("n_params", counted), ("n_tokens", table["n_tokens"] * (1 + 6e-3 * (np.arange(18) % 2)))):
        lines = said(run_table(table.assign(**{column: values, "n_active": np.nan})))
        found = [line for line in lines if "within 2 % in n_params and n_tokens, as us/dense/web" in line]
        assert len(found) == 1, lines
        assert len(set(re.findall(r"/(\d)(?:\.\d+)?B", found[0]))) == 1, found  # two of one token count
    apart = table["n_params"] * np.where(np.arange(18) % 2, 1.05, 1.0)
    assert not said(run_table(table.assign(n_params=apart, n_active=np.nan)))


def test_convention_stated_on_some_rows_only_is_a_warning() -> None:
    lines = said(run_table(good().assign(loss_kind=["val"] * 8 + [""])))
    assert any(
        "row 9: the group us/dense/web states loss_kind = 'val' on some rows only" in line for line in lines
    )


def test_weight_decay_may_vary_with_a_warning_and_spelling_does_not_matter() -> None:
    assert any(
        "weight_decay" in line for line in said(run_table(good().assign(weight_decay=[0.1] * 5 + [0.2] * 4)))
    )
    lines = said(run_table(good().assign(weight_decay=["0.1"] * 5 + ["0.10", "1e-1", " .1", "0.1"])))
    assert not any("weight_decay" in line for line in lines)


def test_conventions_may_differ_between_groups() -> None:
    other = good().assign(run_id=[f"s{i}" for i in range(9)], source="them", loss_kind="train")
    table = run_table(pd.concat([good().assign(loss_kind="val"), other]))
    found = conventions(table.frame)
    assert list(found) == ["them/dense/web", "us/dense/web"]
    assert found["us/dense/web"]["loss_kind"] == "val"
    assert found["us/dense/web"]["seq_len"] == "2048"
    assert found["us/dense/web"]["tokenizer"] == "not stated"


def test_conventions_that_vary_say_so() -> None:
    table = run_table(good().assign(warmup=["1000"] * 5 + ["2000"] * 4))
    assert conventions(table.frame)["us/dense/web"]["warmup"] == "varies: 1000, 2000"


def test_problem_prints_as_the_documented_sentence() -> None:
    problem = Problem(
        "error", "runs.csv", 17, "batch_tokens", "256", "batch_tokens = 256 is smaller than seq_len = 2048",
        "multiply by seq_len if it counts sequences (--batch-in-sequences)",
    )  # fmt: skip
    assert str(problem) == (
        "runs.csv row 17: batch_tokens = 256 is smaller than seq_len = 2048; "
        "multiply by seq_len if it counts sequences (--batch-in-sequences)"
    )


def test_import_is_cheap() -> None:
    code = (
        "import sys, pandas; before = set(sys.modules); import scaleband.runs; "
        "heavy = {'pandera', 'pooch', 'pymc', 'requests'}; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_many_mixed_groups_are_counted() -> None:
    groups = [good().assign(source=f"team-{i:02d}", loss_kind=["val"] * 5 + ["train"] * 4) for i in range(30)]
    with pytest.raises(
        UserError, match=r"team-19/dense/web mixes 2 values.*\(and 10 more rows like this\)"
    ) as caught:
        run_table(pd.concat(groups).drop(columns="run_id"))
    assert len(caught.value.problems) == 20


def test_columns_that_look_like_ours_are_named() -> None:
    """A capital or a missing letter must not turn diverged runs into completed ones without a word."""
    frame = good().assign(Status="diverged", optimiser="adamw", LOSS=1.0, colour="red")
    named = [each for each in said(run_table(frame)) if "is not read" in each]
    assert len(named) == 3
    for column, name in (("Status", "status"), ("optimiser", "optimizer"), ("LOSS", "loss")):
        assert any(f"the column {column} is not read; rename it {name}," in each for each in named)


def test_a_map_that_names_no_column_says_what_is_read_instead(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text('[columns]\nloss = "val_los"\n')
    good().assign(val_loss=2.0).to_csv(tmp_path / "runs.csv", index=False)
    table = read_runs([tmp_path / "runs.csv"], mapping=tmp_path / "map.toml")
    assert any('maps loss to "val_los", which is not in the file; its loss is read' in str(p) for p in table.warnings)
