"""Draws of everything a prediction needs, as plain arrays with one leading sample dim."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.laws.design import (
    DEVIATING,
    FEATURES,
    HYPERPARAMETERS,
    LEVEL,
    RESPONSES,
    ROLES,
    SCATTER_RATIO_SD,
    Cells,
    Design,
    features,
)

Array = NDArray[np.float64]

# As in `runs.cells`, whose import would bring pandas into a recommendation.
PARAMS_TOLERANCE = 1e-3
TOKENS_TOLERANCE = 5e-3

DRAWN = ("law", "scatter", "scatter_level", "scatter_ratio", "state", "angle", "skew", "sigma", "trunk_scale", "rho",
         "nu", "shared")  # fmt: skip
"""Fields of `LawDraws` that a posterior holds under the same names; `offset_scale` is put together (`LawDraws.of`)."""


def keyed_rng(*key: str) -> np.random.Generator:
    """A stream that depends on `key` alone: two questions about one new name share its luck, whatever else is asked."""
    digest = hashlib.sha256("\x1f".join(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


@dataclass(frozen=True)
class LawDraws:
    """Posterior draws of the laws, chains already stacked.

    Attributes
    ----------
    design, cells
        The columns of the law and the fitted cells.
    law (sample, response, coefficient)
        Coefficients of every response of `RESPONSES` (natural logs; level in 100 log nats; angles in radians).
    scatter (sample, response)
        Standard deviation of the cell effect; of levels, for a source that was not fitted.
    offset_scale (sample, response, role)
        Standard deviation of a level's offset, one per role of `ROLES` (0 for `shared`).
    state (sample, response, cell)
        The fitted cells' own optimum, curvatures, level and shape.
    angle, skew (sample, direction)
        Shape of the basin, mean over the fitted cells: radians, per log unit. A cell's own is in `state`.
    sigma (sample, source), rho (sample,), nu (sample,)
        Noise in 100 log units by source; noise per unit of excess; degrees of freedom.
    sources
        Names along the source dim of `sigma`, `scatter_level` and `scatter_ratio`.
    shared (sample, shared)
        The unconstrained shared parameters, for use as a prior.
    meta
        Plain facts that travel with the fit: conventions per group, gate, name, versions, ranges.
    scatter_level (sample, source)
        Standard deviation of the cell effect on the level, by source; by default as in `scatter`.
    scatter_ratio (sample, hyperparameter, source)
        A source's standard deviation of the cell effect on log rate and log batch over that in `scatter`, where several
        were fitted together; by default one.
    origin
        Of draws that were chosen for what they say of levels or cells never seen (`resampled`): how many there were,
        and which of them these are, (sample,).
    trunk_scale (sample,)
        Standard deviation of the error that runs off one trunk share, 100 log units; None where no runs share trunks.
    trunked
        Sources whose runs share trunks: the others' runs have no such error.
    grid (4, cell)
        Lowest and highest log(lr / 1e-3), then lowest and highest log(batch / 524,288), of each fitted cell's runs; NaN
        for a cell without runs. None where a file does not say.
    """

    design: Design
    cells: Cells
    law: Array
    scatter: Array
    offset_scale: Array
    state: Array
    angle: Array
    skew: Array
    sigma: Array
    rho: Array
    nu: Array
    sources: tuple[str, ...]
    shared: Array
    meta: Mapping[str, object] = field(default_factory=dict)
    scatter_level: Array | None = None
    scatter_ratio: Array | None = None
    origin: tuple[int, NDArray[np.int64]] | None = None
    trunk_scale: Array | None = None
    trunked: tuple[str, ...] = ()
    grid: Array | None = None

    @classmethod
    def of(
        cls, flat: Mapping[str, Array], fixed_offset_scale: Array, *, design: Design, cells: Cells,
        sources: tuple[str, ...], meta: Mapping[str, object], trunked: tuple[str, ...] = (), grid: Array | None = None,
    ) -> LawDraws:
        """From a posterior's entries by name.

        Parameters
        ----------
        flat
            `DRAWN`, as far as the posterior has them, and `offset_scale` (sample, hyperparameter, role without
            `shared`), which is learned; a leading sample dim each, other entries are not looked at.
        fixed_offset_scale (response, role without `shared`)
            Of all other responses, whose pooling is not learned (`bayes.beliefs.fixed_offset_scales`).
        design, cells, sources, meta, trunked, grid
            As in the class.
        """
        n_learned = len(HYPERPARAMETERS)
        offset = np.zeros((len(flat["rho"]), len(RESPONSES), len(ROLES)))
        offset[:, :n_learned, 1:] = flat["offset_scale"]
        offset[:, n_learned:, 1:] = fixed_offset_scale[n_learned:]
        drawn: dict[str, Any] = {name: flat[name] for name in DRAWN if name in flat}
        return cls(
            design=design, cells=cells, offset_scale=offset, sources=sources, meta=meta, trunked=trunked, grid=grid,
            **drawn,
        )  # fmt: skip

    @property
    def n_samples(self) -> int:
        """Number of draws, chains together."""
        return int(self.law.shape[0])

    def take(self, index: NDArray[np.int64] | slice) -> LawDraws:
        """These draws alone, in this order; a draw may be taken several times."""
        every = {name: getattr(self, name) for name in ("offset_scale", *DRAWN)}
        origin = None if self.origin is None else (self.origin[0], self.origin[1][index])
        return replace(
            self, origin=origin, **{name: value[index] for name, value in every.items() if value is not None}
        )

    def resampled(self, index: NDArray[np.int64]) -> LawDraws:
        """These draws alone, each with what it says of levels and cells never seen; `take` would draw that anew."""
        whole = self if self.origin is not None else replace(self, origin=(self.n_samples, np.arange(self.n_samples)))
        return whole.take(index)

    def without_scatter(self) -> LawDraws:
        """With new cells on their law."""
        return replace(self, scatter=np.zeros_like(self.scatter), scatter_level=None)

    def cell_scatter(self, source: str) -> Array:
        """Standard deviation of the effect of a source's cells: (sample, response)."""
        scatter, known = self.scatter.copy(), source in self.sources
        if known and self.scatter_level is not None:
            scatter[:, LEVEL] = self.scatter_level[:, self.sources.index(source)]
        if self.scatter_ratio is not None:
            if known:
                ratio = self.scatter_ratio[:, :, self.sources.index(source)]
            else:
                ratio = np.exp(SCATTER_RATIO_SD * self.standard_normal("scatter", source)[:, : len(HYPERPARAMETERS)])
            scatter[:, : len(HYPERPARAMETERS)] *= ratio
        return scatter

    def trunk_error(self) -> Array:
        """Standard deviation of what a run has from its trunk, 100 log units, by source: (sample, source)."""
        scale = np.zeros(self.n_samples) if self.trunk_scale is None else self.trunk_scale
        return scale[:, None] * np.isin(self.sources, self.trunked)

    def run_noise(self, source: str, rng: np.random.Generator) -> tuple[Array, Array]:
        """Noise of one new run of a source near its optimum, 100 log units: `sigma` and `trunk_error`, (sample,) each.

        The first scales a Student t, the second a normal; both are a run's own, and independent. A source never seen
        has the noise of any of those that were: which, `rng` says draw by draw.
        """
        draw = np.arange(self.n_samples)
        if source in self.sources:
            column = np.full(self.n_samples, self.sources.index(source))
        else:
            column = rng.integers(len(self.sources), size=self.n_samples)
        return self.sigma[draw, column], self.trunk_error()[draw, column]

    def standard_normal(self, *key: str) -> Array:
        """N(0, 1) draws, (sample, response), that depend on `key` alone.

        A level never seen (a new source, a new cell) gets one draw of its offset per posterior draw. Keyed by
        its name, two questions about the same new source share that draw, whatever else is asked.
        """
        rng = keyed_rng(*key)
        if self.origin is None:
            return rng.standard_normal((self.n_samples, self.law.shape[1]))
        return rng.standard_normal((self.origin[0], self.law.shape[1]))[self.origin[1]]

    def matching_cell(self, cells: Cells, c: int) -> int | None:
        """Index of the fitted cell that target `c` is, or None.

        Same group, n_params within 0.1 %, n_tokens within 0.5 %: what makes two runs of a table one cell (see
        `runs.cell_table`). And n_active within 0.1 %: a model that uses more of itself was not run. Of several, the
        closest.
        """
        own, found = self.cells, []
        for k in range(len(own)):
            group = (own.source[k], own.arch[k], own.data[k]) == (cells.source[c], cells.arch[c], cells.data[c])
            params = abs(np.log(own.n_params[k] / cells.n_params[c]))
            active = abs(np.log(own.n_active[k] / cells.n_active[c]))
            tokens = abs(np.log(own.n_tokens[k] / cells.n_tokens[c]))
            if group and max(params, active) <= PARAMS_TOLERANCE and tokens <= TOKENS_TOLERANCE:
                found.append((params + tokens, k))
        return min(found)[1] if found else None

    def _deviating(self, role: str) -> list[str]:
        """Features whose coefficient differs by level of `role` in this fit: its form may have none."""
        found = []
        for feature in self.design.deviating(role):
            own = [c.startswith(f"exponent:{feature}:{role}:") for c in self.design.columns]
            # a released posterior as a prior leaves 1e-6 where its form had nothing
            if (np.abs(self.law[:, : len(HYPERPARAMETERS), own]) > 1e-5).any():
                found.append(feature)
        return found

    def at(self, cells: Cells, *, as_new: bool = False) -> Array:
        """State of target cells: (sample, response, cell).

        A fitted cell speaks for itself unless `as_new`; any other cell is a new draw from the law: coefficients,
        offsets of levels never seen, and its own cell effect.
        """
        x = self.design.matrix(cells)
        state = np.einsum("src,tc->srt", self.law, x)
        for role in ROLES[1:-1]:
            r = ROLES.index(role)
            for c, level in enumerate(self.design.missing(cells, role)):
                if level:
                    state[:, :, c] += self.offset_scale[:, :, r] * self.standard_normal(role, level)
        r, of_cells = ROLES.index("exponent"), features(cells)
        for role in DEVIATING:  # each level has its own deviation from the shared exponents
            missing = self.design.missing(cells, role)
            deviating = self._deviating(role) if any(missing) else []
            for c, level in enumerate(missing):
                for feature in deviating if level else ():
                    draw = self.offset_scale[:, :, r] * self.standard_normal("exponent", feature, role, level)
                    state[:, :, c] += of_cells[c, FEATURES.index(feature)] * draw
        for c in range(len(cells)):
            match = None if as_new else self.matching_cell(cells, c)
            if match is not None:
                state[:, :, c] = self.state[:, :, match]
            else:
                group = f"{cells.source[c]}/{cells.arch[c]}/{cells.data[c]}"
                key = (group, f"{cells.n_params[c]:.6g}", f"{cells.n_tokens[c]:.6g}")
                state[:, :, c] += self.cell_scatter(cells.source[c]) * self.standard_normal("cell", *key)
        return state
