"""One model for every loss law: beliefs, layout of the parameter vector, density, `with pm.Model`.

    level_g         log loss at the reference:  N(mean of its loss kind, spread), that mean N(1, 0.7) integrated out
    u_gk            grouped parameters:         N(mean_k, spread_k), mean_k its stated belief, integrated out
    trunk effect    one per trunk:              scale * N(0, 1)
    log loss_i ~ StudentT(nu, level + log relative + effects, sqrt(sigma_source^2 + se_i^2))

An observation alone on its trunk, where others of its source share theirs, has scale^2 in its own variance.

Levels of fitted basins (`LossTable.of_cells`) are told apart: cells of one model size err alike (its depth, its width,
its luck), so there an effect per size, N(0, size scale), is integrated out and what remains is normal:

    log loss_c ~ N(level + log relative + u_size, sqrt(sigma_source^2 + se_c^2)),  u_size ~ N(0, exp(log_size_scale))

The density is written once over an array namespace: NumPy finds the mode and serves the tests, PyTensor samples. The
vector is sampled in coordinates found beforehand, theta = sheared(centre + factor u): whatever the law and however
its parameters trade off, the sampler sees a nearly round posterior. Coordinates only: the posterior is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.laws.loss import Covariates, LossLaw
from scaleband.laws.loss.form import LEVEL_BELIEF
from scaleband.laws.loss.table import (
    LossTable,
    covariates,
    reference_of,
    sizes_told_apart,
    trunk_names,
)

Array = NDArray[np.float64]

SCALES: dict[str, tuple[float, float, str]] = {
    "log_spread_level": (float(np.log(0.2)), 0.8, "groups of one loss kind differ by 5-80 % in level"),
    "log_spread_parameter": (float(np.log(0.3)), 0.5, "a grouped parameter moves by 0.13-0.7 on its unbounded scale"),
    "log_spread_size_exponent": (float(np.log(0.15)), 0.5, "exponents of groups differ by 7-35 %"),
    "log_spread_tokens_exponent": (float(np.log(0.15)), 0.5, "exponents of groups differ by 7-35 %"),
    "log_sigma": (float(np.log(0.004)), 0.9, "an observation misses the law by 0.1-2 %"),
    "log_trunk_scale": (float(np.log(0.002)), 0.8, "what runs off one trunk share, 0.05-0.8 %"),
    "log_size_scale": (float(np.log(0.002)), 0.7, "cells of one model size miss the law together by 0.05-0.8 %"),
    "log_nu_minus_1": (float(np.log(5.0)), 0.7, "tails: a few observations in a hundred are odd"),
}
"""Scales of one loss model, natural logs: (mean, standard deviation, reason)."""


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the parameter vector.

    Attributes
    ----------
    law, groups, kinds, sources, trunks
        Names along each block; `kinds` holds the loss kind of each group.
    sizes
        Names of the model sizes that share an effect; empty for tables of runs.
    names
        One per entry of the vector: `alpha`, `level:group`, `balance:group`, `log_sigma:source`, `trunk:...`.
    """

    law: LossLaw
    groups: tuple[str, ...]
    kinds: tuple[str, ...]
    sources: tuple[str, ...]
    trunks: tuple[str, ...]
    names: tuple[str, ...]
    sizes: tuple[str, ...] = ()

    def at(self, name: str) -> int:
        """Position of one entry."""
        return self.names.index(name)

    def block(self, prefix: str) -> slice:
        """Positions of the entries `prefix:...`, which lie together."""
        found = [k for k, name in enumerate(self.names) if name.startswith(f"{prefix}:")]
        return slice(found[0], found[-1] + 1) if found else slice(0, 0)


def layout_for(table: LossTable, law: LossLaw) -> Layout:
    """The layout of a law on a table. Trunks that several observations share get an effect."""
    groups = tuple(sorted(set(table.groups())))
    kind = dict(zip(table.groups(), table.kind, strict=True))
    sources = tuple(sorted(set(table.cells.source)))
    names = trunk_names(table)
    trunks = tuple(sorted({t for t in names if t and names.count(t) > 1}))
    entries = [p.name for p in law.parameters if not p.grouped]
    entries += [f"level:{g}" for g in groups]
    entries += [f"{p.name}:{g}" for p in law.parameters if p.grouped for g in groups]
    entries += ["log_spread_level"] + [f"log_spread_{p.name}" for p in law.parameters if p.grouped]
    entries += [f"log_sigma:{s}" for s in sources] + ["log_nu_minus_1"]
    if trunks:
        entries += ["log_trunk_scale"] + [f"trunk:{t}" for t in trunks]
    sizes = sizes_told_apart(table.cells) if table.of_cells else ()
    if sizes:
        entries += ["log_size_scale"]
    return Layout(law, groups, tuple(kind[g] for g in groups), sources, trunks, tuple(entries), sizes)


def one_hot(names: Sequence[str], levels: Sequence[str]) -> Array:
    """(row, level): 1 where a row is of a level."""
    return np.array([[float(n == level) for level in levels] for n in names]).reshape(len(names), len(levels))


def model_arrays(table: LossTable, layout: Layout) -> dict[str, Any]:
    """The rows as arrays: everything here is data of the compiled model. A row with `weight` 0 is left out."""
    x = covariates(table.cells, reference_of(table), table.batch_tokens, table.unique_tokens)
    x = x._replace(b=np.where(np.isfinite(x.b), x.b, 0.0))  # the graph has every covariate, asked for or not
    trunk = {name: k for k, name in enumerate(layout.trunks)}
    names = trunk_names(table)
    sources = np.array(table.cells.source)
    shares = np.array([name in trunk for name in names])
    return {
        **{f"x_{name}": np.asarray(value, float) for name, value in x._asdict().items()},
        "y": table.log_loss,
        "y_se": table.log_loss_se,
        "weight": np.ones(len(table)),
        "group": np.array([layout.groups.index(g) for g in table.groups()], np.int64),
        "source": np.array([layout.sources.index(s) for s in table.cells.source], np.int64),
        "trunk": np.array([trunk.get(t, len(trunk)) for t in names], np.int64),
        "alone": (~shares & np.isin(sources, sources[shares])).astype(float),
        "of_size": one_hot(table.cells.labels("size"), layout.sizes),
    }


def _normal(value: Any, mean: float, sd: float) -> Any:
    return -0.5 * ((value - mean) / sd) ** 2


def pooled(xp: Any, values: list[Any], mean: float, sd: float, log_spread: Any) -> Any:
    """log density of exchangeable values whose common mean, N(mean, sd), is integrated out."""
    count = len(values)
    first = sum(v - mean for v in values)
    second = sum((v - mean) ** 2 for v in values)
    spread2 = xp.exp(2 * log_spread)
    total = spread2 + count * sd**2
    quadratic = (second - first**2 * sd**2 / total) / spread2
    return -0.5 * (quadratic + 2 * (count - 1) * log_spread + xp.log(total))


def log_prior(xp: Any, theta: Any, layout: Layout) -> Any:
    """Log density of the beliefs, up to a constant; `theta` (..., entry), one value per leading index."""
    total = 0.0
    for p in layout.law.parameters:
        if p.grouped:
            start = layout.block(p.name).start
            values = [theta[..., start + g] for g in range(len(layout.groups))]
            total = total + pooled(xp, values, p.mean, p.sd, theta[..., layout.at(f"log_spread_{p.name}")])
        else:
            total = total + _normal(theta[..., layout.at(p.name)], p.mean, p.sd)
    start = layout.block("level").start
    for kind in sorted(set(layout.kinds)):
        values = [theta[..., start + g] for g, k in enumerate(layout.kinds) if k == kind]
        total = total + pooled(xp, values, *LEVEL_BELIEF, theta[..., layout.at("log_spread_level")])
    for k, name in enumerate(layout.names):
        own = name.partition(":")[0]
        stated = SCALES.get(own) or (SCALES["log_spread_parameter"] if own.startswith("log_spread_") else None)
        if stated is not None:
            total = total + _normal(theta[..., k], stated[0], stated[1])
    return total - 0.5 * (theta[..., layout.block("trunk")] ** 2).sum(-1)


def fitted_log_loss(xp: Any, theta: Any, layout: Layout, a: Any) -> Any:
    """The law's log loss at every row, effects included: (..., row)."""
    values = {}
    for p in layout.law.parameters:
        if p.grouped:
            values[p.name] = p.value(xp, theta[..., layout.block(p.name)])[..., a["group"]]
        else:
            values[p.name] = p.value(xp, theta[..., layout.at(p.name), None])
    x = Covariates(*(a[f"x_{name}"] for name in Covariates._fields))
    mean = theta[..., layout.block("level")][..., a["group"]]
    mean = mean + xp.log(xp.maximum(layout.law.relative(xp, values, x), 1e-6))
    where = layout.block("trunk")
    if where.stop > where.start:
        none = 0 * theta[..., :1]  # a shape that JAX knows
        scale = xp.exp(theta[..., layout.at("log_trunk_scale"), None])
        mean = mean + (scale * xp.concatenate([theta[..., where], none], axis=-1))[..., a["trunk"]]
    return mean


def size_effects(xp: Any, theta: Any, layout: Layout, a: Any) -> tuple[Any, Any, Any, Any]:
    """Residual (..., row), its variance without the effect, and the effects' mean and variance (..., size) given them.

    Conjugate: u_s | rows ~ N(v sum_i w_i r_i / d_i, v), v = 1 / (1 / scale^2 + sum_i w_i / d_i).
    """
    rest = a["y"] - fitted_log_loss(xp, theta, layout, a)
    d = xp.exp(2 * theta[..., layout.block("log_sigma")])[..., a["source"]] + a["y_se"] ** 2
    total = xp.dot(a["weight"] / d, a["of_size"])
    variance = 1 / (xp.exp(-2 * theta[..., layout.at("log_size_scale"), None]) + total)
    return rest, d, variance * xp.dot(a["weight"] * rest / d, a["of_size"]), variance


def cells_log_density(xp: Any, theta: Any, layout: Layout, a: Any) -> Any:
    """Log density of all rows together, effects of sizes integrated out: (...)."""
    rest, d, mean, variance = size_effects(xp, theta, layout, a)
    rows = -0.5 * (a["weight"] * (xp.log(2 * np.pi * d) + rest**2 / d)).sum(-1)
    log_scale = theta[..., layout.at("log_size_scale"), None]
    return rows + 0.5 * (mean**2 / variance + xp.log(variance) - 2 * log_scale).sum(-1)


def row_log_density(xp: Any, theta: Any, layout: Layout, a: Any) -> Any:
    """log density of every row, (..., row), weights not applied; with sizes: of a row given the rows with weight 1.

    So with sizes it says something only about rows that have weight 0.
    """
    if layout.sizes:
        rest, d, mean, variance = size_effects(xp, theta, layout, a)
        own = xp.dot(variance, a["of_size"].T) + d
        return -0.5 * (xp.log(2 * np.pi * own) + (rest - xp.dot(mean, a["of_size"].T)) ** 2 / own)
    if xp is np:
        from scipy.special import gammaln
    else:
        gammaln = xp.gammaln
    mean = fitted_log_loss(xp, theta, layout, a)
    sigma = xp.exp(theta[..., layout.block("log_sigma")])[..., a["source"]]
    variance = sigma**2 + a["y_se"] ** 2
    if layout.trunks:
        variance = variance + a["alone"] * xp.exp(2 * theta[..., layout.at("log_trunk_scale"), None])
    scale = xp.sqrt(variance)
    nu = 1 + xp.exp(theta[..., layout.at("log_nu_minus_1"), None])
    z = (a["y"] - mean) / scale
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * xp.log(nu * np.pi)
    return constant - xp.log(scale) - (nu + 1) / 2 * xp.log(1 + z * z / nu)


def log_density(xp: Any, theta: Any, layout: Layout, a: Any) -> Any:
    """Log posterior up to a constant, one value per leading index of `theta` (..., entry)."""
    if layout.sizes:
        return log_prior(xp, theta, layout) + cells_log_density(xp, theta, layout, a)
    return log_prior(xp, theta, layout) + (a["weight"] * row_log_density(xp, theta, layout, a)).sum(-1)


def sheared(xp: Any, z: Any, layout: Layout) -> Any:
    """From sampling coordinates to the parameter vector: where z holds log slopes, exponents come out.

    Runs pin a term's slope at the reference, share times exponent, far better than either. So alpha's place in z holds
    log(alpha * size's share), beta's log(beta * tokens' share), shares averaged over groups in logs. The map shifts an
    entry by others, so its Jacobian is one and the posterior is the same.
    """
    names = {p.name for p in layout.law.parameters}
    if not {"reducible", "balance"} <= names or len(names & {"alpha", "beta"}) == 0:
        return z
    r, w = z[..., layout.block("reducible")], z[..., layout.block("balance")]
    log_r, log_w, log_rest = (-xp.log1p(xp.exp(-v)).mean(-1) for v in (r, w, -w))
    shift = {"alpha": log_r + log_w, "beta": log_r + log_rest}
    parts = []
    for name in ("alpha", "beta"):
        if name in names:
            k = layout.at(name)
            basis = np.zeros(len(layout.names))
            basis[k] = 1.0
            parts.append(shift[name][..., None] * basis)
    return z - sum(parts)


def build_loss_model(layout: Layout, arrays: dict[str, Any], centre: Array, factor: Array) -> Any:
    """The PyMC model: one free vector `theta_std` (entry,) in the coordinates of `centre` and `factor`."""
    import pymc as pm
    import pytensor.tensor as pt

    with pm.Model(coords={"entry": list(layout.names)}) as model:
        a = {name: pt.specify_shape(pm.Data(name, value), value.shape) for name, value in arrays.items()}
        where = pm.Data("centre", centre), pm.Data("factor", factor)
        unit = pm.Flat("theta_std", dims="entry")
        # JAX wants shapes that are known before it runs.
        z = pt.specify_shape(where[0] + pt.dot(where[1], unit), (len(layout.names),))
        theta = sheared(pt, z, layout)
        pm.Potential("log_posterior", log_density(pt, theta, layout, a))
    return model
