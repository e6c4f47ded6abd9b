"""Measure everything on the device that is there, within minutes, and write it to accelerator.json and accelerator.md.

    python experiments/benchmarks/accelerator.py --minutes 8

Parts run in order of worth, each in a process of its own that ends when its share of the time is over; what a part
leaves is shared by those after it. A figure that was not measured is a dash with the reason. Both files are written
after each figure, so that nothing is lost when this is killed. PyTorch is compared with where it is installed and
computes on the same device; no network is needed. On a CPU the sizes are small (`--sizes full` changes that): they show
that all parts work, and are no figures to quote.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from accelerator_table import markdown

from mnemonics_jax.runtime.files import write_atomically, write_json

Results = dict[str, Any]


class Part(NamedTuple):
    """A part by the name of its function in `accelerator_parts`, its share of the time, and its heading."""

    name: str
    share: float
    title: str


PARTS = (
    Part("training_step", 0.26, "Training step, SGD"),
    Part("end_to_end", 0.10, "End to end: the training of a run, with host work and transfers"),
    Part("meta_gradient", 0.24, "Meta-gradient of ResNet-32 through T inner steps"),
    Part("stream", 0.20, "Shortened cifar100 stream, exemplars learned, compilation included"),
    Part("seeds", 0.15, "Seeds at once: digits runs as one program"),
    Part("herding", 0.05, "Herding: classes × images × features"),
)


def main(words: Sequence[str] | None = None) -> int:
    """Measure all parts, or in a child process one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts (default: 8)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the two files (default: this one)")
    parser.add_argument("--sizes", choices=["auto", "small", "full"], default="auto", help="default: small on a CPU")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="default: all")
    parser.add_argument("--child", nargs=3, metavar=("PART", "SECONDS", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.child:
        name, seconds, file = options.child
        measure_part(name, options.sizes, float(seconds), Path(file))
        return 0
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes}: give a number above 0")
    # So that a child process ends with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parts = [part for part in PARTS if not options.parts or part.name in options.parts]
    options.out.mkdir(parents=True, exist_ok=True)
    results = measure(parts, 60 * options.minutes, options.sizes, options.out)
    print((options.out / "accelerator.md").read_text())
    return 0 if results["device"] else 1


def measure(parts: Sequence[Part], seconds: float, sizes: str, out: Path) -> Results:
    """Run `parts` in order within `seconds`, and write the results to the folder `out` after each figure."""
    results: Results = {"device": {}, "minutes": seconds / 60, "sizes": sizes, "parts": {}}
    for part in parts:
        results["parts"][part.name] = {"title": part.title, "rows": {}, "missing": "its turn has not come"}
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts):
            share = part.share / sum(later.share for later in parts[number:])
            limit = share * (ends - time.monotonic())
            file = Path(folder) / f"{part.name}.jsonl"
            command = [sys.executable, __file__, "--child", part.name, str(limit), str(file), "--sizes", sizes]
            for why in run_child(command, limit, Path(folder) / "log"):
                gather(results, part.name, file, why)
                write(results, out)
    return results


def run_child(command: Sequence[str], seconds: float, log: Path) -> Iterator[str]:
    """Run a process for at most `seconds`; yield now and then why what is not there is missing, lastly at its end."""
    # JAX would otherwise take most of a GPU's memory at once, and PyTorch beside it find none.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
    began = time.monotonic()
    with log.open("wb") as output, ended_group(command, output, environment) as child:
        while child.poll() is None and time.monotonic() - began < seconds:
            time.sleep(min(0.5, max(0.0, began + seconds - time.monotonic())))
            yield "not finished yet"
        status = child.poll()
    if status is None:
        yield f"no time left: its part had {seconds:.0f} s"
    elif status == 0:
        yield "not measured"
    else:
        lines = log.read_text(errors="replace").split("\n")
        yield f"ended with status {status}: {next((line for line in reversed(lines) if line.strip()), '')[:150]}"


@contextmanager
def ended_group(command: Sequence[str], output: Any, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Start a process in a group of its own, and kill the group in the end: compilers have processes of their own."""
    child = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def gather(results: Results, part: str, file: Path, why: str) -> None:
    """Take what the child process of `part` has written; `why` is the reason of what is missing."""
    lines = []
    for line in file.read_text().splitlines() if file.exists() else ():
        with suppress(ValueError):  # it is being written
            lines.append(json.loads(line))
    target = results["parts"][part]
    target["missing"] = why
    if lines:
        (first, *done), target["rows"] = lines, {}
        results["device"] = results["device"] or first["device"]
        target["sizes"], target["planned"] = first["sizes"], list(dict.fromkeys(first["planned"]))
        # Two cases of one name fill one row.
        for case in done:
            target["rows"].setdefault(case["case"], {}).update(case["values"])
        if len(done) == len(first["planned"]):
            target["missing"] = ""


def write(results: Results, out: Path) -> None:
    """Write both files."""
    write_json(out / "accelerator.json", results)
    write_atomically(out / "accelerator.md", markdown(results))


def measure_part(name: str, sizes_name: str, seconds: float, file: Path) -> None:
    """Measure one part in this process and append a line of JSON to `file` for each case."""
    # Where the parent is killed, this process ends by itself.
    signal.alarm(int(seconds) + 5)
    import accelerator_parts as measured

    sizes = measured.sizes_for(sizes_name)
    cases = getattr(measured, name)(sizes)
    with file.open("a") as lines:

        def tell(**line: Any) -> None:
            print(json.dumps(line), file=lines, flush=True)

        label = "full" if sizes is measured.FULL else "small"
        tell(device=measured.device(), sizes=label, planned=[case.name for case in cases])
        for case in cases:
            # One that fails, as for lack of memory, leaves the others.
            try:
                # JSON has no NaN: what a platform does not tell is a dash.
                values = {column: "–" if value != value else value for column, value in case.measure().items()}
            except Exception as error:
                text = (str(error).strip().splitlines() or [""])[0][:150]
                values = {"missing": f"{type(error).__name__}: {text}"}
            tell(case=case.name, values=values)


if __name__ == "__main__":
    sys.exit(main())
