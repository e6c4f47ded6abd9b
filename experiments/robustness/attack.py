"""Attack runs from outside, and count how they take it.

    python experiments/robustness/attack.py --size night --out runs/attack
    python experiments/robustness/attack.py --kills 20 --damages 0 --inputs 0

Three attacks from seeds: signals at random moments (`kills`), damaged files of a run folder (`damages`), and bad flags,
data and JSON files (`inputs`). Each ends in one of five outcomes:

- right: the result is that of an undisturbed run, bit for bit, or a strange input was acceptable;
- clear: a message says what is wrong, with a status of its own;
- traceback: a Python traceback, or the process was ended by a signal of its own making;
- hang: no end within two minutes;
- wrong: another result without a word.

The script prints a table of counts and each attack of the last three kinds, writes all of them to attacks.jsonl in
--out, and exits with 1 when there was one of the last three. `--size ci` takes about a minute.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forked import Forked

SIZES = {"ci": (2, 6, 14), "night": (200, 200, 500)}
OUTCOMES = ("right", "clear", "traceback", "hang", "wrong")


def main() -> None:
    """Attack as the command line asks, and exit with 1 when something fell."""
    # Before JAX is imported: programs of every attack are compiled once.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    import damages
    import inputs
    import kills
    from forked import Forked, command, preload
    from undisturbed import VARIANTS, undisturbed, words

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="ci", help="numbers of attacks (default: ci)")
    for name in ("kills", "damages", "inputs"):
        parser.add_argument(f"--{name}", type=int, help=f"number of {name}, in place of that of --size")
    parser.add_argument("--seed", type=int, default=0, help="seed of all attacks (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/attack"), help="folder; that of an earlier attack is emptied"
    )
    asked = parser.parse_args()
    numbers = dict(zip(("kills", "damages", "inputs"), SIZES[asked.size], strict=True))
    numbers |= {name: given for name in numbers if (given := getattr(asked, name)) is not None}

    out = asked.out.absolute()
    if out.exists() and not (out / "attacks.jsonl").exists():
        parser.error(f"--out {out} is not a folder of this script: choose another one")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    preload()
    expected = undisturbed(out, [*VARIANTS][:1] if asked.size == "ci" else VARIANTS)
    for variant in expected if numbers["damages"] + numbers["inputs"] else ():
        _leave_half(Forked(command(words(variant, out / f"{variant}-half"))), out / f"{variant}-half")
    counts = {name: Counter() for name in numbers}
    with (out / "attacks.jsonl").open("w", encoding="utf-8") as log:
        running = {
            module.__name__: module.attacks(numbers[module.__name__], asked.seed, out, expected)
            for module in (kills, damages, inputs)
        }
        for name in _in_turn(numbers):
            said, found, output = next(running[name])
            counts[name][found] += 1
            log.write(json.dumps({"attack": name, "what": said, "outcome": found, "output": output[-4000:]}) + "\n")
            log.flush()
            if found in OUTCOMES[2:]:
                print(f"{name} {said!a}: {found}\n{output[-1500:]!a}", flush=True)
    print(_table(counts))
    sys.exit(any(count[found] for count in counts.values() for found in OUTCOMES[2:]))


def _in_turn(numbers: dict[str, int]) -> list[str]:
    """Return each name as often as its number says, evenly spread: an attack that is stopped early has tried all."""
    return [
        name for _, name in sorted((turn / number, name) for name, number in numbers.items() for turn in range(number))
    ]


def _leave_half(run: "Forked", out: Path) -> None:
    """Kill a run once it has a checkpoint of phase 1."""
    while not run.ended() and not any((out / "checkpoints").glob("0001-*-0000000?")):
        time.sleep(0.002)
    run.send(signal.SIGKILL)
    run.wait()


def _table(counts: dict[str, Counter]) -> str:
    rows = [("attack", "number", *OUTCOMES), ("---",) * (len(OUTCOMES) + 2)]
    rows += [
        (name, str(sum(count.values())), *(str(count[found]) for found in OUTCOMES)) for name, count in counts.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
