"""Measure the cost of checkpoints on the digits preset: wall time of whole runs, alternating, in one process.

    python experiments/benchmarks/checkpointing.py --rounds 5

Five ways of saving take turns, so that other load on the machine slows all of them: no checkpoints; the default (for
a run this short, after each phase); also inside phases, when five or one seconds have passed; and after every chunk.
Prints medians of wall and processor time, what each way adds to no checkpoints (paired by round; processor time hardly
depends on other load), and the share of the wall time that the main thread spends in `save`.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from mnemonics_jax.config.presets import make_config
from mnemonics_jax.runs.checkpoint import Checkpoint, CheckpointFolder
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.compile_cache import use_persistent_cache
from mnemonics_jax.runtime.progress import Display

NEVER = 10**9
WAYS = {
    "no checkpoints": SaveConfig(NEVER, NEVER),
    "default": SaveConfig(),
    "every 5 s": SaveConfig(1, 1, 5.0),
    "every second": SaveConfig(1, 1, 1.0),
    "every chunk": SaveConfig(1, 1, 0.0),
}


class Quiet(Display):
    """Display that prints no messages."""

    def say(self, message: str) -> None:
        """Do nothing."""


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each way of saving (default: 5)")
    rounds = parser.parse_args().rounds
    use_persistent_cache()
    save, spent, saved = CheckpointFolder.save, 0.0, 0

    def timed(self: CheckpointFolder, point: Checkpoint) -> None:
        nonlocal spent, saved
        began = time.perf_counter()
        save(self, point)
        spent, saved = spent + time.perf_counter() - began, saved + 1

    config, folder = make_config("digits"), Path(tempfile.mkdtemp())
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    blocked: dict[str, list[float]] = {name: [] for name in WAYS}
    counts = {}
    try:
        # Round 0 compiles.
        for number in range(rounds + 1):
            for name, way in WAYS.items():
                spent, saved = 0.0, 0
                CheckpointFolder.save = (lambda self, point: None) if name == "no checkpoints" else timed
                began, worked = time.perf_counter(), time.process_time()
                run_in_folder(config, folder / f"{number} {name}", Quiet(), way)
                if number:
                    seconds[name].append(time.perf_counter() - began)
                    cpu[name].append(time.process_time() - worked)
                    blocked[name].append(spent)
                    counts[name] = saved
    finally:
        shutil.rmtree(folder)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {rounds} rounds")
    print("| | checkpoints | seconds | added | processor seconds | added | in the main thread |")
    print("|---|---|---|---|---|---|---|")
    for name in WAYS:
        share = statistics.median(a / b for a, b in zip(blocked[name], seconds[name], strict=True))
        wall, work = (_cells(times[name], times["no checkpoints"]) for times in (seconds, cpu))
        print(f"| {name} | {counts[name]} | {wall} | {work} | {share:.1%} |")


def _cells(times: list[float], without: list[float]) -> str:
    added = statistics.median(a / b - 1 for a, b in zip(times, without, strict=True))
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) | {added:+.1%}"


if __name__ == "__main__":
    main()
