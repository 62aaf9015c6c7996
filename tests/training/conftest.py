"""Small specifications that every test of the room may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from scaleband.training import RunSpec


@pytest.fixture
def spec_of() -> Callable[..., RunSpec]:
    """A specification; keyword arguments replace its fields."""
    plain = RunSpec(
        "run-1", n_params=1_000_000, n_tokens=64_000, lr_peak=2e-2, batch_tokens=1_024, seq_len=64
    )
    return lambda **changes: dataclasses.replace(plain, **changes)


@pytest.fixture
def spec(spec_of: Callable[..., Any]) -> RunSpec:
    """One that completes."""
    return spec_of()
