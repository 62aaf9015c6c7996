"""What the replays' rivals would do with a Gaussian process: BoTorch's active learning, priced.

`SingleTaskGP` (BoTorch's own priors and fit) of 100 log loss over the logs of parameters, tokens, sparsity, rate and
batch of all runs bought so far; a run above its cell's threshold counts at the threshold, as in the model's own fits. A
run is chosen for the drop of `qNegIntegratedPosteriorVariance` per FLOP, integrated over a grid of 5 x 5
settings of the target's cell that spans the candidates' rates and batches; runs of one batch are pending for the next.

Needs the dependency group `botorch`; imported only when the policy is used.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleband.bayes import model_inputs
from scaleband.laws import REFERENCE

if TYPE_CHECKING:
    from replay import Oracle, State

BATCH = 8
"""Runs between two fits of the process."""


def _features(o: Oracle) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (run, 5) and the target's settings (25, 5), both scaled to the unit cube of all of them."""
    c, t = o.candidates, o.target
    own = c.cells
    cells = np.stack([np.log(own.n_params), np.log(own.n_tokens), np.log(own.n_params / own.n_active)], axis=1)
    runs = np.concatenate([cells[c.cell], c.x], axis=1)
    axes = [np.linspace(c.x[:, k].min(), c.x[:, k].max(), 5) for k in (0, 1)]
    settings = np.stack([v.ravel() for v in np.meshgrid(*axes)], axis=1)
    here = np.array([np.log(t.n_params[0]), np.log(t.n_tokens[0]), np.log(t.n_params[0] / t.n_active[0])])
    target = np.concatenate([np.tile(here, (len(settings), 1)), settings], axis=1)
    low = np.minimum(runs.min(0), target.min(0))
    width = np.maximum(runs.max(0), target.max(0)) - low
    scaled = (np.where(width > 0, (v - low) / np.where(width > 0, width, 1.0), 0.0) for v in (runs, target))
    return tuple(scaled)  # type: ignore[return-value]


def process_of(o: Oracle, state: State) -> tuple[Any, np.ndarray, np.ndarray]:
    """The process fitted to what was bought, and the features of candidates and target."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    runs, target = _features(o)
    inputs = model_inputs(o.runs.iloc[sorted(state.bought)], o.design)
    loss = dict(zip(inputs.run_ids, inputs.y, strict=True))
    y = np.array([loss[o.runs["run_id"].iloc[i]] for i in state.bought])
    model = SingleTaskGP(torch.tensor(runs[state.bought]), torch.tensor(y)[:, None])
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model, runs, target


def choose_by_process(o: Oracle, state: State, money: float, ask: int, rng: np.random.Generator) -> list[int]:
    """One batch of at most `BATCH` runs, the largest drop of the integrated variance per FLOP first."""
    import torch
    from botorch.acquisition.active_learning import qNegIntegratedPosteriorVariance

    out: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations; a fit that BoTorch tries again
        model, runs, target = process_of(o, state)
        points = torch.tensor(target)
        had = set(state.bought)
        with torch.no_grad():
            now = float(model.posterior(points).variance.mean())
            for _ in range(BATCH):
                open_ = np.array([i for i in range(len(o.price)) if i not in had and o.price[i] <= money])
                if not len(open_):
                    break
                pending = torch.tensor(runs[out]) if out else None
                value = qNegIntegratedPosteriorVariance(model, points, X_pending=pending)
                after = torch.cat([-value(torch.tensor(runs[some])[:, None]) for some in np.array_split(open_, 4)])
                k = int(((now - after.numpy()) / o.price[open_]).argmax())
                now = float(after[k])
                out.append(int(open_[k]))
                had.add(out[-1])
                money -= o.price[out[-1]]
    return out


def recommended_by_process(o: Oracle, state: State) -> tuple[float, float]:
    """The process' own answer: rate and batch of its least mean at the target, on a grid of 41 x 41 settings."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, _, target = process_of(o, state)
        axes = [np.linspace(target[:, k].min(), target[:, k].max(), 41) for k in (3, 4)]
        settings = np.stack([v.ravel() for v in np.meshgrid(*axes)], axis=1)
        with torch.no_grad():
            grid = np.concatenate([np.tile(target[0, :3], (len(settings), 1)), settings], axis=1)
            best = settings[int(model.posterior(torch.tensor(grid)).mean.argmin())]
    x = o.candidates.x
    lr, batch = x.min(0) + best * (x.max(0) - x.min(0))
    return float(REFERENCE["lr_peak"] * np.exp(lr)), float(REFERENCE["batch_tokens"] * np.exp(batch))
