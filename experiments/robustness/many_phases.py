"""Measure peak resident memory and compilations of one process over 200 phases; draw many_phases.png in --out.

    python experiments/robustness/many_phases.py

A synthetic data set of 8×8 images has two classes in the base phase and one in each later one. Every phase trains,
herds, learns and adjusts exemplars, evaluates and saves. If neither curve rises, a phase frees all that later phases do
not need.
"""

import argparse
import dataclasses
import json
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from mnemonics_jax.config.config import Config
from mnemonics_jax.config.presets import make_config
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.compile_cache import num_compilations
from mnemonics_jax.runtime.progress import Display


class Measuring(Display):
    """Display that records memory and compilations after each phase."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, float, int]] = []

    def warn(self, message: str) -> None:
        """Do nothing: exemplars of noise need not get better."""

    def phase_done(self, event: dict[str, Any]) -> None:
        """Record the measurements."""
        # In kilobytes, on macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        self.rows.append((event["phase"], peak, num_compilations()))
        if event["phase"] % 20 == 0:
            print("phase {}: {:.1f} MiB at most, {} compilations".format(*self.rows[-1]), flush=True)


def make_data(path: Path, classes: int) -> None:
    """Write a data set: six training and two test images of noise around each class's own pattern."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(60, 196, (classes, 1, 8, 8, 1))
    arrays = {}
    for split, count in (("train", 6), ("test", 2)):
        noise = rng.integers(-40, 40, (classes, count, 8, 8, 1))
        arrays[f"{split}_images"] = (patterns + noise).astype(np.uint8).reshape(-1, 8, 8, 1)
        arrays[f"{split}_labels"] = np.repeat(np.arange(classes), count)
    np.savez(path, **arrays)


def make(path: Path, phases: int) -> Config:
    """Return the run's configuration."""
    config = make_config("npz", "bic", "mnemonics")
    changes: dict[str, dict[str, Any]] = {
        "data": {"path": str(path), "crop_padding": 1},
        "stream": {"base": 2, "phases": phases},
        "net": {"widths": (8,)},
        "train": {"epochs": 2, "batch_size": 16, "chunk_steps": 8},
        "exemplars": {"per_class": 2, "unroll_length": 2, "outer_steps": 2, "outer_chunk": 2, "outer_batch": 16},
    }
    changes["exemplars"] |= {"adjust": True, "adjust_steps": 2}
    parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
    return dataclasses.replace(config, **parts)


def main() -> None:
    """Run all phases, draw the figure, and print the measurements as one line of JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phases", type=int, default=200, help="incremental phases (default: 200)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the figure")
    asked = parser.parse_args()
    folder, display = Path(tempfile.mkdtemp()), Measuring()
    try:
        make_data(folder / "data.npz", asked.phases + 2)
        run_in_folder(make(folder / "data.npz", asked.phases), folder / "run", display, SaveConfig(8, 2, 0.0))
    finally:
        shutil.rmtree(folder)
    phases, memory, compiled = zip(*display.rows, strict=True)
    figure, left = plt.subplots(figsize=(7, 4), layout="constrained")
    left.plot(phases, memory, color="tab:blue")
    left.set(xlabel="phase", ylabel="peak resident memory [MiB]", ylim=(0, None))
    right = left.twinx()
    right.plot(phases, compiled, color="tab:orange", linestyle="--")
    right.set(ylabel="compilations (dashed)", ylim=(0, None))
    asked.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(asked.out / "many_phases.png", dpi=120)
    print(json.dumps({"memory_mib": memory, "compilations": compiled}))


if __name__ == "__main__":
    main()
