"""Runs and a report of them, for all tests of reports."""

import shutil

import numpy as np
import pytest
from report_helpers import EVIL, NAMES

from mnemonics_jax import cli
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.progress import Display


def write_npz(path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 20)
    # Classes differ in brightness, so that something is learned.
    images = {
        f"{s}_images": rng.integers(0, 64, (80, 8, 8, 3), np.uint8) + labels[:, None, None, None]
        for s in ("train", "test")
    }
    images = {key: (value + 48 * labels[:, None, None, None]).astype(np.uint8) for key, value in images.items()}
    np.savez(path, **images, train_labels=labels, test_labels=labels, class_names=np.array(NAMES))


@pytest.fixture(scope="session")
def runs(tiny, tmp_path_factory):
    """Folder of runs: iCaRL with random, herding and learned exemplars, and fine-tuning."""
    folder = tmp_path_factory.mktemp("runs")
    write_npz(folder / f"{EVIL}.npz")
    for method, kind in (("icarl", "random"), ("icarl", "herding"), ("icarl", "mnemonics"), ("finetune", "random")):
        config = tiny.config(
            method,
            kind,
            data={"source": "npz", "path": str(folder / f"{EVIL}.npz")},
            stream={"phases": 2},
            train={"epochs": 2, "batch_size": 16},
        )
        run_in_folder(config, folder / "runs" / f"{method}-{kind}", Display(quiet=True))
    return folder / "runs"


@pytest.fixture(scope="session")
def report(runs, tmp_path_factory):
    """The report of all runs, the run without memory without checkpoints."""
    out = tmp_path_factory.mktemp("report")
    shutil.copytree(runs, out / "runs")
    shutil.rmtree(out / "runs" / "finetune-random" / "checkpoints")
    arms = sorted((out / "runs").iterdir())
    cli.main(["report", *map(str, arms), "--out", str(out / "page")])
    return out / "page"
