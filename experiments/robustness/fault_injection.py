"""Kill a run on the digits at random moments, start it again, and compare all that it writes with an undisturbed run.

    python experiments/robustness/fault_injection.py --kills 20 --terms 6

For each moment a run of its own is started, ended by the signal, and started again until it finishes. Compared are the
hashes of the last state (parameters, exemplars and all else), of summary.json and of metrics.jsonl, less
`seconds` and `compilations`, which belong to processes. A moment is a random delay after a random one of the lines of
metrics.jsonl, so that it does not depend on how busy the machine is. Half of the moments then wait until a checkpoint
is being written or exemplars are being learned, and the signal follows a few random milliseconds later. The script
prints a table, also as table.md in --out, and exits with 1 if a hash differs.
"""

import argparse
import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax

from mnemonics_jax.config.presets import make_config
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runs.checkpoint import CheckpointFolder
from mnemonics_jax.runs.preemption import STOPPED

SETTINGS = (
    *("--train.epochs", "10", "--train.later-epochs", "10"),
    *("--exemplars.outer-steps", "40", "--exemplars.adjust", "--exemplars.adjust-steps", "20"),
    *("--save.every-steps", "32", "--save.every-outer-steps", "10", "--save.min-seconds", "0"),
)
COLUMNS = ("moment", "signal", "what it met", "exit", "saved and left after", "went on", "hashes equal")


def start(out: Path) -> subprocess.Popen[str]:
    """Start the run in a process of its own."""
    command = [sys.executable, "-m", "mnemonics_jax", "run", "digits", *SETTINGS, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def hashes(out: Path) -> tuple[str, str, str]:
    """Return the hashes of the last state, the summary and the metrics of a finished run."""

    def plain(event: dict) -> dict:
        return {name: value for name, value in event.items() if name not in ("seconds", "compilations")}

    setup = make_setup(make_config("digits"))
    with CheckpointFolder(out / "checkpoints") as checkpoints:
        state = checkpoints.latest(setup, initial_state(setup), print).resume_point.state
    arrays = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        arrays.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    summary = plain(json.loads((out / "summary.json").read_text()))
    metrics = [plain(json.loads(line)) for line in (out / "metrics.jsonl").read_text().splitlines()]
    texts = (json.dumps(value, sort_keys=True).encode() for value in (summary, metrics))
    return (arrays.hexdigest()[:12], *(hashlib.sha256(text).hexdigest()[:12] for text in texts))


def writing(out: Path) -> bool:
    """Return whether a checkpoint is being written."""
    return any((out / "checkpoints").glob("*.part"))


def learning(out: Path) -> bool:
    """Return whether exemplars were being learned when the last checkpoint was taken."""
    names = sorted(path.name for path in (out / "checkpoints").glob("????-*"))
    return bool(names) and "-0-" not in names[-1]


def lines(out: Path) -> int:
    """Return the number of lines of metrics.jsonl."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def strike(out: Path, kill: signal.Signals, line: int, ready: Callable[[Path], bool], delay: float) -> dict[str, str]:
    """Start a run, kill it, start it again, and return the row of the table without its hashes.

    Args:
        out: folder of the run; what it has is deleted.
        kill: the signal.
        line: number of lines of metrics.jsonl to wait for.
        ready: tells, of the folder, whether what else is waited for has come.
        delay: seconds to wait after both.

    Raises:
        SystemExit: when the second start fails.
    """
    shutil.rmtree(out, ignore_errors=True)
    began, child = time.monotonic(), start(out)
    while child.poll() is None and not (lines(out) >= line and ready(out)):
        time.sleep(0.0005)
    ready_at = time.monotonic()
    while child.poll() is None and time.monotonic() < ready_at + delay:
        time.sleep(0.0005)
    what = "exemplar learning" if learning(out) else "training"
    what += ", a checkpoint being written" if writing(out) else ""
    child.send_signal(kill)
    sent = time.monotonic()
    child.communicate()
    left = time.monotonic() - sent
    again = start(out)
    _, said = again.communicate()
    if again.returncode:
        raise SystemExit(f"the second start in {out} failed:\n{said}")
    went_on = re.search(r"going on (.*?) of ", said.replace("\n", " "))
    finished = "is finished" in said
    return {
        "moment": f"{sent - began:.2f} s",
        "signal": kill.name,
        "what it met": what if child.returncode else "a finished run",
        "exit": str(child.returncode),
        "saved and left after": f"{left:.2f} s",
        "went on": "was finished" if finished else went_on[1] if went_on else "from the start",
    }


def main() -> None:
    """Run the comparison, print its table, and exit with 1 if a hash differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kills", type=int, default=20, help="number of moments at which SIGKILL is sent (default: 20)"
    )
    parser.add_argument("--terms", type=int, default=6, help="number of moments at which SIGTERM is sent (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/fault_injection"), help="folder of the runs and the table"
    )
    asked = parser.parse_args()
    shutil.rmtree(asked.out, ignore_errors=True)
    whole = asked.out / "whole"
    if start(whole).wait():
        raise SystemExit("the unharmed run failed")
    total, expected, rng = lines(whole), hashes(whole), random.Random(asked.seed)
    print(f"unharmed run: {total} lines, hashes {' '.join(expected)}")
    rows, failed = [COLUMNS, ("---",) * len(COLUMNS)], 0
    for number in range(asked.kills + asked.terms):
        kill = signal.SIGKILL if number < asked.kills else signal.SIGTERM
        ready, delay = (
            (lambda out: True, rng.uniform(0, 0.3)),
            (writing, rng.uniform(0, 0.04)),
            (lambda out: True, rng.uniform(0, 0.3)),
            (lambda out: learning(out) and not writing(out), rng.uniform(0, 0.2)),
        )[number % 4]
        out = asked.out / "struck"
        # Moments that wait for a checkpoint or for learning need lines after them in which it happens.
        row = strike(out, kill, rng.randrange(total - 3), ready, delay)
        same = hashes(out) == expected
        if kill == signal.SIGTERM and int(row["exit"]) not in (0, STOPPED, -signal.SIGTERM):
            same = False
        failed += not same
        rows.append((*row.values(), "yes" if same else "NO"))
        print(" | ".join(rows[-1]), flush=True)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
    (asked.out / "table.md").write_text(table)
    print(table)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
