"""What a campaign is about, decided once: target, budget, candidates, prior, strategy. Plain values, kept as JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from scaleband.design.proposals import INPUTS
from scaleband.errors import UserError
from scaleband.runs.columns import CONVENTIONS

if TYPE_CHECKING:
    import pandas as pd

    from scaleband.design import Device

FORMAT = "scaleband-campaign"
VERSION = 1

UNIT = "nats per token"
"""The one unit in which a campaign keeps losses, that of the run table."""

TARGET = ("source", "arch", "data", "n_params", "n_active", "n_tokens")

STATED = CONVENTIONS
"""What may be stated of all runs of a campaign."""

OPTIONS = ("replicates", "mini_sweeps")
"""Options of the strategy "evsi": may a setting be run again, are mini-sweeps offered. Both are true by default."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Settings:
    """Everything that a campaign is started with.

    Attributes
    ----------
    name
        Names the study in the storage and begins every run_id: letters, digits, '.', '_', '-'.
    target
        The cell that the answer is for: `TARGET`, counts as numbers.
    budget_flops
        What all runs together may cost, FLOP.
    candidates
        Column -> values: the runs that could be made (`INPUTS` and `flops`; `bundle` where runs are bought together,
        `run_id` where they have names already).
        Left out, they are a grid inside `limits`.
    limits
        Of that grid: sizes, tokens, flops_max, ..., as `design.Limits` has them.
    given
        Column -> values: run-table rows that were there before; they cost nothing here. May be empty.
    device
        Fields of `design.Device`, where hours or dollars are to be told and a run costs something beside its training;
        empty: FLOPs are all. The budget pays for the overhead too.
    target_runs
        K, final runs at the target that the decision will serve.
    strategy, options
        Name of the proposer and its options.
    prior, trust
        Released model or fit that the campaign starts from ('' for the stated beliefs), and how far to trust it.
    form, draws, tune, chains
        Of the fits.
    seed
        Of everything random: proposals, sampling, and the first seed of the training runs.
    retries
        How often a failed run is proposed again before its setting is given up.
    stated
        Conventions of the runs (`STATED`), among them `loss_kind`; '' is not stated.
    heartbeat_s, grace_s
        A worker that sends signs of life does so every `heartbeat_s`; silent for `grace_s` seconds it is taken for
        lost, and its run goes back to the pool.
    """

    name: str
    target: Mapping[str, str | float]
    budget_flops: float
    candidates: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    device: Mapping[str, float | None] = field(default_factory=dict)
    target_runs: float = 1.0
    strategy: str = "evsi"
    options: Mapping[str, Any] = field(default_factory=dict)
    prior: str = ""
    trust: float = 1.0
    form: str = "quadratic"
    draws: int = 1000
    tune: int = 500
    chains: int = 2
    seed: int = 1
    retries: int = 2
    stated: Mapping[str, str] = field(default_factory=dict)
    heartbeat_s: int = 30
    grace_s: int = 300

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def prices(self) -> Device | None:
        """The device that was named."""
        from scaleband.design import Device

        return Device(**self.device) if self.device else None  # type: ignore[arg-type]

    @property
    def overhead_flops(self) -> float:
        """What a run costs beside its training, as FLOP of the device's time."""
        device = self.prices()
        return 0.0 if device is None else device.overhead_flops

    def candidate_frame(self) -> pd.DataFrame:
        """The candidates, one row per run that could be made, in their order."""
        import pandas as pd

        return pd.DataFrame({k: list(v) for k, v in self.candidates.items()})

    def given_frame(self) -> pd.DataFrame | None:
        """The runs that were there before, or None."""
        import pandas as pd

        return pd.DataFrame({k: list(v) for k, v in self.given.items()}) if self.given else None


def settings_from_json(plain: Any, where: str) -> Settings:
    """The inverse of `Settings.to_json`.

    Raises
    ------
    UserError
        Another format, a newer version, or something missing.
    """
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise UserError(
            f"{where}: this Optuna study is not a campaign of scaleband's; start one: scaleband campaign init"
        )
    version = plain.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"{where}: written by a newer scaleband (campaign format {version}); upgrade scaleband"
        )
    try:
        return Settings(**{k: v for k, v in plain.items() if k not in ("format", "version")})
    except TypeError as error:
        raise UserError(
            f"{where}: the campaign's settings are damaged ({error}); restore the storage from a copy"
        ) from None


def checked(settings: Settings, strategies: Sequence[str], *, options: Collection[str] = OPTIONS) -> Settings:
    """The settings with candidates and given runs checked and made plain; `strategies` and `options` are those known.

    Raises
    ------
    UserError
        Everything that cannot be, each with its remedy.
    """
    problems = setting_problems(settings, strategies, options)
    if bool(settings.candidates) == bool(settings.limits):
        problems.append(
            "give a table of runs that could be made, or limits to make a grid in, one of the two"
        )
    if problems:
        raise UserError(problems)
    plain = plain_target(settings.target)
    candidates = checked_candidates(settings.candidates) if settings.candidates else {}
    return replace(
        settings, target=plain, given=_given(settings.given), candidates=candidates,
        stated={k: v for k, v in settings.stated.items() if v},
    )  # fmt: skip


def setting_problems(
    settings: Settings, strategies: Sequence[str], options: Collection[str] = OPTIONS
) -> list[str]:
    """What cannot be, one sentence each; candidates, limits and given runs are not looked at."""
    problems: list[str] = []
    if not _NAME.fullmatch(settings.name):
        problems.append(
            f"the name {settings.name!r} is not letters, digits, '.', '_' and '-' (at most 64); choose another"
        )
    if not (math.isfinite(settings.budget_flops) and settings.budget_flops > 0):
        problems.append(
            f"a budget of {settings.budget_flops:g} FLOP buys nothing; give a positive, finite number"
        )
    if not (math.isfinite(settings.target_runs) and settings.target_runs > 0):
        problems.append(
            f"target runs = {settings.target_runs:g}; say how many final runs the answer will serve, 1 or more"
        )
    if not 0 <= settings.trust <= 1:
        problems.append(
            f"trust = {settings.trust:g} is outside 0 to 1; 1 takes the model at its word, 0 ignores it"
        )
    if settings.strategy not in strategies:
        problems.append(f"there is no strategy {settings.strategy!r}; choose one of {', '.join(strategies)}")
    odd = sorted(set(settings.options) - set(options))
    if odd:
        problems.append(f"there is no option {odd[0]!r} of a strategy; choose from {', '.join(OPTIONS)}")
    for what, at_least in (("draws", 1), ("chains", 1), ("tune", 0)):
        if getattr(settings, what) < at_least:
            problems.append(f"{what} = {getattr(settings, what)} is no number for a fit; give {at_least} or more")
    if settings.retries < 0:
        problems.append("retries is negative; 0 gives a failed run up at once")
    if not 0 < settings.heartbeat_s < settings.grace_s:
        problems.append("the grace period must be longer than the time between two signs of life")
    unknown = sorted(set(settings.stated) - set(STATED))
    if unknown:
        problems.append(f"{unknown[0]!r} is no convention; choose from {', '.join(STATED)}")
    return problems + _target_problems(settings.target) + device_problems(settings.device)


def plain_target(target: Mapping[str, Any]) -> dict[str, str | float]:
    """The target with its defaults, as text and floats."""
    full = {"arch": "dense", **target}
    full.setdefault("n_active", full["n_params"])
    return {k: str(full[k]) if k in ("source", "arch", "data") else float(full[k]) for k in TARGET}


def _target_problems(target: Mapping[str, Any]) -> list[str]:
    missing = [k for k in ("source", "data", "n_params", "n_tokens") if k not in target]
    if missing:
        return [
            f"the target has no {missing[0]}; it is a group (source, arch, data), n_params and n_tokens"
        ]
    out = []
    for name in ("n_params", "n_tokens", "n_active"):
        value = float(target.get(name, target["n_params"]))
        if not (math.isfinite(value) and value > 0):
            out.append(f"the target's {name} = {value:g} cannot be; give a positive, finite number")
    total = float(target["n_params"])
    active = float(target.get("n_active", total))
    if not out and active > total:
        out.append(f"the target's n_active = {active:g} is above its n_params = {total:g}; a token uses all parameters "
                   "(leave n_active out) or some of them")  # fmt: skip
    for name in ("source", "arch", "data"):
        if "/" in str(target.get(name, "")) or not str(target.get(name, "dense")).strip():
            out.append(
                f"the target's {name} = {target.get(name)!r} is no name; write one part of a group, without '/'"
            )
    return out


def device_problems(device: Mapping[str, float | None]) -> list[str]:
    from scaleband.design import Device

    names = {f.name for f in fields(Device)}
    unknown = sorted(set(device) - names)
    if unknown or (device and "peak_flops_per_s" not in device):
        what = f"has {unknown[0]!r}" if unknown else "has no peak_flops_per_s"
        return [f"the device {what}; it is {', '.join(f.name for f in fields(Device))}"]
    out = []
    for name, value in device.items():
        if value is None and name == "price_per_hour":
            continue
        at_least = 0.0 if name in ("overhead_hours", "price_per_hour") else 1e-12
        at_most = 1.0 if name == "utilisation" else math.inf
        if not (isinstance(value, int | float) and math.isfinite(value) and at_least <= value <= at_most):
            limits = "between 0 and 1" if name == "utilisation" else "a positive, finite number"
            out.append(f"the device's {name} = {value!r} cannot be; give {limits}")
    return out


def checked_candidates(columns: Mapping[str, Sequence[Any]], name: str = "candidates") -> dict[str, list[Any]]:
    """Candidates checked as run-table rows would be; costs filled in, double ones refused. `name` is the table's."""
    import numpy as np
    import pandas as pd

    from scaleband.runs import training_flops

    frame = pd.DataFrame({k: list(v) for k, v in columns.items()})
    if not len(frame):
        raise UserError("the candidate table has no rows; give one row per run that could be made")
    checked_rows = checked_settings(frame, name)
    flops = training_flops(checked_rows["n_active"], checked_rows["n_tokens"])
    if "flops" in frame:
        stated = frame["flops"].mask(frame["flops"] == "")
        read = pd.to_numeric(stated, errors="coerce")
        odd = np.flatnonzero(read.isna() & stated.notna())
        if odd.size:
            raise UserError(f"{name} row {odd[0] + 1}: flops = {stated.iloc[odd[0]]!r} is no number; it is "
                            "training compute in FLOP, leave it out to have it computed")  # fmt: skip
        flops = read.fillna(flops)
        if not (flops > 0).all():
            raise UserError(
                "a candidate costs nothing or less; flops is training compute in FLOP, leave it out to have it computed"
            )
    out: dict[str, list[Any]] = {k: checked_rows[k].tolist() for k in INPUTS}
    out["flops"] = [float(v) for v in flops]
    if "bundle" in frame:
        out["bundle"] = frame["bundle"].fillna("").astype(str).tolist()
    if "run_id" in frame and (ids := frame["run_id"].fillna("").astype(str).str.strip()).any():
        out["run_id"] = _checked_ids(ids.tolist(), name)
    keys = [setting_key({k: out[k][i] for k in INPUTS}) for i in range(len(frame))]
    if len(set(keys)) < len(keys):
        twice = next(i for i, key in enumerate(keys) if key in keys[:i])
        raise UserError(f"{name} row {twice + 1}: the same setting is there twice; leave one out")
    return out


def _checked_ids(ids: list[str], name: str) -> list[str]:
    """Ids of candidates: they will name runs, folders and arguments."""
    from scaleband.training.protocol import SAFE_RUN_ID

    for k, run_id in enumerate(ids):
        if run_id and not SAFE_RUN_ID.fullmatch(run_id):
            raise UserError(
                f"{name} row {k + 1}: run_id {run_id!r:.160} cannot name a run's folder; use letters, digits and "
                "_.,=+@%- (not first), or leave the column out to have the runs numbered"
            )
        if run_id and run_id in ids[:k]:
            raise UserError(f"{name} row {k + 1}: the run_id {run_id!r} is there twice; make ids unique")
    return ids


def checked_settings(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows without a loss through the run table's own rules, with its defaults.

    Raises
    ------
    UserError
        What the run table refuses: signs, units, names.
    """
    from scaleband.runs import run_table

    known = [c for c in (*INPUTS, "seq_len") if c in frame]
    rows = frame[known].assign(
        loss=3.0, status="completed", run_id=[f"candidate-{i}" for i in range(len(frame))]
    )
    table = run_table(
        rows, purpose="loss", name=name
    ).frame  # "loss": a candidate table need not compare anything
    missing = [c for c in ("lr_peak", "batch_tokens") if c not in frame or table[c].isna().any()]
    if missing:
        raise UserError(
            f"{name}: {missing[0]} is missing; a run needs its peak rate and its batch in tokens per step"
        )
    return table


def _given(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Earlier runs as plain columns, NaN as None, failed ones left out; the run table has checked them where they were
    read.

    Raises
    ------
    UserError
        A run that is still running, or one without a rate or a batch: a campaign is about these.
    """
    out = {
        k: [None if isinstance(v, float) and not math.isfinite(v) else v for v in vs]
        for k, vs in columns.items()
    }
    count = len(next(iter(out.values()), ()))
    status = [str(v or "completed").lower() for v in out.get("status", ["completed"] * count)]
    if "running" in status:
        first = status.index("running")
        named = f"run_id {out['run_id'][first]}, " if "run_id" in out else ""
        raise UserError(
            f"the earlier runs: {status.count('running'):,} of {count:,} are still running (first {named}row "
            f"{first + 1}), and a campaign is told no more of its earlier runs; wait for them and write in what became "
            "of them, or leave their rows out"
        )
    for name in ("lr_peak", "batch_tokens") if count else ():
        bad = [k for k, v in enumerate(out.get(name, [None] * count)) if v is None]
        if bad:
            raise UserError(
                f"the earlier runs: {name} is missing in {len(bad):,} of {count:,} rows (first in row "
                f"{bad[0] + 1}); a campaign learns from runs of known rate and batch, leave the others out"
            )
    kept = [k for k, v in enumerate(status) if v != "failed"]
    return {name: [values[k] for k in kept] for name, values in out.items()} if kept else {}


def setting_key(inputs: Mapping[Any, Any]) -> str:
    """One setting as text: equal to ten digits is equal."""
    return "|".join(
        str(inputs[k]) if k in ("source", "arch", "data") else f"{float(inputs[k]):.10g}" for k in INPUTS
    )
