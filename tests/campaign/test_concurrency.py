"""Eight processes on one campaign, and processes that are killed: a small version of the benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import campaign_concurrency as bench
from scaleband.campaign import Campaign

STORAGES = ["sqlite", "postgresql"]


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> str | None:
    """No URL, or that of a server started for these tests."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgresql")


def test_eight_workers_at_once(tmp_path: Path, storage: str | None) -> None:
    Campaign.create(tmp_path, replace(bench.settings(30, 1), name="together"), storage=storage).close()
    facts = bench.together(tmp_path, 8, seed=1)
    assert facts["attempts"] >= facts["runs"] + 2  # failed ones came back
    assert facts["workers_told"] >= 2


def test_killed_workers(tmp_path: Path, storage: str | None) -> None:
    settings = replace(bench.settings(40, 2, grace_s=8, retries=20), name="killed")
    Campaign.create(tmp_path, settings, storage=storage).close()
    facts = bench.under_kills(tmp_path, 3, 3, seed=2)
    assert facts["kills"] == 3
    assert facts["completed"] > 20


def test_the_checks_can_fail(tmp_path: Path) -> None:
    """A tell that the notes know and the campaign does not is found."""
    Campaign.create(tmp_path, bench.settings(2, 1)).close()
    notes = tmp_path / "notes-0.jsonl"
    notes.write_text('{"told": "bench-0001", "loss": 3.0}\n{"told": "bench-0001", "loss": 3.0}\n')
    with pytest.raises(AssertionError, match="told twice"):
        bench.check(tmp_path, [notes])
