"""Settings and fixtures every test shares."""

import dataclasses
import getpass
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from helpers import QUICK_COMPILATION, Interrupting

from mnemonics_jax.config.config import Config
from mnemonics_jax.config.presets import fill
from mnemonics_jax.config.train import TrainConfig
from mnemonics_jax.data.class_stream import StreamConfig
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.exemplars import exemplar_class
from mnemonics_jax.methods import method_class
from mnemonics_jax.nets import NetConfig
from mnemonics_jax.phase import exemplar_choice, exemplar_gate
from mnemonics_jax.phase.setup import Setup, make_setup
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runtime.compile_cache import release_programs

# A shell starts what runs in the background with Ctrl-C switched off, and the programs that tests interrupt inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Most of the suite's time is compilation, of the same programs each time: processes share them through the disk. By way
# of the environment the subprocesses of tests share them too.
_CACHE = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"mnemonics_jax-tests-{getpass.getuser()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"])
)

# A program of the suite runs a few times on tiny arrays: optimising its machine code costs more than it gives. What XLA
# itself computes, in which order and in which memory, stays the same.
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *QUICK_COMPILATION))

# Every setting that decides a result is given here, so that no test depends on the defaults of a preset. Tests that
# change none of the static ones (widths, chunks, batch sizes, T) share their compiled programs.
_EXEMPLARS = {
    "per_class": 4,
    "unroll_length": 3,
    "inner_init": "reset_head",
    "inner_scope": "all",
    "inner_learning_rate": 0.1,
    "inner_momentum": 0.9,
    "inner_augment": True,
    "start": "herding",
    "outer_steps": 6,
    "outer_learning_rate": 0.02,
    "outer_batch": 32,
    "outer_augment": True,
    "outer_clip": 1.0,
    "outer_chunk": 3,
    "change_cap": 1.0,
    "adjust": False,
    "remat": "step",
    "store": "uint8",
    "gate": False,
}


class Tiny:
    """Configurations and setups on the digits that run in seconds."""

    @staticmethod
    def config(method: str = "icarl", kind: str = "herding", *, seed: int = 0, **changes: dict[str, Any]) -> Config:
        """The tiny configuration; `changes` are settings by part, as `train={"epochs": 2}`."""
        config = Config(
            preset="digits",
            data=DataConfig(source="digits", crop_padding=1, flip=False),
            stream=StreamConfig(phases=5),
            net=NetConfig(name="convnet", widths=(8, 8)),
            train=TrainConfig(epochs=4, batch_size=64, learning_rate=0.1, milestones=(0.6,), chunk_steps=8),
            method=method_class(method)(),
            exemplars=fill(exemplar_class(kind), _EXEMPLARS),
            seed=seed,
        )
        parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
        return dataclasses.replace(config, **parts)

    @classmethod
    def setup(cls, method: str = "icarl", kind: str = "herding", *, seed: int = 0, **changes: dict[str, Any]) -> Setup:
        """A setup of `config`."""
        return make_setup(cls.config(method, kind, seed=seed, **changes))


# The files of the longest tests come first: no process is left alone with one of them at the end.
_LONG = ("test_attack.py", "test_notebooks.py", "test_meta_gradient.py", "test_resume_point.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files, and leaves the order within each as it is."""
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """The suite in one process compiles more than a process can hold."""
    yield
    release_programs()


@pytest.fixture(scope="module")
def short_trials() -> Iterator[None]:
    """Trains the models that choose the starting images, and those of the gate, for a few steps only."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (exemplar_choice, exemplar_gate):
            patch.setattr(module, "STEPS", 6)
        yield


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    """Makes tiny configurations and setups."""
    return Tiny


@pytest.fixture(scope="session")
def interrupt() -> Callable[..., None]:
    """Runs a configuration in a folder until Ctrl-C at `phase`, `name` and `step`, as `Interrupting` tells."""

    def begin(
        config: Config,
        out: Path,
        save: SaveConfig | None = None,
        *,
        phase: int | None = None,
        name: str | None = None,
        step: int | None = None,
        **options: Any,
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            run_in_folder(config, out, Interrupting(phase, name, step), save, **options)

    return begin
