"""What was written is read back, and no bytes whatever end in a traceback."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings

from scaleband.errors import UserError
from scaleband.runs import read_runs, run_table

REQUIRED = ["n_params", "n_tokens", "lr_peak", "batch_tokens", "loss"]
NAME = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/"),
    min_size=1,
    max_size=8,
)
POSITIVE = st.floats(1e-12, 1e15, allow_subnormal=False)


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Valid tables: any names, any positive numbers that agree with each other."""
    n = draw(st.integers(2, 12))
    one = {name: draw(NAME) for name in ("source", "arch", "data")}
    rates = draw(st.lists(POSITIVE, min_size=n, max_size=n, unique_by=lambda x: round(np.log(x), 1)))
    n_params, n_tokens = draw(st.floats(1e4, 1e14)), draw(st.floats(1e5, 1e14))
    return pd.DataFrame(
        {
            "run_id": [f"{draw(NAME)}#{i}" for i in range(n)],
            **one,
            "n_params": n_params,
            "n_tokens": n_tokens,
            "lr_peak": rates,
            "batch_tokens": [draw(st.floats(1.0, n_tokens)) for _ in range(n)],
            "loss": draw(st.lists(POSITIVE, min_size=n, max_size=n)),
            "status": ["completed"]
            + [draw(st.sampled_from(["completed", "diverged", "running"])) for _ in range(n - 1)],
        }
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=tables(), file=st.sampled_from(["runs.csv", "runs.parquet"]))
def test_what_was_written_is_read_back(frame: pd.DataFrame, file: str, tmp_path: Path) -> None:
    try:
        first = run_table(frame).frame
    except UserError as error:  # too few usable runs, or a name that means "missing": refused, and rightly
        assert "optimum" in str(error) or "text" in str(error)  # noqa: PT017
        return
    path = tmp_path / file
    first.to_csv(path, index=False) if file.endswith("csv") else first.to_parquet(path)
    again = read_runs(path).frame
    pd.testing.assert_frame_equal(again, first, check_exact=True, check_dtype=False)
    for name in ("n_params", "n_tokens", "lr_peak", "batch_tokens", "loss"):
        assert (first[name].to_numpy() == frame[name].to_numpy()).all()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.lists(st.text(max_size=5), min_size=6, max_size=6), max_size=5).map(
        lambda rows: "\n".join([",".join([*REQUIRED, "seed"]), *map(",".join, rows)]).encode("utf-8", "replace")
    ),
))  # fmt: skip
def test_any_bytes_are_a_table_or_a_user_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(content)
    try:
        read_runs(tmp_path / "runs.csv", purpose="loss")
    except UserError as error:
        assert error.problems  # noqa: PT017
        assert all(line.isprintable() for line in error.problems)  # noqa: PT017
