"""Θ_0 trained once for all runs that start the same, kept beside them under a name made of what decides its bits."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mnemonics_jax import native, together
from mnemonics_jax.checkpoint import Saved
from mnemonics_jax.data.pictures import Pictures
from mnemonics_jax.errors import UserError
from mnemonics_jax.files import Damaged, locked, seal, unseal, write_whole
from mnemonics_jax.journal import lines_of, read_metrics
from mnemonics_jax.nets.classifier import Variables
from mnemonics_jax.point import Point, Stage
from mnemonics_jax.state import PhaseState, Setup
from mnemonics_jax.training import all_finite, begin_training

EVENT = "first_phase"
"""The event that a run which took a shared Θ_0 begins with: its name, and the seconds that its training took."""


class FirstPhase:
    """The Θ_0 of one setup in a folder that runs share: FOLDER/NAME/model, where NAME is a hash of `origin`.

    What is kept is the end of phase 0's training, before exemplars are chosen: the variables and the events logged so
    far. A run that starts from it ends with the same bits as one that trains phase 0 itself on the same machine.
    """

    def __init__(self, folder: Path, setup: Setup, warn: Callable[[str], None]) -> None:
        text = json.dumps(origin(setup), sort_keys=True)
        self.name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._folder, self._setup, self._warn = (folder / self.name).absolute(), setup, warn
        self._model = self._folder / "model"
        self._steps = setup.config.train.steps(0, len(setup.stream.train_indices(0)))
        self._damaged = False

    def take(self, start: PhaseState) -> Saved | None:
        """The kept end of training, in a run whose first state is `start`; None when there is none.

        A damaged one is told to `warn`, and replaced by the next `offer`.
        """
        if not self._model.exists():
            return None
        try:
            facts = unseal(self._model)
            with ocp.StandardCheckpointer() as orbax:
                arrays = orbax.restore(self._model / "arrays", start.variables._asdict())
        # Orbax has an error of its own for each thing amiss.
        except Exception as error:
            told = str(error) if isinstance(error, Damaged) else f"{self._model} cannot be read ({error})"
            self._warn(f"damaged first phase: {told}; it is trained anew")
            self._damaged = True
            return None
        variables = Variables(**jax.tree.map(np.asarray, arrays))
        work = jax.tree.map(np.asarray, begin_training(self._setup.train_program, variables))
        events = read_metrics(self._model / "metrics.jsonl")
        events.append({"event": EVENT, "phase": 0, "shared": self.name, "seconds": facts["seconds"]})
        return Saved(Point(start, Stage.TRAINING, self._steps, work), events, 0.0, 0)

    def offer(self, saved: Saved) -> None:
        """Keeps `saved` if it is the end of phase 0's training and there is none yet.

        What cannot be written is told to `warn`: the run itself needs none of it.
        """
        point = saved.point
        if int(point.state.phase) or point.stage is not Stage.TRAINING or point.done != self._steps:
            return
        if (self._model.exists() and not self._damaged) or not all_finite(point.work):
            return
        try:
            # Another process that holds the lock is writing the same.
            with locked(self._folder):
                self._write(saved)
        except UserError:
            return
        # Orbax reports a full disk by ValueError, OSError and errors of JAX's own, by where it struck.
        except Exception as error:
            self._warn(f"the first phase could not be kept for other runs in {self._folder} ({error})")

    def _write(self, saved: Saved) -> None:
        draft = self._model.with_name("model.part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        variables = jax.tree.map(np.asarray, saved.point.work.variables)
        with ocp.StandardCheckpointer() as orbax:
            orbax.save(draft / "arrays", variables._asdict())
            orbax.wait_until_finished()
        write_whole(draft / "metrics.jsonl", lines_of(saved.events))
        seal(draft, {"seconds": saved.seconds, "origin": origin(self._setup)})
        if self._model.exists():
            # What a crash leaves of a damaged one counts as never finished.
            old = self._model.with_name("damaged.part")
            shutil.rmtree(old, ignore_errors=True)
            self._model.rename(old)
            shutil.rmtree(old)
        draft.rename(self._model)


def origin(setup: Setup) -> dict[str, Any]:
    """All that decides the bits of Θ_0 after its training, as plain values.

    Not in it are the exemplars, but for the type of their pixels, which training images are converted to; how many
    phases follow and what they do; and how many processes decode images.
    """
    config, stream = setup.config, setup.stream
    dataset = stream.dataset
    data = {name: value for name, value in dataclasses.asdict(config.data).items() if name not in ("workers", "stream")}
    train = {name: value for name, value in dataclasses.asdict(config.train).items() if not name.startswith("later_")}
    return {
        "data": {**data, "streamed": isinstance(dataset.train_images, Pictures)},
        "classes": [*zip(dataset.class_names, dataset.train_counts().tolist(), strict=True)],
        "images": [dataset.image_shape, dataset.mean, dataset.std, np.dtype(config.exemplars.stored_dtype).name],
        "order": stream.order.tolist(),
        "base": stream.sizes[0],
        "seed": config.seed,
        "net": {**dataclasses.asdict(config.net), "precision": setup.net.dtype},
        "head": config.method.head,
        "training": config.method.first_phase,
        "train": train,
        "machine": [
            jax.__version__,
            jax.default_backend(),
            jax.devices()[0].device_kind,
            setup.devices.count,
            native.supports(jnp.zeros(1)),
            together.lanes(),
        ],
    }
