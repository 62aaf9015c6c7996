"""Settings of a small campaign."""

from __future__ import annotations

from itertools import product
from typing import Any

from scaleband.campaign import Settings

TARGET = {"source": "own", "data": "web", "n_params": 1e9, "n_tokens": 2e10}


def small_settings(**changes: Any) -> Settings:
    """Sixteen candidates in two cells; the small cell's runs cost 3e17 FLOP, the large one's 6e17."""
    rows = list(product((5e7, 1e8), (3e-4, 1e-3, 3e-3, 1e-2), (65536.0, 262144.0)))
    candidates = {
        "source": ["own"] * len(rows), "arch": ["dense"] * len(rows), "data": ["web"] * len(rows),
        "n_params": [r[0] for r in rows], "n_tokens": [1e9] * len(rows),
        "lr_peak": [r[1] for r in rows], "batch_tokens": [r[2] for r in rows],
    }  # fmt: skip
    return Settings(**({"name": "small", "target": TARGET, "budget_flops": 3e18, "candidates": candidates,
                        "strategy": "cheapest-first",
                        "stated": {"loss_kind": "validation, web"}} | changes))  # fmt: skip
