"""Compare the meta-gradient of ResNet-32 by T inner steps on E exemplars in JAX with PyTorch's double backward.

    python experiments/benchmarks/meta_gradient.py

The problem is that of learning exemplars: T steps of SGD on all parameters with inference statistics, every step on all
E exemplars; then the gradient of the cross-entropy of 128 queries by the exemplars' pixels. JAX stores the parameters
of every step, or where these are many of some, and recomputes the inside of steps (`--remat auto`); PyTorch keeps the
graph of every step (`create_graph=True`).

Seconds are the fastest and in brackets the median of `repeats` runs, the two libraries in turn. "temporary" is the
temporary memory of the compiled JAX program, "peak" by how much the process's resident memory rises during a run (on a
GPU, PyTorch's memory on it). The
relative difference of the two gradients, ‖g − g'‖ / ‖g‖, shows that both compute the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers
import tyro

from mnemonics_jax import bilevel, nets
from mnemonics_jax.bilevel import Unroll

# Small enough for the inner loop to be stable from an untrained network: at 0.01 it diverges within a few steps.
RATE = 1e-4


@dataclass(frozen=True)
class Config:
    """Sizes of the problem."""

    exemplars: tuple[int, ...] = (50, 200)
    """Numbers E of learned exemplars."""
    steps: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Numbers T of inner steps."""
    queries: int = 128
    """Number of images of the outer loss."""
    repeats: int = 3
    """Number of timed runs."""
    remat: Literal["auto", "none", "step", "segments"] = "auto"
    """What JAX recomputes instead of storing it; PyTorch stores everything, like "none"."""
    peer_images: int = 1000
    """Largest E·T for which PyTorch is run: it takes about 7 GB at 1000, in proportion to E·T."""
    plot: Path | None = None
    """File for a plot of time and memory against T."""


@dataclass(frozen=True)
class Row:
    """One line of the table; what was not measured is NaN."""

    exemplars: int
    steps: int
    temporary: float
    gflop: float
    peak: float
    seconds: list[float]
    peer_peak: float
    peer_seconds: list[float]
    difference: float

    def __str__(self) -> str:
        ratio = min(self.peer_seconds) / min(self.seconds)
        ours, theirs = peers.best(self.seconds), peers.best(self.peer_seconds)
        return (
            f"{self.exemplars:3d} {self.steps:3d}   {ours:>17s} {theirs:>17s}"
            f" {ratio:6.2f}   {self.temporary:9.0f} {self.peak:7.0f} {self.peer_peak:7.0f}   {self.gflop:6.0f}"
            f"   {self.difference:8.1e}"
        )


def measure(config: Config, exemplars: int, steps: int) -> Row:
    """Return one line of the table: both libraries on the same numbers."""
    rng = np.random.default_rng(0)
    net, variables = peers.resnet32()
    images = rng.normal(size=(exemplars + config.queries, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, peers.CLASSES, len(images))
    pixels, queries, labels, targets = (half for both in (images, labels) for half in np.split(both, [exemplars]))

    def loss(params: dict, images: jax.Array, labels: np.ndarray) -> jax.Array:
        logits = nets.apply(net, variables._replace(params=params), images).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value_and_grad = bilevel.meta_value_and_grad(
        lambda fitted, _, queries: loss(fitted, queries, targets),
        lambda params, pixels, _: loss(params, pixels, labels),
        optax.sgd(RATE),
        length=steps,
        config=Unroll(remat=config.remat),
    )
    arguments = (jnp.asarray(pixels), variables.params, None, jnp.asarray(queries))
    compiled = jax.jit(value_and_grad).lower(*arguments).compile()
    programs: dict[str, Callable[[], Any]] = {"ours": lambda: jax.block_until_ready(compiled(*arguments))}
    gradients = [np.asarray(programs["ours"]()[1])]
    if peers.torch_available() and exemplars * steps <= config.peer_images:
        programs["theirs"] = lambda: torch_meta_gradient(variables, pixels, labels, queries, targets, steps)
        gradients.append(programs["theirs"]())
    seconds = peers.alternate(programs, config.repeats)
    watch = {"ours": peers.peak_megabytes, "theirs": peers.torch_peak_megabytes}
    peaks = {name: watch[name](program) for name, program in programs.items()}
    return Row(
        exemplars=exemplars,
        steps=steps,
        temporary=compiled.memory_analysis().temp_size_in_bytes / 1e6,
        gflop=compiled.cost_analysis().get("flops", float("nan")) / 1e9,
        peak=peaks["ours"],
        seconds=seconds["ours"],
        peer_peak=peaks.get("theirs", float("nan")),
        peer_seconds=seconds.get("theirs", [float("nan")]),
        difference=np.linalg.norm(gradients[-1] - gradients[0]) / np.linalg.norm(gradients[0])
        if len(gradients) == 2
        else float("nan"),
    )


def torch_meta_gradient(
    variables: nets.Variables,
    pixels: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    targets: np.ndarray,
    steps: int,
) -> np.ndarray:
    """Return dF/dpixels [n, height, width, channel] by PyTorch."""
    import torch
    from torch.func import functional_call

    net = peers.torch_resnet32(variables).eval()
    x = peers.torch_images(pixels).clone().requires_grad_()

    def loss(params: dict, images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        targets = torch.from_numpy(labels).to(images.device)
        return torch.nn.functional.cross_entropy(functional_call(net, params, (images,)), targets)

    params = dict(net.named_parameters())
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(params, x, labels), list(params.values()), create_graph=True)
        params = {name: p - RATE * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    (gradient,) = torch.autograd.grad(loss(params, peers.torch_images(queries), targets), x)
    return gradient.permute(0, 2, 3, 1).cpu().numpy()


def plot(rows: list[Row], file: Path) -> None:
    """Draw time and memory against T, one line for each library and number of exemplars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for index, exemplars in enumerate(sorted({row.exemplars for row in rows})):
        some = [row for row in rows if row.exemplars == exemplars]
        steps, color = [row.steps for row in some], f"C{index}"
        label = f"{exemplars} exemplars"
        time.plot(steps, [min(row.seconds) for row in some], "o-", color=color, label=f"JAX, {label}")
        time.plot(steps, [min(row.peer_seconds) for row in some], "s--", color=color, label=f"PyTorch, {label}")
        memory.plot(steps, [row.peak / 1e3 for row in some], "o-", color=color)
        memory.plot(steps, [row.peer_peak / 1e3 for row in some], "s--", color=color)
    for axes, name in ((time, "seconds"), (memory, "peak memory, GB")):
        axes.set(xlabel="inner steps T", ylabel=name, ylim=(0, None))
        axes.grid(alpha=0.3)
    time.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main(config: Config) -> None:
    """Print the table, and after each line draw it if asked to: a whole table takes long."""
    print("                seconds, best (median)                   JAX MB         PyTorch MB   GFLOP/")
    print("  E   T               JAX           PyTorch  ratio   temporary    peak    peak     step   difference")
    rows = []
    for exemplars in config.exemplars:
        for steps in config.steps:
            rows.append(measure(config, exemplars, steps))
            print(rows[-1], flush=True)
            if config.plot is not None:
                plot(rows, config.plot)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
