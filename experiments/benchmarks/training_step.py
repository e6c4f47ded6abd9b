"""Compare a training step of a ResNet in JAX inside `lax.scan` with PyTorch (channels_last) on the same device.

    python experiments/benchmarks/training_step.py

All train the same weights on the same batch: batch statistics, softmax cross-entropy, SGD with momentum and weight
decay. Seconds are for one step, the fastest and in brackets the median of `repeats` calls of `steps` steps, the
libraries in turn; the last line has the ratio of the fastest. XLA counts a loop's body once, so GFLOP is one step's.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import tyro

from mnemonics_jax import nets

RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
OURS, EAGER, COMPILED = "JAX, in lax.scan", "PyTorch, eager", "PyTorch, torch.compile"


@dataclass(frozen=True)
class Config:
    """Sizes of the problem."""

    net: Literal["resnet32", "resnet18"] = "resnet32"
    """Network."""
    side: int = 32
    """Height and width of the images."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's computation; parameters are float32."""
    batch: int = 128
    """Number of images of a step."""
    steps: int = 4
    """Number of steps of a timed call."""
    repeats: int = 7
    """Number of timed calls."""
    compiled: bool = False
    """Whether PyTorch's `torch.compile` is timed in place of PyTorch as it is."""


@dataclass
class Result:
    """What was measured, by library; `missing` tells why PyTorch was not, and is empty where it was."""

    temporary: float
    gflop: float
    seconds: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    missing: str = ""


def measure(config: Config) -> Result:
    """Return the seconds of a step, and the losses of the first steps, which show that all compute the same."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(config.batch, config.side, config.side, 3)).astype(np.float32)
    labels = rng.integers(0, peers.CLASSES, config.batch)
    net, variables = peers.resnet(config.net, config.precision)
    compiled, ours = jax_trainer(net, variables, images, labels, config.steps)
    cost = compiled.cost_analysis() or {}
    result = Result(compiled.memory_analysis().temp_size_in_bytes / 1e6, cost.get("flops", float("nan")) / 1e9)
    programs = {OURS: ours}
    result.losses[OURS] = ours()
    rival = COMPILED if config.compiled else EAGER
    result.missing = peers.torch_missing()
    if not result.missing:
        # A compiler that is not there, or memory that does not suffice, is a missing figure and no more.
        try:
            programs[rival] = torch_trainer(config, variables, images, labels)
            result.losses[rival] = programs[rival]()
        except Exception as error:
            programs.pop(rival, None)
            result.missing = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:100]}"
    times = peers.alternate(programs, config.repeats)
    result.seconds = {name: [s / config.steps for s in seconds] for name, seconds in times.items()}
    return result


def jax_trainer(
    net: nets.Classifier, variables: nets.Variables, images: np.ndarray, labels: np.ndarray, steps: int
) -> tuple[jax.stages.Compiled, Callable[[], np.ndarray]]:
    """Return the compiled program of `steps` steps, and a call of it that returns their losses."""
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

        return jax.lax.scan(step, carry, length=steps)

    carry = (variables, jax.jit(optimizer.init)(variables.params))
    arguments = (carry, jnp.asarray(images), jnp.asarray(labels))
    compiled = train.lower(*arguments).compile()
    return compiled, lambda: np.asarray(jax.block_until_ready(compiled(*arguments))[1])


def torch_trainer(
    config: Config, variables: nets.Variables, images: np.ndarray, labels: np.ndarray
) -> Callable[[], np.ndarray]:
    """Return a call that takes `config.steps` more steps in PyTorch and returns their losses."""
    import torch

    net = peers.torch_resnet(config.net, variables).train()
    forward = torch.compile(net) if config.compiled else net
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    device, narrow = peers.torch_device(), config.precision == "bfloat16"
    x, y = peers.torch_images(images), torch.from_numpy(labels).to(device)

    def steps() -> np.ndarray:
        losses = []
        for _ in range(config.steps):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=narrow):
                value = torch.nn.functional.cross_entropy(forward(x), y)
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        # Reading them waits for the device, once a call as in JAX.
        return torch.stack(losses).float().cpu().numpy()

    return steps


def main(config: Config) -> None:
    """Print the table."""
    result = measure(config)
    print(f"{config.net}, batch {config.batch}, {config.side}×{config.side}, {config.precision}; best (median)")
    print("                         s/step           temporary MB   GFLOP   losses of the steps")
    costs = {OURS: f"{result.temporary:12.0f}   {result.gflop:5.0f}"}
    for name, times in result.seconds.items():
        print(f"{name:22s}   {peers.best(times)}   {costs.get(name, ''):20s}  ", np.round(result.losses[name], 3))
    if result.missing:
        print(f"PyTorch                  – ({result.missing})")
    else:
        ours, theirs = (min(times) for times in result.seconds.values())
        print(f"JAX is {theirs / ours:.2f} times as fast as PyTorch")
    sys.stdout.flush()


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
