"""Attack by signals: runs ended at random moments, gone on with, and compared with undisturbed ones."""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forked import Forked, command, outcome
from undisturbed import run_and_digest, words

STATUSES = {signal.SIGKILL: (-9,), signal.SIGTERM: (75,), signal.SIGINT: (130,)}
SECONDS = 8.0
"""Longest delay; later signals meet a finished run."""


def attacks(number: int, seed: int, out: Path, expected: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield the description, the outcome and what was said, of each of `number` attacks."""
    for index in range(number):
        rng = random.Random(f"kill {seed} {index}")
        variant = rng.choice(sorted(expected))
        kill = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        waits = rng.choice(["time", "lines", "checkpoint"])
        twice = kill is signal.SIGINT and rng.random() < 0.5
        name = f"{index} {variant} {kill.name}{' and SIGTERM' if twice else ''} by {waits}"
        yield name, *_strike(rng, variant, kill, waits, twice, out / "struck", expected[variant])


def _strike(
    rng: random.Random,
    variant: str,
    kill: signal.Signals,
    waits: str,
    twice: bool,
    out: Path,
    expected: dict[str, Any],
) -> tuple[str, str]:
    shutil.rmtree(out, ignore_errors=True)
    run = Forked(command(words(variant, out)))
    _wait(run, out, waits, rng)
    run.send(kill)
    if twice:
        time.sleep(rng.uniform(0, 0.05))
        run.send(signal.SIGTERM)
    first = run.wait()
    accepted = (0, *STATUSES[kill], *(STATUSES[signal.SIGTERM] if twice else ()))
    if first.hung or "Traceback" in first.said or first.status not in accepted:
        found = outcome(first, right=False)
        return found if found != "clear" else "wrong", f"status {first.status}: {first.said}"
    second = Forked(run_and_digest(variant, out)).wait()
    found = outcome(second, right=second.value == expected)
    # A run that was ended by a signal has to go on by the same command.
    return "wrong" if found == "clear" else found, f"status {first.status}, then {second.status}: {second.said}"


def _wait(run: Forked, out: Path, waits: str, rng: random.Random) -> None:
    """Wait for the moment of the signal: a time, a line of metrics.jsonl, or a checkpoint that is being written."""
    end = time.monotonic() + rng.uniform(0, SECONDS)
    line = rng.randrange(6)
    while not run.ended():
        if waits == "time" and time.monotonic() > end:
            return
        if waits == "lines" and _lines(out) >= line:
            break
        if waits == "checkpoint" and _lines(out) >= line and any((out / "checkpoints").glob("*.part")):
            break
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02 if waits == "checkpoint" else 0.3))


def _lines(out: Path) -> int:
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0
