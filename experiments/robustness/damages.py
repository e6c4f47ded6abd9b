"""Attack on the files of a run folder: each damaged in each way, then the same command, report or export."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forked import Ended, Forked, command, outcome
from undisturbed import run_and_digest


def empty(path: Path, rng: random.Random) -> None:
    """Leave nothing in the file."""
    path.write_bytes(b"")


def cut(path: Path, rng: random.Random) -> None:
    """Cut the file at a random place."""
    os.truncate(path, rng.randrange(max(path.stat().st_size, 1)))


def flip(path: Path, rng: random.Random) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def remove(path: Path, rng: random.Random) -> None:
    """Remove the file."""
    path.unlink()


def folder(path: Path, rng: random.Random) -> None:
    """Put a folder in the file's place."""
    path.unlink()
    path.mkdir()


def pipe(path: Path, rng: random.Random) -> None:
    """Put a pipe in the file's place."""
    path.unlink()
    os.mkfifo(path)


def link(path: Path, rng: random.Random) -> None:
    """Put a link to nowhere in the file's place."""
    path.unlink()
    path.symlink_to("nowhere")


def foreign(path: Path, rng: random.Random) -> None:
    """Put the content of another program in the file's place."""
    path.write_text(
        rng.choice(["{}", "[1, 2]", '{"format": 1, "name": "x"}', "years of work\n", "null", "\x00\xff" * 50])
    )


def append(path: Path, rng: random.Random) -> None:
    """Append something."""
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 20)))


WAYS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(empty, cut, flip, remove, folder, pipe, link, foreign, append),
)


def attacks(number: int, seed: int, out: Path, expected: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield the description, the outcome and what was said, of each of `number` attacks."""
    for index in range(number):
        rng = random.Random(f"damage {seed} {index}")
        variant = rng.choice(sorted(expected))
        state = rng.choice(["finished", "half done"])
        then = rng.choice(["run", "run", "report", "export"])
        target = shutil.copytree(out / (variant if state == "finished" else f"{variant}-half"), out / "damaged")
        files = sorted(path for path in target.rglob("*") if path.is_file())
        # The small files at the top are as likely as all those in the checkpoints together.
        top = [path for path in files if path.parent == target]
        path, way = rng.choice(top if rng.random() < 0.5 else files), WAYS[index % len(WAYS)]
        name = f"{index} {variant} {state} {path.relative_to(target)} {way.__name__}, {then}"
        way(path, rng)
        try:
            ended, right = _try(then, variant, target, expected[variant])
        finally:
            shutil.rmtree(out / "damaged", ignore_errors=True)
        found = outcome(ended, right=right)
        yield name, found, f"status {ended.status}: {ended.said}"


def _try(then: str, variant: str, target: Path, expected: dict[str, Any]) -> tuple[Ended, bool | None]:
    """Run a command on a damaged folder; return how it ended, and whether what it left is right."""
    if then == "run":
        ended = Forked(run_and_digest(variant, target)).wait()
        return ended, ended.value == expected
    ended = Forked(command([then, str(target)])).wait()
    if ended.status or then == "export":
        return ended, None if ended.status else (target / "export" / "model").is_dir()
    (row,) = json.loads((target / "comparison.json").read_text())
    return ended, abs(row["average_accuracy_mean"] - expected["summary"]["average_accuracy"]) < 1e-9
