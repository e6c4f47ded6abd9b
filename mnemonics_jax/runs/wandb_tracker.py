"""Weights & Biases as a tracker. The project is WANDB_PROJECT, or mnemonics; WANDB_MODE=offline needs no account."""

import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import wandb

from mnemonics_jax.runs.tracker import NamedImages, RunName, Scalars
from mnemonics_jax.runtime.errors import UserError


def check() -> None:
    """Check that there is an account, or that none is needed.

    Raises:
        UserError: when there is none.
    """
    if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
        raise UserError("--track wandb: not logged in: call `wandb login` once, or set WANDB_MODE=offline")


class WandbTracker:
    """Shows a run at Weights & Biases; `note` is called with its address there."""

    def __init__(self, name: RunName, note: Callable[[str], None]) -> None:
        self._name, self._note = name, note
        self._curves: set[str] = set()
        self._finished = False

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start a run, or go on in the one that the folder names."""
        known = self._name.read()
        if known is None:
            known = secrets.token_hex(4)
            self._name.write(known)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mnemonics"),
            id=known,
            resume="allow",
            name=self._name.out.name,
            dir=str(self._name.out),
            config=dict(settings),
            # Several runs of a process may be shown at the same time, and the terminal belongs to the run's display.
            settings=wandb.Settings(reinit="create_new", console="off", silent=True),
        )
        if not self._run.offline:
            self._note(f"wandb: {self._run.url}")

    def show(self, scalars: Scalars) -> None:
        """Log the values of one event, unless the run has them already."""
        if scalars.number < self._run.step:
            return
        if scalars.name not in self._curves:
            self._curves.add(scalars.name)
            self._run.define_metric(f"{scalars.name}/*", step_metric=f"{scalars.name}/at")
        values = {f"{scalars.name}/{key}": value for key, value in scalars.values.items()}
        self._run.log({**values, f"{scalars.name}/at": scalars.step}, step=scalars.number)

    def finish(self, results: Mapping[str, int | float], images: NamedImages) -> None:
        """Put the results into the summary of the run, and log the images."""
        self._run.log({name: wandb.Image(image) for name, image in images.items()})
        self._run.summary.update(dict(results))
        self._finished = True

    def close(self) -> None:
        """Send what is left, and mark a run that has not finished as failed."""
        self._run.finish(exit_code=0 if self._finished else 1)


tracker = WandbTracker
