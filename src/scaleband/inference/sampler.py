"""Compile once, sample (NUTS, then `moves`), and refit other rows, forms or priors without compiling again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import Beliefs, ModelInputs
from scaleband.bayes.model import build_model, initial_point, model_data
from scaleband.bayes.stop_gradient import translate
from scaleband.inference.gibbs import MOVED
from scaleband.inference.moves import move

Array = NDArray[np.float64]


_ONE_BATCH_ACCEPT = 0.95
"""Of 1,600 draws of 19 cells with one batch each 45 diverged at 0.8, one of 800 at 0.9."""


_FOR_COPIES = 100
"""Draws a chain from which on draws of NUTS are kept several times."""


@dataclass(frozen=True)
class SamplerSettings:
    """How long to sample.

    Attributes
    ----------
    draws, tune, chains, seed
        Draws that are kept and steps that are not, a chain.
    target_accept
        NUTS's; at least 0.95 where cells ran one batch: slower and safer.
    rounds, copies
        Every draw of NUTS is moved on by `rounds` of Gibbs moves and kept, `copies` times (`inference.moves`): NUTS
        draws a `copies`-th of the draws. Without rounds, or for fewer than 100 draws, it draws them all.
    """

    draws: int = 1200
    tune: int = 300
    chains: int = 2
    seed: int = 1
    target_accept: float = 0.8
    rounds: int = 10
    copies: int = 4


@dataclass(frozen=True)
class Compiled:
    """A compiled model, what it was compiled for, and the shapes of its free variables in order."""

    model: Any
    code: Any
    inputs: ModelInputs
    beliefs: Beliefs
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class RawDraws:
    """Draws of the model's variables, (chain, draw, ...), and the sampler's own record.

    Attributes
    ----------
    values
        Shared and own parameters as standard normals, `state` and `trunk_effect` -> array (chain, draw, ...).
    stats
        Sampler statistic (`diverging`, `n_steps`, `energy`, ...) -> (chain, draw); `moved` is the share of a draw's
        cells that moved in a round afterwards.
    reference (response, cell)
        Where cells with one batch are sliced (`bayes.coordinates`); None where there are none.
    """

    values: dict[str, Array]
    stats: dict[str, NDArray[Any]]
    reference: Array | None = None

    def first(self, n: int) -> RawDraws:
        """The first n draws of every chain."""
        values, stats = ({name: v[:, :n] for name, v in entries.items()} for entries in (self.values, self.stats))
        return replace(self, values=values, stats=stats)


def compile_model(inputs: ModelInputs, beliefs: Beliefs, *, seed: int = 1) -> Compiled:
    """Compile the model for these cells, with JAX: seconds."""
    os.environ.setdefault("JAX_ENABLE_X64", "true")
    import nutpie

    model = build_model(inputs, beliefs)
    shapes = {rv.name: tuple(int(n) for n in rv.shape.eval()) for rv in model.free_RVs}
    with warnings.catch_warnings():
        # PyTensor says that JAX drops a shape assertion.
        warnings.simplefilter("ignore")
        import jax

        jax.config.update("jax_enable_x64", True)
        translate()
        code = nutpie.compile_pymc_model(
            model,
            freeze_model=False,
            initial_points=initial_point(shapes, seed),
            jitter_rvs=set(),
            backend="jax",
            gradient_backend="jax",
        )
    return Compiled(model, code, inputs, beliefs, shapes)


def _with_data(code: Any, data: Mapping[str, NDArray[Any]]) -> Any:
    """`code` about other data, kept as what it was compiled for: JAX would copy NumPy's arrays at every gradient."""
    import jax.numpy as jnp

    return code.with_data(**{name: jnp.asarray(value) for name, value in data.items()})


def sample(
    compiled: Compiled,
    settings: SamplerSettings,
    *,
    inputs: ModelInputs | None = None,
    beliefs: Beliefs | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> RawDraws:
    """Run NUTS, then move every draw on.

    Parameters
    ----------
    compiled
        From `compile_model`.
    settings
        Draws, tuning, chains, seed.
    inputs, beliefs
        Other rows of the *same cells*, another form or another prior; both or neither. Cells with one batch are in
        both tables or in neither.
    progress
        Called now and then with ("sampling" or "moving", done, in all): iterations, or blocks of draws.

    Raises
    ------
    ValueError
        Of the two tables only one has a cell that ran one batch: another model.
    """
    import nutpie
    from threadpoolctl import threadpool_limits

    code, sliced = compiled.code, (inputs or compiled.inputs).some_one_batch
    if sliced != compiled.inputs.some_one_batch:
        raise ValueError("of these tables only one has a cell that ran one batch: compile the model for this one anew")
    reference = compiled.model["reference"].get_value()
    if inputs is not None and beliefs is not None:
        data = model_data(inputs, beliefs)
        code, reference = _with_data(code, data), data["reference"]
    else:
        inputs, beliefs = compiled.inputs, compiled.beliefs
    copies = settings.copies if settings.rounds and settings.draws >= _FOR_COPIES else 1
    n_draws = -(-settings.draws // copies)
    report = None
    if progress is not None:
        tell = progress

        def report(chains: list[Any]) -> None:
            tell("sampling", sum(c.finished_draws for c in chains), sum(c.total_draws for c in chains))

    # The matrices are small: BLAS threads of several chains only fight over the cores.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running = nutpie.sample(
            code,
            draws=n_draws,
            tune=settings.tune,
            chains=settings.chains,
            cores=min(settings.chains, os.cpu_count() or 1),
            seed=settings.seed,
            target_accept=max(settings.target_accept, _ONE_BATCH_ACCEPT if sliced else 0.0),
            progress_bar=False,
            progress_callback=report,
            progress_rate=500,
            save_warmup=False,
            blocking=False,
        )
        tree = all_draws(running)
    values = {name: tree["posterior"][name].to_numpy() for name in MOVED if name in tree["posterior"]}
    # A divergence is one draw's, not its copies'.
    stats = {name: np.repeat(tree["sample_stats"][name].to_numpy(), copies, axis=1) for name in tree["sample_stats"]}
    stats["diverging"] = stats["diverging"] & (np.arange(stats["diverging"].shape[1]) % copies == 0)
    raw = RawDraws(values, stats, reference if sliced else None)
    raw = moved_on(raw, settings, inputs=inputs, beliefs=beliefs, copies=copies, progress=progress)
    return raw if copies * n_draws == settings.draws else raw.first(settings.draws)


def all_draws(running: Any) -> Any:
    """The draws of nutpie's sampler that runs in the background, all of them or none."""
    try:
        return running.wait()
    except BaseException:
        # Interrupted while it blocks, nutpie would hand back the draws so far as if they were all of them.
        running.cancel()
        raise


def moved_on(
    raw: RawDraws,
    settings: SamplerSettings,
    *,
    inputs: ModelInputs,
    beliefs: Beliefs,
    copies: int = 1,
    again: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> RawDraws:
    """`raw` after `settings.rounds` of moves; `again` is how often it was moved on before."""
    values, share = move(
        raw.values, inputs, beliefs, reference=raw.reference, rounds=settings.rounds, copies=copies,
        seed=settings.seed + 1000 * again, progress=None if progress is None else partial(progress, "moving"),
    )  # fmt: skip
    return replace(raw, values=values, stats=raw.stats | {"moved": share})
