"""A bilevel problem with a known answer: learn the targets of a ridge regression so that its solution fits other data.

Inner problem, training inputs X [n, d] and learned targets y [n], curvature H = XᵀX/n + λI:

    L(w; y) = |Xw − y|²/2n + λ|w|²/2,    solved by  w*(y) = H⁻¹Xᵀy/n.

Outer problem, query data Q [m, d], q [m]: minimise F(w*(y)) = |Qw*(y) − q|²/2m over y. With n ≥ d every w is the
solution for some y, so the best w*(y) is the ordinary least-squares fit of the query data. `bilevel` replaces w* by T
steps of gradient descent from w = 0 at rate α, w_T = (I − (I − αH)^T) w*: both the meta-gradient and the learned answer
must approach the exact ones like (1 − αμ)^T, where μ is the least curvature.

    python experiments/examples/bilevel_ridge.py
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float

from mnemonics_jax import bilevel


@dataclass(frozen=True)
class Config:
    """Sizes of the problem and of the two loops."""

    steps: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    """Numbers T of inner steps to compare."""
    inputs: int = 20
    """Number n of training points, whose targets are learned; at least `features`."""
    queries: int = 50
    """Number m of query points."""
    features: int = 5
    """Dimension d of w."""
    ridge: float = 0.1
    """Strength λ of the ridge penalty."""
    outer_steps: int = 500
    """Number of outer steps: gradient steps on the targets."""
    seed: int = 0
    """Seed of the data."""


@dataclass(frozen=True)
class Row:
    """Result of T inner steps; the errors are relative Euclidean norms."""

    steps: int
    bound: float
    """(1 − αμ)^T."""
    gradient_error: float
    """Error of the meta-gradient at y = 0 against the derivative of the exact ridge solution."""
    answer_error: float
    """Error of the exact ridge solution for the learned targets against the least-squares fit of the query data."""


def relative_error(value: Float[np.ndarray, " n"], exact: Float[np.ndarray, " n"]) -> float:
    """Return |value − exact| / |exact|."""
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))


def compare(config: Config) -> list[Row]:
    """Return one row for each number of inner steps.

    The unrolled side is in float64 where the caller has enabled it.
    """
    rng = np.random.default_rng(config.seed)
    x = rng.normal(size=(config.inputs, config.features))
    queries = rng.normal(size=(config.queries, config.features))
    answers = queries @ rng.normal(size=config.features) + 0.3 * rng.normal(size=config.queries)

    # The exact side is linear algebra: w*(y) = solve @ y, so the gradient of F(w*(y)) at y = 0 is one product.
    curvature = x.T @ x / config.inputs + config.ridge * np.eye(config.features)
    solve = np.linalg.solve(curvature, x.T / config.inputs)
    exact_gradient = -solve.T @ queries.T @ answers / config.queries
    exact_answer = np.linalg.lstsq(queries, answers)[0]
    least, *_, largest = np.linalg.eigvalsh(curvature)
    rate = 1 / largest

    def inner_loss(w: Array, y: Array, batch: None) -> Array:
        return 0.5 * jnp.mean((x @ w - y) ** 2) + 0.5 * config.ridge * jnp.sum(w**2)

    def outer_loss(w: Array, y: Array, batch: None) -> Array:
        return 0.5 * jnp.mean((queries @ w - answers) ** 2)

    @functools.partial(jax.jit, static_argnums=0)
    def learn(steps: int) -> tuple[Array, Array]:
        """Return the first meta-gradient, and the learned targets."""
        value_and_grad = bilevel.meta_value_and_grad(outer_loss, inner_loss, optax.sgd(rate), length=steps)
        optimizer = optax.sgd(config.inputs / 4, momentum=0.9)

        def outer_step(carry: tuple, _: None) -> tuple:
            y, state = carry
            _, gradient = value_and_grad(y, jnp.zeros(config.features), None, None)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(y, updates), state), gradient

        y = jnp.zeros(config.inputs)
        (y, _), gradients = jax.lax.scan(outer_step, (y, optimizer.init(y)), length=config.outer_steps)
        return gradients[0], y

    rows = []
    for steps in config.steps:
        gradient, targets = jax.device_get(learn(steps))
        rows.append(
            Row(
                steps=steps,
                bound=float((1 - rate * least) ** steps),
                gradient_error=relative_error(gradient, exact_gradient),
                answer_error=relative_error(solve @ targets, exact_answer),
            )
        )
    return rows


def main(config: Config) -> None:
    """Print the comparison as a table."""
    with jax.enable_x64(True):
        rows = compare(config)
    print("inner steps   (1 - rate*mu)^T   meta-gradient error   learned answer error")
    for row in rows:
        print(f"{row.steps:11d}   {row.bound:15.1e}   {row.gradient_error:19.1e}   {row.answer_error:20.1e}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
