"""The tiny runs that are attacked, and what makes two of them equal."""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from forked import Forked, command, plain

SETTINGS = (
    *("--phases", "1", "--base", "2", "--data.num-classes", "4", "--data.crop-padding", "1", "--data.no-flip"),
    *("--net.name", "convnet", "--net.widths", "8", "8", "--train.epochs", "2", "--train.later-epochs", "2"),
    *("--train.batch-size", "64", "--train.chunk-steps", "4", "--train.balanced-steps", "0"),
    *("--save.min-seconds", "0", "--save.every-steps", "4", "--save.every-outer-steps", "1"),
)
LEARNED = (
    *("--exemplars.outer-steps", "4", "--exemplars.outer-chunk", "2", "--exemplars.outer-batch", "32"),
    *("--exemplars.no-gate", "--exemplars.unroll-length", "2"),
)
VARIANTS = {
    "lucir-herding": ("--method", "lucir", "--exemplars", "herding", "--exemplars.per-class", "4"),
    "icarl-mnemonics": ("--method", "icarl", "--exemplars", "mnemonics", "--exemplars.per-class", "4", *LEARNED),
    "bic-random": ("--method", "bic", "--exemplars", "random", "--exemplars.per-class", "10"),
    "lwf-mnemonics-adjusted": (
        *("--method", "lwf", "--exemplars", "mnemonics", "--exemplars.per-class", "4", *LEARNED),
        *("--exemplars.adjust", "--exemplars.adjust-steps", "4"),
    ),
}


def words(variant: str, out: Path) -> list[str]:
    """Return the words of the command that runs a variant in `out`."""
    return ["run", "digits", *SETTINGS, *VARIANTS[variant], "--out", str(out)]


def run_and_digest(variant: str, out: Path) -> Callable[[], dict[str, Any]]:
    """Return a function that runs a variant in `out` to its end, and returns what makes two runs equal."""

    def call() -> dict[str, Any]:
        from mnemonics_jax.runtime.errors import exit_status

        command(words(variant, out))()
        # A finished run prints its summary, however its last checkpoint is; to read that has to say what is wrong.
        with exit_status("mnemonics"):
            return digest(out)

    return call


def digest(out: Path) -> dict[str, Any]:
    """Return a hash of the last state of a finished run, its summary and its events."""
    import jax

    from mnemonics_jax.config.parsing import read_config
    from mnemonics_jax.phase.setup import make_setup
    from mnemonics_jax.phase.state import initial_state
    from mnemonics_jax.runs.checkpoint import CheckpointFolder

    setup = make_setup(read_config(out / "config.json"))
    with CheckpointFolder(out / "checkpoints", writes=False) as checkpoints:
        state = checkpoints.after(setup.stream.num_phases - 1, setup, initial_state(setup))
    arrays = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        arrays.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    return {"state": arrays.hexdigest(), **results(out)}


def results(out: Path) -> dict[str, Any]:
    """Return what the files of a finished run say, less what depends on clock and process."""
    return {"summary": plain(out / "summary.json"), "metrics": plain(out / "metrics.jsonl")}


def undisturbed(out: Path, variants: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Run variants, each in its folder below `out`, and return the digests.

    Raises:
        SystemExit: when one of them fails.
    """
    expected = {}
    for variant in variants:
        shutil.rmtree(out / variant, ignore_errors=True)
        ended = Forked(run_and_digest(variant, out / variant)).wait(600)
        if ended.status:
            raise SystemExit(f"the undisturbed run {variant} failed:\n{ended.said}")
        expected[variant] = ended.value
    return expected
