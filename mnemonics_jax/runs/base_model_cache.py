"""The base model Θ_0, trained once for all runs that would train the same one, and found by its fingerprint."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnemonics_jax.data.lazy_images import LazyImages
from mnemonics_jax.methods import Method
from mnemonics_jax.nets.classifier import Variables
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState, ResumePoint, Stage
from mnemonics_jax.phase.training import init_training
from mnemonics_jax.runs.checkpoint import Checkpoint
from mnemonics_jax.runs.metrics_log import lines_of, read_metrics
from mnemonics_jax.runs.record import arithmetic, record_of
from mnemonics_jax.runtime.array_files import restore_arrays, save_arrays
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import LockedError, locked, write_atomically
from mnemonics_jax.runtime.finite import all_finite
from mnemonics_jax.runtime.folders import CorruptedError, FormatError, atomic_folder, verify_manifest

EVENT = "base_model"
"""The first event of a run that starts from a shared Θ_0: the name of Θ_0 and the seconds of its training."""


class BaseModelCache:
    """The Θ_0 of one setup in a folder that runs share: FOLDER/NAME/model, where NAME is a hash of `fingerprint`.

    The model folder has the state at the end of phase 0's training, before exemplars are chosen: the variables and the
    events logged so far. A run that starts from it ends with the same bits as a run that trains phase 0 itself on the
    same machine.
    """

    def __init__(self, folder: Path, setup: Setup, warn: Callable[[str], None]) -> None:
        text = json.dumps(fingerprint(setup), sort_keys=True)
        self.name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._folder, self._setup, self._warn = (folder / self.name).absolute(), setup, warn
        self._model = self._folder / "model"
        self._steps = setup.config.train.steps(0, len(setup.stream.train_indices(0)))
        self._damaged = False

    def load(self, start: PhaseState) -> Checkpoint | None:
        """Return a checkpoint of the end of phase 0's training, or None when there is no good base model.

        `start` is the first state of the run. A damaged base model is reported to `warn`, and the next `save` replaces
        it. One in another format is reported too, but is not replaced.
        """
        if not self._model.exists():
            return None
        try:
            facts = verify_manifest(self._model)
            arrays = restore_arrays(self._model / "arrays", start.variables._asdict())
        except FormatError as error:
            self._warn(f"the base model is not shared: {error}")
            return None
        except CorruptedError as error:
            self._warn(f"damaged base model: {error}; phase 0 is trained again")
            self._damaged = True
            return None
        loop_state = jax.tree.map(np.asarray, init_training(self._setup.train_program, Variables(**arrays)))
        events = read_metrics(self._model / "metrics.jsonl")
        events.append({"event": EVENT, "phase": 0, "shared": self.name, "seconds": facts["seconds"]})
        resume_point = ResumePoint(start, Stage.TRAINING, self._steps, loop_state)
        return Checkpoint(resume_point, events, 0.0, 0, record_of(self._setup, begins=True))

    def save(self, checkpoint: Checkpoint) -> None:
        """Save `checkpoint` if it is at the end of phase 0's training and there is no good base model yet.

        A file that cannot be written is only reported to `warn`, since the run itself does not need it.
        """
        resume_point = checkpoint.resume_point
        if (
            int(resume_point.state.phase)
            or resume_point.stage is not Stage.TRAINING
            or resume_point.done != self._steps
        ):
            return
        if (self._model.exists() and not self._damaged) or not all_finite(resume_point.loop_state):
            return
        try:
            # Another process that has the lock writes the same model.
            with locked(self._folder):
                self._write(checkpoint)
        except LockedError:
            return
        except (OSError, UserError) as error:
            self._warn(f"the base model could not be saved for other runs in {self._folder} ({error})")

    def _write(self, checkpoint: Checkpoint) -> None:
        facts = {"seconds": checkpoint.seconds, "fingerprint": fingerprint(self._setup)}
        with atomic_folder(self._model, facts, replace=True) as draft:
            save_arrays(draft / "arrays", checkpoint.resume_point.loop_state.variables._asdict())
            write_atomically(draft / "metrics.jsonl", lines_of(checkpoint.events))


def fingerprint(setup: Setup) -> dict[str, Any]:
    """Return everything that determines the bits of Θ_0 after its training, as plain values.

    It leaves out the later phases, the number of processes that decode images, and the settings of exemplars except
    the dtype of their pixels: training images are converted to that dtype.
    """
    config, stream = setup.config, setup.stream
    dataset = stream.dataset
    data = {name: value for name, value in dataclasses.asdict(config.data).items() if name not in ("workers", "stream")}
    later = ("later_", "balanced_")
    train = {name: value for name, value in dataclasses.asdict(config.train).items() if not name.startswith(later)}
    return {
        "data": {**data, "streamed": isinstance(dataset.train_images, LazyImages)},
        "classes": [*zip(dataset.class_names, dataset.train_counts().tolist(), strict=True)],
        "images": [dataset.image_shape, dataset.mean, dataset.std, np.dtype(config.exemplars.stored_dtype).name],
        "order": stream.order.tolist(),
        "base": stream.sizes[0],
        "seed": config.seed,
        "net": {**dataclasses.asdict(config.net), "precision": setup.net.dtype},
        "head": config.method.head,
        "training": _training(config.method),
        "train": train,
        "contents": dataset.fingerprint,
        "arithmetic": arithmetic(setup),
    }


def _training(method: Method) -> str:
    """Return what `method` trains in phase 0: the base loss that its class declares, else the whole method."""
    cls = type(method)
    # An inherited name does not count: the subclass may train in another way.
    if "base_loss" in vars(cls) and (name := method.base_loss) is not None:
        return name
    return f"{cls.__module__}.{cls.__qualname__}: {method!r}"
