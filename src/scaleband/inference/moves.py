"""Moves after NUTS: every draw goes on by rounds of Gibbs sampling (`gibbs`), all draws at once.

NUTS is slow where one cell has two modes (its far wall fits the runs in two ways) and for scales that few cells teach,
and the worst of a few hundred numbers decides how long it must run. Rounds of `gibbs` leave the posterior as it is, so
draws of it stay draws of it; what they forget is their neighbours. A draw of NUTS is kept several times, some rounds
apart: that is cheaper than as many draws of NUTS. What proposals are fitted to are the draws of the *other* chains, so
that no draw has a say in where it is offered to go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from scaleband.bayes import Beliefs, ModelInputs
from scaleband.inference.gibbs import MOVED, Block, Target, Values
from scaleband.inference.proposal import Proposal

Array = NDArray[np.float64]

_BLOCK = 128
"""Draws that are moved together, at most: enough for NumPy, few enough for the cache."""
_BLOCKS = 4
"""Their number is a multiple of this, and they are equally long, so that cores end together; it does not depend on the
machine, since every block has its own seed."""

_FEWEST = 10
"""Draws of the other chains to fit proposals to; with fewer nothing is moved."""


def move(
    values: Values,
    inputs: ModelInputs,
    beliefs: Beliefs,
    *,
    reference: Array | None,
    rounds: int,
    seed: int,
    copies: int = 1,
    proposals: Sequence[Proposal] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Values, Array]:
    """Draws after rounds of moves.

    Parameters
    ----------
    values
        Entries of `MOVED`, (chain, draw, ...).
    inputs, beliefs
        What they are draws of.
    reference (response, cell)
        Where cells with one batch are sliced (`bayes.coordinates`); None if there are none.
    rounds, copies
        A draw is kept after so many rounds, and so often: draw k becomes the draws k copies to (k + 1) copies - 1.
    seed
        Of the moves.
    proposals
        Of every chain's states; by default fitted to the draws.
    progress
        Called with (blocks done, blocks in all).

    Returns
    -------
    The same names, and the share of a draw's cells that moved in its last round (chain, draw): zero where nothing was
    moved because there are fewer than ten draws to fit proposals to, or draws that are not finite.
    """
    kept = {name: np.asarray(values[name]) for name in MOVED if name in values}
    n_chains, n_draws = kept["state"].shape[:2]
    rest = max(n_chains - 1, 1) * n_draws
    if not rounds or rest < _FEWEST or not all(np.isfinite(v).all() for v in kept.values()):
        return {name: np.repeat(v, copies, axis=1) for name, v in kept.items()}, np.zeros((n_chains, n_draws * copies))
    flat = {name: v.reshape(-1, *v.shape[2:]) for name, v in kept.items()}
    target = Target.of(inputs, beliefs, reference)
    chain = np.repeat(np.arange(n_chains), n_draws)
    n_blocks = min(-(-len(chain) // (_BLOCK * _BLOCKS)) * _BLOCKS, len(chain))
    blocks = np.array_split(np.arange(len(chain)), n_blocks)

    offered = list(proposals or [])

    def of(k: int) -> Values:
        return {name: v[blocks[k]].copy() for name, v in flat.items()}

    def law(k: int) -> Array:
        at = of(k)
        return target.law(at, target.scatter(at), np.random.default_rng([seed, 10, k]))[0]

    def fitted(mine: NDArray[np.bool_]) -> Proposal:
        return Proposal.of(flat["state"][mine], laws[mine], target.scatter({name: v[mine] for name, v in flat.items()}))

    def moved(k: int) -> list[tuple[Values, Array]]:
        block = Block(of(k), target, offered, chain[blocks[k]], steps, np.random.default_rng([seed, 11, k]))
        out = []
        for _ in range(copies):
            for _ in range(rounds):
                block.round()
            out.append(({name: v.copy() for name, v in block.at.items()}, block.moved))
        return out

    done: dict[int, list[tuple[Values, Array]]] = {}
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        if not offered:
            laws = np.concatenate(list(pool.map(law, range(len(blocks)))))
            offered = list(pool.map(fitted, [(chain != k) | (n_chains == 1) for k in range(n_chains)]))
        noise = target.noise(flat)
        covariance = np.cov(noise.T) + 1e-9 * np.eye(noise.shape[1])
        steps = 2.2 / np.sqrt(noise.shape[1]) * np.linalg.cholesky(covariance)
        futures = {pool.submit(moved, k): k for k in range(len(blocks))}
        try:
            for count, future in enumerate(as_completed(futures)):
                done[futures[future]] = future.result()
                if progress is not None:
                    progress(count + 1, len(blocks))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

    def whole(parts: list[list[Array]]) -> Array:
        """(chain, draw, ...) of what every block kept, [copy][block]: a draw's copies stand side by side."""
        each = np.stack([np.concatenate(of_one) for of_one in parts], axis=1)
        return each.reshape(n_chains, n_draws * copies, *each.shape[2:])

    order = range(len(blocks))
    back = {name: whole([[done[k][c][0][name] for k in order] for c in range(copies)]) for name in flat}
    return back, whole([[done[k][c][1] for k in order] for c in range(copies)])
