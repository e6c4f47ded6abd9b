"""Compare herding of every class in one jitted call with the usual NumPy loop: picks and seconds.

    python experiments/benchmarks/herding.py

The loop is that of most class-incremental code: for each class and each pick, the distance of every candidate mean to
the class mean, and the nearest candidate not yet taken. Seconds are the fastest and in brackets the median of
`repeats` runs, the two in turn.
"""

from dataclasses import dataclass

import jax
import numpy as np
import peers
import tyro
from jaxtyping import Float, Int

from mnemonics_jax.exemplars.herd import herd


@dataclass(frozen=True)
class Config:
    """Sizes of the problem."""

    classes: int = 100
    """Number of classes."""
    images: int = 500
    """Images of each class."""
    features: int = 64
    """Width of the features."""
    amount: int = 20
    """Exemplars to pick for each class."""
    repeats: int = 9
    """Number of timed runs."""


def numpy_herding(features: Float[np.ndarray, "classes images width"], amount: int) -> Int[np.ndarray, "classes picks"]:
    """Return the greedy picks, class after class, in plain NumPy."""
    picks = np.zeros((len(features), amount), int)
    for label, rows in enumerate(features):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        mean = unit.mean(axis=0)
        total = np.zeros_like(mean)
        taken = np.zeros(len(rows), bool)
        for k in range(amount):
            distance = np.linalg.norm(mean - (total + unit) / (k + 1), axis=1)
            distance[taken] = np.inf
            best = int(distance.argmin())
            picks[label, k], taken[best] = best, True
            total += unit[best]
    return picks


def measure(config: Config) -> tuple[float, dict[str, list[float]]]:
    """Return the share of picks that are the same, and the seconds of each run of both."""
    shape = (config.classes, config.images, config.features)
    features = np.abs(np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    on_device, valid = jax.device_put(features), jax.device_put(np.ones(shape[:2], bool))
    programs = {
        "jitted call": lambda: np.asarray(herd(on_device, valid, config.amount)),
        "NumPy loop": lambda: numpy_herding(features, config.amount),
    }
    same = (programs["jitted call"]() == programs["NumPy loop"]()).mean()
    return float(same), peers.alternate(programs, config.repeats)


def main(config: Config) -> None:
    """Print the table."""
    same, seconds = measure(config)
    print(f"herding, {config.classes} classes × {config.images} images × {config.features} features")
    print(f"{config.amount} picks of each class, {100 * same:.2f} % the same")
    for name, times in seconds.items():
        print(f"{name:12s}   {peers.best(times)} s")
    ours, theirs = (min(times) for times in seconds.values())
    print(f"the jitted call is {theirs / ours:.1f} times as fast")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
