"""Measure what a meta-gradient through T inner steps costs in each mode of `bilevel.Unroll`: memory, arithmetic, time.

    python experiments/benchmarks/unroll_memory.py

The meta-variables are the inputs of a batch on which a small MLP is trained by SGD with momentum. Memory is the
temporary memory of the compiled program. XLA counts the body of a loop once, however often it runs, so the GFLOP
column has one inner step with its backward pass, plus the outer loss: compare it between modes, not between T. The
steps that are left over by "segments" where T does not divide, and those before the last 5, are loops of their own and
are counted once more. Seconds are the fastest of `repeats` runs.
"""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
import tyro
from jaxtyping import Array

from mnemonics_jax import bilevel

MODES = {
    "none": bilevel.Unroll(remat="none"),
    "step": bilevel.Unroll(remat="step"),
    "segments": bilevel.Unroll(remat="segments"),
    "step, first order": bilevel.Unroll(remat="step", first_order=True),
    "step, last 5 only": bilevel.Unroll(remat="step", truncate=5),
}


@dataclass(frozen=True)
class Config:
    """Sizes of the problem."""

    steps: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Numbers T of inner steps."""
    batch: int = 512
    """Number of learned inputs; every inner step uses all of them."""
    width: int = 128
    """Number of units of each layer."""
    depth: int = 4
    """Number of layers."""
    repeats: int = 3
    """Number of timed runs, of which the fastest counts."""


def loss(params: list[Array], inputs: Array, targets: Array) -> Array:
    """Return the mean squared error of a tanh MLP."""
    for weight in params:
        inputs = jnp.tanh(inputs @ weight)
    return jnp.mean((inputs - targets) ** 2)


def main(config: Config) -> None:
    """Print one line for each mode and number of steps."""
    keys = jax.random.split(jax.random.key(0), config.depth + 3)
    shape = (config.batch, config.width)
    inputs, targets, queries = (jax.random.normal(key, shape) for key in keys[:3])
    params = [jax.random.normal(key, (config.width, config.width)) / config.width**0.5 for key in keys[3:]]

    print("mode                  T   temporary MB   GFLOP/step   seconds")
    for name, unroll in MODES.items():
        for steps in config.steps:
            if steps < (unroll.truncate or 1):
                continue
            value_and_grad = bilevel.meta_value_and_grad(
                lambda fitted, inputs, queries: loss(fitted, queries, targets),
                lambda params, inputs, _: loss(params, inputs, targets),
                optax.sgd(0.1, momentum=0.9),
                length=steps,
                config=unroll,
            )
            compiled = jax.jit(value_and_grad).lower(inputs, params, None, queries).compile()
            megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
            flops = (compiled.cost_analysis() or {}).get("flops", float("nan")) / 1e9
            seconds = []
            for _ in range(config.repeats):
                begin = time.perf_counter()
                jax.block_until_ready(compiled(inputs, params, None, queries))
                seconds.append(time.perf_counter() - begin)
            print(f"{name:18s}  {steps:3d}   {megabytes:12.1f}   {flops:10.2f}   {min(seconds):7.3f}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
