"""Small campaigns, and a PostgreSQL server for those tests that need one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_campaign import small_settings

from scaleband.campaign import Campaign

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Campaign]]:
    """Campaigns of `small_settings`, closed in the end."""
    made: list[Campaign] = []

    def create(name: str = "campaign", *, proposer: Any = None, **changes: Any) -> Campaign:
        made.append(Campaign.create(tmp_path / name, small_settings(**changes), proposer=proposer))
        return made[-1]

    yield create
    for campaign in made:
        campaign.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a server that these tests start themselves."""
    from local_postgresql import local_postgresql

    with local_postgresql() as url:
        yield url
