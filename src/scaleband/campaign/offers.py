"""From a proposer's answer to the runs that are written down: affordable ones, with ids and seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleband.campaign.records import Run, account_of, pays, table_of
from scaleband.campaign.settings import INPUTS, Settings, setting_key
from scaleband.design import Proposals
from scaleband.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def check_budget(settings: Settings) -> None:
    """Refuse a budget that pays for no candidate, whatever a run costs beside its training counted.

    Raises
    ------
    UserError
        It is too small.
    """
    overhead = settings.overhead_flops
    least = min(settings.candidates["flops"]) + overhead
    if not pays(settings.budget_flops, least):
        counted = f" ({overhead:.3g} of it overhead)" if overhead else ""
        raise UserError(f"the cheapest candidate costs {least:.3g} FLOP{counted} and the budget is "
                        f"{settings.budget_flops:.3g}; raise the budget, or add smaller runs")  # fmt: skip


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
    """Proposals as they are written down: with run ids, and seeds that make replicates differ.

    An id is the candidate's (`-r1`, ... for replicates), or a number of the campaign's own. Neither id nor seed is one
    that an earlier run has.
    """
    named = _names(settings)
    given = table_of([], settings)
    ids = {r.run_id for r in runs} | (set() if given is None else set(given["run_id"]))
    made: dict[str, list[float]] = {}
    for run in runs:
        made.setdefault(run.key, []).append(run.inputs["seed"])
    out = []
    for k, proposal in enumerate(chosen):
        key = setting_key(proposal.inputs)
        names: Iterator[str] = (f"{settings.name}-{number:04d}" for number in count(len(runs) + k + 1))
        if name := named.get(key):
            names = chain([name], (f"{name}-r{number}" for number in count(1)))
        run_id = next(found for found in names if found not in ids)
        p = replace(proposal, run_id=run_id)
        own = made.setdefault(key, [])
        seeds = {*own, *_seeds_of(p.inputs, given)}
        seed = settings.seed + len(own)
        while seed in seeds:
            seed += 1
        plain = {name: _finite(value) for name, value in asdict(p).items()}
        plain["inputs"] = {k: p.inputs[k] for k in INPUTS} | {"seed": seed}
        ids.add(run_id)
        own.append(seed)
        out.append(plain | {"basis": dict(basis)})
    return out


def _names(settings: Settings) -> dict[str, str]:
    """Ids that the candidate table gave, by setting."""
    if "run_id" not in settings.candidates:
        return {}
    rows = settings.candidate_frame()
    keys = map(setting_key, rows[list(INPUTS)].to_dict("records"))
    return dict(zip(keys, map(str, rows["run_id"]), strict=True))


def _seeds_of(inputs: Mapping[str, Any], given: pd.DataFrame | None) -> list[float]:
    """Of the earlier runs of a setting."""
    if given is None:
        return []
    import pandas as pd

    from scaleband.runs import rows_of_settings

    rows = rows_of_settings(pd.DataFrame([{k: inputs[k] for k in INPUTS}]), given)[0]
    return given["seed"].to_numpy(float)[rows].tolist()


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
