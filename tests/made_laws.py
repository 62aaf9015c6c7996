"""Loss laws made up around a known truth, without a fit."""

from __future__ import annotations

import numpy as np

from scaleband.laws import Cells
from scaleband.laws.far import BELIEFS, FarDraws
from scaleband.laws.loss import LAWS, Covariates
from scaleband.laws.loss.draws import LawSamples, LossDraws
from scaleband.laws.loss.table import LossTable, Reference

TRUTH = {"reducible": 0.45, "balance": 0.5, "alpha": 0.34, "beta": 0.37}
LEVEL = {"web": np.log(2.7), "code": np.log(1.6)}
REFERENCE = Reference(3e8, 6e9, 524_288.0)


def true_log_loss(n: np.ndarray, d: np.ndarray, data: str = "web") -> np.ndarray:
    """The truth at sizes and tokens."""
    x = Covariates(np.log(n / REFERENCE.n_active), np.log(d / REFERENCE.n_tokens), 0.0, 0.0, 0.0)
    return LEVEL[data] + np.log(LAWS["chinchilla"].relative(np, TRUTH, x))


def made_laws(n: int = 300, *, source: str = "a", spread: float = 0.01, of_cells: bool = True) -> LossDraws:
    """Two forms of one truth (the second, Kaplan's, with gamma 1), two groups, 24 observations."""
    rng = np.random.default_rng(3)
    size, tokens = (v.ravel() for v in np.meshgrid([6e7, 2e8, 6e8, 2e9], [2e9, 8e9, 3e10], indexing="ij"))
    data = ["web"] * 12 + ["code"] * 12
    size, tokens = np.tile(size, 2), np.tile(tokens, 2)
    luck = {f"{v:.3g}": 0.004 * k for k, v in enumerate([6e7, 2e8, 6e8, 2e9])}  # sizes differ from the law
    loss = np.array([true_log_loss(a, b, g) + luck[f"{a:.3g}"] for a, b, g in zip(size, tokens, data, strict=True)])
    cells = Cells((source,) * 24, ("dense",) * 24, tuple(data), size, size, tokens)
    nothing = np.full(24, np.nan)
    table = LossTable(
        cells, nothing, nothing, loss + 0.0005 * rng.standard_normal(24), np.full(24, 5e-4), ["val"] * 24, [""] * 24,
        of_cells,
    )  # fmt: skip
    groups = [f"{source}/dense/{g}" for g in ("code", "web")]
    parts = []
    for name in ("chinchilla", "kaplan"):
        law = LAWS[name]
        entries: dict[str, float] = {}
        for p in law.parameters:
            value = 1.0 if p.name == "gamma" else TRUTH[p.name]
            keys = [f"{p.name}:{g}" for g in groups] if p.grouped else [p.name]
            entries |= {k: float(p.unbounded(value)) for k in keys}
        entries |= {f"level:{g}": LEVEL[g.split("/")[2]] for g in groups}
        entries |= {"log_spread_level": -1.5, "log_spread_reducible": -1.5, "log_spread_balance": -1.5}
        entries |= {f"log_sigma:{source}": np.log(0.001), "log_nu_minus_1": 1.6, "log_size_scale": np.log(0.005)}
        exact = {k for k in entries if k.startswith(("log_", "level:"))}
        theta = np.array(list(entries.values())) + np.where(
            [k in exact for k in entries], 0.1 * spread, spread
        ) * rng.standard_normal((n, len(entries)))  # fmt: skip
        parts.append(LawSamples(law, tuple(entries), theta))
    far = FarDraws(np.array([b[0] for b in BELIEFS.values()]) + 0.05 * rng.standard_normal((n, len(BELIEFS))))
    meta = {
        "gate": {"passed": True, "messages": []}, "weights": {"chinchilla": 0.5, "kaplan": 0.5, "farseer": 0.0},
        "conventions": {g: {"loss_kind": "val"} for g in groups},
    }  # fmt: skip
    return LossDraws(tuple(parts), table, REFERENCE, meta, far)


def losses_alone(name: str, truth: dict[str, float], n: int = 40) -> LossDraws:
    """Draws of one law, all at its truth, as a fit of the losses of group a/dense/web alone gives them."""
    law, group = LAWS[name], "a/dense/web"
    table = made_laws(2, of_cells=False).table.take(np.arange(12))
    entries = {f"{p.name}:{group}" if p.grouped else p.name: float(p.unbounded(truth[p.name])) for p in law.parameters}
    entries |= {f"level:{group}": LEVEL["web"], "log_sigma:a": np.log(0.001), "log_nu_minus_1": 1.6}
    entries |= {f"log_spread_{k}": -1.5 for k in ("level", *(p.name for p in law.parameters if p.grouped))}
    part = LawSamples(law, tuple(entries), np.tile(list(entries.values()), (n, 1)))
    meta = {"gate": {"passed": True, "messages": []}, "weights": {name: 1.0}, "conventions": {}, "n_runs": 12}
    return LossDraws((part,), table, REFERENCE, meta)


REPEATED = TRUTH | {"repeat_decay": 15.0, "excess_decay": 5.0}
THREE = {"reducible": 0.45, "balance": 0.5, "alpha": 0.34, "steps_share": 0.5, "steps_exponent": 0.6,
         "batch_exponent": 0.55}  # fmt: skip
