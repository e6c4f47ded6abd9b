"""What several test modules share: paths, scripts, doubles of displays and callbacks, and what runs leave."""

import hashlib
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mnemonics_jax import cli
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.phase.state import initial_state
from mnemonics_jax.runs.checkpoint import CheckpointFolder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.progress import Display

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
QUICK_COMPILATION = ("--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1")
"""Flags of XLA with which a program compiles in a fraction of the time, and may run slower."""
# XLA ends a process that gives it a flag which it does not know.
if (0, 8) <= jax.__version_info__ < (0, 11):
    QUICK_COMPILATION += ("--xla_cpu_use_fusion_emitters=false",)


def xla_flags(devices):
    """The value of XLA_FLAGS for a child process with so many devices."""
    return " ".join((*QUICK_COMPILATION, f"--xla_force_host_platform_device_count={devices}"))


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], Any], *, checksum: bool = True) -> None:
    """Changes the content of a manifest, and its checksum accordingly or not."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    found = content.pop("checksum")
    change(content)
    if checksum:
        found = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, "checksum": found}))


def without_format(content: dict[str, Any]) -> None:
    """Makes the content of a manifest that of versions before formats had numbers."""
    del content["format"]


def newer_format(content: dict[str, Any]) -> None:
    """Makes the content of a manifest that of a newer version."""
    content["format"] += 1


OFTEN = SaveConfig(every_steps=8, every_outer_steps=3, min_seconds=0.0)
"""Every chunk of a tiny run is a checkpoint."""

TINY_SETTINGS = (
    *("net.widths=8,8", "train.epochs=2", "train.learning_rate=0.1", "train.chunk_steps=8", "exemplars.per_class=4"),
    *("exemplars.unroll_length=3", "exemplars.inner_scope=all", "exemplars.outer_steps=6", "exemplars.outer_chunk=3"),
    *("exemplars.outer_batch=32", "train.later_epochs=none", "train.balanced_steps=0"),
)
"""For the scripts' --set. With these the programs are those of the other tests, and compiled once for all."""
TINY_FLAGS = (
    *("--net.widths", "8", "8", "--train.epochs", "2", "--train.batch-size", "64", "--train.learning-rate", "0.1"),
    *("--train.milestones", "0.6", "--train.chunk-steps", "8", "--data.crop-padding", "1", "--phases", "1"),
    *("--exemplars.per-class", "4", "--exemplars.unroll-length", "3", "--exemplars.inner-init", "reset_head"),
    *("--exemplars.inner-scope", "all", "--exemplars.inner-learning-rate", "0.1"),
    *("--exemplars.inner-momentum", "0.9", "--train.later-epochs", "None", "--train.balanced-steps", "0"),
)
"""For the flags of a command: runs of seconds."""


def load_script(path):
    """The script at `path` as a module, outside of the import hook that checks types."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Listening(Display):
    """Keeps what the user would read, in `said`, and behind the title of its run in `titled`."""

    def __init__(self, *, verbose=True):
        super().__init__(verbose=verbose)
        self.said, self.titled = [], []

    def say(self, message):
        self.said.append(message)
        self.titled.append(f"{self.title}: {message}")


class Interrupting(Display):
    """Presses Ctrl-C at a stage of a phase, any of which may be None for all: as it starts, or after `step` of it."""

    def __init__(self, phase=None, name=None, step=None):
        super().__init__()
        self._place, self._step = (phase, name), step

    def stage(self, phase, name, total):
        pairs = zip(self._place, (phase, name), strict=True)
        self._reached = all(wanted in (None, given) for wanted, given in pairs)
        if self._reached and self._step is None:
            raise KeyboardInterrupt

    def advance(self, done, **values):
        if self._reached and done == self._step:
            raise KeyboardInterrupt


class Events(NoCallbacks):
    """Keeps events and warnings."""

    def __init__(self):
        self.events, self.warnings = [], []

    def event(self, name, phase, **values):
        self.events.append((name, phase, values))

    def warn(self, message):
        self.warnings.append(message)


def child_process(program, value, path, *arguments, **environment):
    """Starts a Python `program`, which finds `value` (by way of `path`) as `argument` and the others in `words`."""
    path.write_bytes(pickle.dumps(value))
    text = f"import pickle, sys\nargument, words = pickle.load(open(sys.argv[1], 'rb')), sys.argv[2:]\n{program}"
    return subprocess.Popen(
        [sys.executable, "-c", text, str(path), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def signal_at(child, line, number):
    """Sends the signal `number` to a child process once it prints `line`."""
    for told in child.stdout:
        if told.strip() == line:
            child.send_signal(number)
            return
    pytest.fail(f"never told {line!r}: {child.stderr.read()}")


TELLING = """
from pathlib import Path
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.compile_cache import num_compilations
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.sweeps.jobs import run_jobs
class Telling(Display):
    def beside(self, title):
        return Telling()
    def advance(self, done, **values):
        super().advance(done, **values)
        print(self._stage, done, flush=True)
out, save = Path(words[0]), SaveConfig(8, 3, 0.0)
"""
"""The beginning of a child's program: a display that prints each step it comes to."""


def without(values, *more):
    """A summary or an event without what depends on the clock and the process."""
    return {k: v for k, v in values.items() if k not in ("seconds", "compilations", *more)}


def events(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def summary(out):
    return json.loads((out / "summary.json").read_text())


def result(out, *more):
    """All that a run leaves and that does not depend on the clock: its summary and its events."""
    return [without(values, *more) for values in (summary(out), *events(out))]


def latest(config, out):
    """The last checkpoint of a run."""
    setup = make_setup(config)
    with CheckpointFolder(out / "checkpoints") as checkpoints:
        return checkpoints.latest(setup, initial_state(setup), pytest.fail)


def final_state(config, out):
    return latest(config, out).resume_point.state


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_same_arrays(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def refused(capsys, *words):
    """The message with which these words are refused."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    assert caught.value.code == 2
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
