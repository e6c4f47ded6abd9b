"""Compare a training step of ResNet-32 in JAX inside `lax.scan` with PyTorch eager (channels_last), on the same cores.

    python experiments/benchmarks/training_step.py

Both train the same weights on the same batch: batch statistics, softmax cross-entropy, SGD with momentum and weight
decay. Seconds are for one step, the fastest and in brackets the median of `repeats` calls of `steps` steps, the two
libraries in turn; the last column is the ratio of the fastest. XLA counts a loop's body once, so GFLOP is one step's.
"""

import sys
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import tyro

from mnemonics_jax import nets


@dataclass(frozen=True)
class Config:
    """Sizes of the problem."""

    batch: int = 128
    """Number of images of a step."""
    steps: int = 4
    """Number of steps of a timed call."""
    repeats: int = 7
    """Number of timed calls."""


RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4


def main(config: Config) -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(config.batch, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, peers.CLASSES, config.batch)
    net, variables = peers.resnet32()
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))

    def loss(params: dict, stats: dict, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict]:
        outputs, stats = nets.apply_train(net, nets.Variables(params, stats), images)
        return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels).mean(), stats

    @jax.jit
    def train(carry: tuple, images: jax.Array, labels: jax.Array) -> tuple[tuple, jax.Array]:
        def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
            (params, stats), state = carry
            (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, images, labels)
            updates, state = optimizer.update(grads, state, params)
            return (nets.Variables(optax.apply_updates(params, updates), stats), state), value

        return jax.lax.scan(step, carry, length=config.steps)

    carry = (variables, jax.jit(optimizer.init)(variables.params))
    arguments = (carry, jnp.asarray(images), jnp.asarray(labels))
    compiled = train.lower(*arguments).compile()
    losses = {"JAX, in lax.scan": np.asarray(compiled(*arguments)[1])}
    programs = {"JAX, in lax.scan": lambda: jax.block_until_ready(compiled(*arguments))}
    if peers.torch_available():
        losses["PyTorch, eager"] = torch_steps(variables, images, labels, config.steps)
        programs["PyTorch, eager"] = partial(torch_steps, variables, images, labels, config.steps)
    seconds = {k: [s / config.steps for s in v] for k, v in peers.alternate(programs, config.repeats).items()}

    print(f"ResNet-32, batch {config.batch}; seconds are best (median)")
    print("                     s/step           temporary MB   GFLOP   losses of the steps")
    gflop = compiled.cost_analysis().get("flops", float("nan")) / 1e9
    costs = {"JAX, in lax.scan": f"{compiled.memory_analysis().temp_size_in_bytes / 1e6:12.0f}   {gflop:5.0f}"}
    for name, times in seconds.items():
        print(f"{name:18s}   {peers.best(times)}   {costs.get(name, ''):20s}  ", np.round(losses[name], 3))
    if len(seconds) == 2:
        ours, theirs = (min(times) for times in seconds.values())
        print(f"JAX is {theirs / ours:.2f} times as fast as PyTorch")
    sys.stdout.flush()


def torch_steps(variables: nets.Variables, images: np.ndarray, labels: np.ndarray, steps: int) -> list[float]:
    """Return the losses of `steps` steps in PyTorch."""
    import torch

    net = peers.torch_resnet32(variables).train()
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    x, y = peers.torch_images(images), torch.from_numpy(labels)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(net(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
