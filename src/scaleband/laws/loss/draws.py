"""Draws of fitted loss laws: one or several forms, each with its share of the samples. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scaleband.laws.design import Cells
from scaleband.laws.draws import keyed_rng
from scaleband.laws.far import FarDraws
from scaleband.laws.loss.form import LEVEL_BELIEF, Covariates, LossLaw
from scaleband.laws.loss.table import (
    LossTable,
    Reference,
    covariates,
    group_names,
    sizes_told_apart,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LawSamples:
    """Draws of one law.

    Attributes
    ----------
    law
        The form.
    names
        Along the last dim of `theta`, as in `bayes.loss_model.Layout`.
    theta (sample, entry)
        On the scale without bounds.
    """

    law: LossLaw
    names: tuple[str, ...]
    theta: Array

    def entry(self, name: str) -> Array | None:
        """(sample,) draws of one entry, or None where the fit has none."""
        return self.theta[:, self.names.index(name)] if name in self.names else None


def keyed_normal(count: int, *key: str) -> Array:
    """N(0, 1) draws that depend on `key` alone: two questions about one new group share its offset."""
    return keyed_rng(*key).standard_normal(count)


@dataclass(frozen=True)
class LossDraws:
    """Posterior draws of the loss, forms stacked: the samples of all parts one after another.

    Attributes
    ----------
    parts
        One per form; a form's share of the samples is its weight.
    table
        What was fitted.
    reference
        The point the laws are written around.
    meta
        Facts that travel with the fit: weights, scores, gate, conventions, ranges.
    far
        The surface far from the optimum, where basins were fitted to enough runs.
    """

    parts: tuple[LawSamples, ...]
    table: LossTable
    reference: Reference
    meta: Mapping[str, object] = field(default_factory=dict)
    far: FarDraws | None = None

    @property
    def n_samples(self) -> int:
        """Number of draws, forms together."""
        return sum(len(p.theta) for p in self.parts)

    def form_of_sample(self) -> NDArray[np.str_]:
        """(sample,) name of the form of each draw."""
        return np.concatenate([np.full(len(p.theta), p.law.name) for p in self.parts])

    def groups(self) -> list[str]:
        """Fitted groups, sorted."""
        return sorted(set(self.table.groups()))

    def _speakers(self, name: str) -> list[str]:
        """Fitted groups that speak for one never seen: all, but none about a level where loss kinds differ."""
        return [] if name == "level" and len(set(self.table.kind)) > 1 else self.groups()

    def _grouped(self, part: LawSamples, name: str, group: str, mean: float, sd: float) -> Array:
        """A grouped entry for one group: its own draws, or a new group's given those of the fitted ones."""
        own = part.entry(f"{name}:{group}")
        if own is not None:
            return own
        fitted = np.reshape(
            [part.theta[:, part.names.index(f"{name}:{g}")] for g in self._speakers(name)], (-1, len(part.theta))
        )
        spread2 = np.exp(2 * part.theta[:, part.names.index(f"log_spread_{name}")])
        total = spread2 + len(fitted) * sd**2
        centre = mean + sd**2 * (fitted - mean).sum(0) / total
        z = keyed_normal(len(spread2), name, group)
        return np.asarray(centre + np.sqrt(spread2 + sd**2 * spread2 / total) * z)

    def evaluator(self, group: str) -> tuple[list[Array], list[Mapping[str, Array]]]:
        """Level (sample,) and parameter values (sample,) of one group, one entry per part."""
        levels: list[Array] = []
        values: list[Mapping[str, Array]] = []
        for part in self.parts:
            levels.append(self._grouped(part, "level", group, *LEVEL_BELIEF))
            values.append(
                {
                    p.name: p.value(
                        np,
                        self._grouped(part, p.name, group, p.mean, p.sd)
                        if p.grouped
                        else part.theta[:, part.names.index(p.name)],
                    )
                    for p in part.law.parameters
                }
            )
        return levels, values

    def law_log_loss(self, group: str) -> Callable[[Covariates], Array]:
        """log loss of the law alone as a function of covariates whose last dim is `sample`: no effects, no scatter.

        A batch of NaN is the best one, as in `log_loss`.
        """
        levels, values = self.evaluator(group)
        ends = np.cumsum([len(p.theta) for p in self.parts])

        def value(x: Covariates) -> Array:
            shape = np.broadcast_shapes(*(np.shape(v) for v in x), (self.n_samples,))
            full = Covariates(*(np.broadcast_to(v, shape) for v in x))
            out = np.empty(shape)
            for k, part in enumerate(self.parts):
                rows = slice(ends[k] - len(part.theta), ends[k])
                inside = Covariates(*(v[..., rows] for v in full))
                told = part.law.relative(np, values[k], part.law.tuned(values[k], inside))
                out[..., rows] = levels[k] + np.log(np.maximum(told, 1e-6))
            return out

        return value

    @cached_property
    def _size_effects(self) -> dict[str, tuple[Array, Array]]:
        """Mean and standard deviation (sample,) of the effect of every fitted size; '' is a size never seen."""
        if not self.table.of_cells or any(p.entry("log_size_scale") is None for p in self.parts):
            return {}
        names = np.array(self.table.cells.labels("size"))
        d, rest = np.empty((2, self.n_samples, len(self.table)))
        for group in self.groups():
            at = np.flatnonzero(np.array(self.table.groups()) == group)
            own = self.table.take(at)
            x = covariates(own.cells, self.reference, own.batch_tokens, own.unique_tokens)
            law = self.law_log_loss(group)(Covariates(*(v[:, None] for v in x))).T
            sigma = self._sigma(group.split("/")[0], np.random.default_rng(0))
            rest[:, at], d[:, at] = own.log_loss - law, sigma[:, None] ** 2 + own.log_loss_se**2
        scale = np.exp(np.concatenate([p.theta[:, p.names.index("log_size_scale")] for p in self.parts]))
        out = {"": (np.zeros_like(scale), scale)}
        apart = sizes_told_apart(self.table.cells)
        for name in np.unique(names).tolist():
            if name not in apart:  # its group's level has it already
                out[name] = (np.zeros_like(scale), np.zeros_like(scale))
                continue
            rows = names == name
            variance = 1 / (1 / scale**2 + (1 / d[:, rows]).sum(1))
            out[name] = (variance * (rest[:, rows] / d[:, rows]).sum(1), np.sqrt(variance))
        return out

    def size_effect(self, name: str) -> Array:
        """(sample,) what all cells of a size (`Cells.labels`) share beside the law; 0 where runs were fitted."""
        known = self._size_effects
        if not known:
            return np.zeros(self.n_samples)
        mean, sd = known.get(name, known[""])
        return mean + sd * keyed_normal(len(mean), "size", name)

    def trunk_effect(self, name: str, *key: str) -> Array:
        """(sample,) what runs off one trunk share beside the law, log units; 0 where the fit has no trunks.

        `name` is a trunk (`table.trunk_names`). One never seen is drawn anew, keyed by `key`.
        """
        out = []
        for part in self.parts:
            log_scale, own = part.entry("log_trunk_scale"), part.entry(f"trunk:{name}")
            if log_scale is None:
                out.append(np.zeros(len(part.theta)))
            else:
                out.append(np.exp(log_scale) * (keyed_normal(len(part.theta), "trunk", *key) if own is None else own))
        return np.concatenate(out)

    def log_loss(
        self, cells: Cells, *, batch_tokens: Array | None = None, unique_tokens: Array | None = None,
        new_run: bool = False, size_effects: bool = True, trunk: Sequence[str] | None = None,
    ) -> Array:
        """Draws of log loss at targets: (sample, target).

        Parameters
        ----------
        cells, batch_tokens, unique_tokens
            Targets; the batch matters to laws that ask for it, and where it is left out (or NaN) it is the best one.
        new_run
            Add the scatter of one observation around the law (heavy tails), keyed by the target, and where the fitted
            runs shared trunks the effect of a trunk of its own.
        size_effects
            Add what all models of a size share beside the law (`size_effect`). A size that is still to be chosen has
            its luck before it: leave it out.
        trunk
            (target,) the trunk of each target by `table.trunk_names`, as fitted: its own effect is added, and none
            where it is '' or no other run shared it. Left out where targets are new runs.
        """
        x = covariates(cells, self.reference, batch_tokens, unique_tokens)
        out, sizes = np.empty((self.n_samples, len(cells))), cells.labels("size")
        shared = {n.removeprefix("trunk:") for n in self.parts[0].names if n.startswith("trunk:")}
        for t, group in enumerate(group_names(cells)):
            out[:, t] = self.law_log_loss(group)(Covariates(*(v[t] for v in x)))
            if size_effects:
                out[:, t] += self.size_effect(sizes[t])
            if new_run:
                key = (group, f"{cells.n_params[t]:.6g}", f"{cells.n_tokens[t]:.6g}")
                out[:, t] += self.scatter(cells.source[t], *key)
                if trunk is None:
                    out[:, t] += self.trunk_effect("", *key)
            if trunk is not None and trunk[t] in shared:
                out[:, t] += self.trunk_effect(trunk[t])
        return out

    def _sigma(self, source: str, rng: np.random.Generator) -> Array:
        """(sample,) scale of one observation's distance from the law; a new source is as noisy as any that was seen."""
        out = []
        for part in self.parts:
            own = part.entry(f"log_sigma:{source}")
            if own is None:
                known = [k for k, n in enumerate(part.names) if n.startswith("log_sigma:")]
                pick = rng.integers(len(known), size=len(part.theta))
                own = part.theta[np.arange(len(part.theta)), np.array(known)[pick]]
            out.append(np.exp(own))
        return np.concatenate(out)

    def scatter(self, source: str, *key: str) -> Array:
        """One observation's distance from the law, log units, (sample,): Student t for runs, normal for cells."""
        rng = keyed_rng("scatter", *key)
        sigma = self._sigma(source, rng)
        if self._size_effects:
            return sigma * rng.standard_normal(len(sigma))
        nu = 1 + np.exp(np.concatenate([p.theta[:, p.names.index("log_nu_minus_1")] for p in self.parts]))
        return np.asarray(sigma * rng.standard_t(nu))
