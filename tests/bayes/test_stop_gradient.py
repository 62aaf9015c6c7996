"""The best rate at a batch is solved for in the model; JAX differentiates the solution, not the steps to it."""

from __future__ import annotations

import numpy as np
import pytensor
import pytensor.tensor as pt

from scaleband.bayes.basin import best_at
from scaleband.bayes.inputs import SHAPE
from scaleband.bayes.stop_gradient import stop_gradient, translate
from scaleband.laws import ANGLE, CURVATURE, RESPONSES, SKEW, conditional_log_lr


def compiled(inputs: list, output):  # type: ignore[no-untyped-def]
    """The function as JAX has it, to be differentiated by JAX."""
    translate()
    return pytensor.function(inputs, output, mode="JAX", trust_input=True).vm.jit_fn


def test_a_stopped_gradient_in_jax() -> None:
    import jax

    x = pt.dvector("x")
    with jax.enable_x64(True):
        f = compiled([x], (x**2 * stop_gradient(pt.exp(x))).sum())
        at = jax.numpy.array([0.5, 2.0])
        np.testing.assert_allclose(jax.grad(lambda v: f(v)[0])(at), 2 * at * np.exp(at))


def test_the_best_rate_at_a_batch_has_the_slopes_of_the_implicit_function() -> None:
    import jax

    rng = np.random.default_rng(1)
    n_cells, log_batch = 6, rng.normal(0, 1.5, 6)
    state = np.zeros((len(RESPONSES), n_cells))
    state[1] = rng.normal(0, 0.5, n_cells)
    state[CURVATURE] = rng.normal(-0.5, 0.7, (2, n_cells))
    state[ANGLE] = rng.normal([[-0.3], [1.2]], 0.1, (2, n_cells))
    state[SKEW] = rng.normal(0.5, 0.5, (2, n_cells))

    def truth(s: np.ndarray) -> np.ndarray:
        return conditional_log_lr(log_batch - s[1], s[ANGLE], np.exp(s[CURVATURE]), s[SKEW])

    z = pt.dmatrix("z")
    with jax.enable_x64(True):
        f = compiled([z], best_at({name: z[r] for r, name in enumerate(RESPONSES)}, pt.constant(log_batch)))
        np.testing.assert_allclose(f(jax.numpy.asarray(state))[0], truth(state), atol=1e-9)
        slopes = np.asarray(jax.jacrev(lambda v: f(v)[0])(jax.numpy.asarray(state)))
    for r in (1, *SHAPE):
        step = np.zeros_like(state)
        step[r] = 1e-5
        numeric = (truth(state + step) - truth(state - step)) / 2e-5
        np.testing.assert_allclose(slopes[:, r].diagonal(), numeric, rtol=1e-4, atol=1e-6)
