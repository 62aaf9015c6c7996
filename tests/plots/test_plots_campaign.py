"""The picture of a campaign: one moment alone, and the budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scaleband.plots import campaign_data, plot_campaign


def step(run_id: str, spent: float, state: str = "completed") -> dict[str, Any]:
    band = {"median": 1e-3, "lower": 5e-4, "upper": 2e-3}
    return {
        "run_id": run_id, "state": state, "spent_flops": spent, "lr_peak": band,
        "batch_tokens": {name: 3e8 * v for name, v in band.items()},
        "recommended": {"lr_peak": 9e-4, "batch_tokens": 2e5, "expected_regret": 0.5},
    }  # fmt: skip


def test_one_moment_has_an_interval_that_can_be_seen() -> None:
    axes = plot_campaign([step("", 0.0, "start")], budget_flops=2e19).axes
    ends = np.array([line for c in axes[0].collections if hasattr(c, "get_segments") for line in c.get_segments()])
    assert ends[0][:, 1].tolist() == pytest.approx([5e-4, 2e-3])
    assert axes[2].get_xlim() == (0.0, 2e19)
    assert axes[1].get_ylabel() == "batch (tokens per step)"


def test_the_legend_lies_outside_the_bands_and_names_the_budget() -> None:
    figure = plot_campaign([step("", 0.0, "start"), step("a-1", 1.5e19)], budget_flops=2e19)
    assert all(ax.get_legend() is None for ax in figure.axes)
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == "budget"
    assert campaign_data([step("a-1", 1e18)]).told_flops.tolist() == [1e18]
