"""From a proposer's answer to the runs that are written down: affordable ones, with ids and seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleband.campaign.records import Run, account_of, pays, table_of
from scaleband.campaign.settings import INPUTS, Settings, setting_key
from scaleband.design import Proposals

if TYPE_CHECKING:
    import pandas as pd


def affordable(answer: Proposals, runs: Sequence[Run], settings: Settings) -> list[Any]:
    """The proposals that the budget as it is now pays for, and that were not made in the meantime; bundles whole."""
    left = account_of(runs, settings.budget_flops).left
    known = {r.key for r in runs}
    bundles: dict[str, list[Any]] = {}
    for proposal in answer.proposals:
        bundles.setdefault(proposal.bundle or proposal.run_id, []).append(proposal)
    out = []
    for bundle in bundles.values():
        price = sum(p.price_flops for p in bundle)
        keys = [setting_key(p.inputs) for p in bundle]
        twice = [k for k, p in zip(keys, bundle, strict=True) if not p.replicate and k in known]
        if pays(left, price) and not twice:
            out += bundle
            left -= price
            known |= set(keys)
    return out


def numbered(
    chosen: Sequence[Any], runs: Sequence[Run], settings: Settings, basis: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Proposals as they are written down: with run ids of the campaign's own, and seeds that make replicates differ."""
    made: dict[str, int] = {}
    for run in runs:
        made[run.key] = made.get(run.key, 0) + 1
    out = []
    for k, proposal in enumerate(chosen):
        p = replace(proposal, run_id=f"{settings.name}-{len(runs) + k + 1:04d}")
        key = setting_key(p.inputs)
        plain = {name: _finite(value) for name, value in asdict(p).items()}
        plain["inputs"] = {k: p.inputs[k] for k in INPUTS} | {"seed": settings.seed + made.get(key, 0)}
        made[key] = made.get(key, 0) + 1
        out.append(plain | {"basis": dict(basis)})
    return out


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def pending_table(runs: Sequence[Run], settings: Settings) -> pd.DataFrame | None:
    out = [r for r in runs if r.state in ("waiting", "pending")]
    return table_of(out, replace(settings, given={})) if out else None


def table_digest(frame: pd.DataFrame | None) -> str:
    """SHA-256 of a table's rows."""
    if frame is None:
        return ""
    # A column that run tables got later must not change what was written down before.
    frame = frame.drop(columns=[c for c in ("unique_tokens",) if c in frame and frame[c].isna().all()])
    text = json.dumps([[c, [str(v) for v in frame[c]]] for c in frame.columns])
    return hashlib.sha256(text.encode()).hexdigest()
