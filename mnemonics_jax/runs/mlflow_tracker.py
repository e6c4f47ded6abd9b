"""MLflow as a tracker. MLFLOW_TRACKING_URI says where to; without it, runs lie in the folder mlruns."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from mnemonics_jax.runs.tracker import NamedImages, RunName, Scalars

_SHOWN_TAG = "mnemonics.points"
"""Name of the tag with the number of events that a run has shown."""
_MOST_PARAMS = 100
"""Most parameters that MLflow takes at a time."""


def check() -> None:
    """Do nothing: a folder needs no account, and a server is asked when a run begins."""


class MlflowTracker:
    """Shows a run in MLflow; `note` is called with its number there.

    Nothing of it is global to the process, so that several runs can be shown at the same time.
    """

    def __init__(self, name: RunName, note: Callable[[str], None]) -> None:
        self._name, self._note = name, note
        self._finished = False

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Create a run, or go on in the one that the folder names, if it is there."""
        uri = None
        if not mlflow.is_tracking_uri_set():
            uri = Path("mlruns").absolute().as_uri()
            # MLflow wants a word that a folder, rather than a data base, is meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = mlflow.MlflowClient(uri)
        self._run, self._shown = self._known() or (self._create(settings), 0)
        self._note(f"mlflow: run {self._run} in {self._client.tracking_uri}")

    def show(self, scalars: Scalars) -> None:
        """Log the values of one event, unless the run has them already."""
        if scalars.number < self._shown:
            return
        now = time.time_ns() // 1_000_000
        metrics = [Metric(f"{scalars.name}/{key}", value, now, scalars.step) for key, value in scalars.values.items()]
        self._client.log_batch(self._run, metrics=metrics, tags=[RunTag(_SHOWN_TAG, str(scalars.number + 1))])

    def finish(self, results: Mapping[str, int | float], images: NamedImages) -> None:
        """Log the results as metrics, and the images as files of the run."""
        now = time.time_ns() // 1_000_000
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, 0) for name, value in results.items()])
        for name, image in images.items():
            self._client.log_image(self._run, image, f"{name}.png")
        self._finished = True

    def close(self) -> None:
        """Mark the run as finished, or as stopped."""
        self._client.set_terminated(self._run, status="FINISHED" if self._finished else "KILLED")

    def _known(self) -> tuple[str, int] | None:
        """Return the run that the folder names and the number of its events; None where there is no such run."""
        known = self._name.read()
        if known is None:
            return None
        try:
            found = self._client.get_run(known)
        except MlflowException as error:
            # It is another server, or it was deleted there.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        self._client.update_run(known, status="RUNNING")
        return known, int(found.data.tags.get(_SHOWN_TAG, 0))

    def _create(self, settings: Mapping[str, Any]) -> str:
        run = self._client.create_run(self._experiment(), run_name=self._name.out.name).info.run_id
        params = [Param(name, str(value)) for name, value in settings.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run, params=params[first : first + _MOST_PARAMS])
        self._name.write(run)
        return run

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mnemonics")
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except MlflowException:
            # A run beside has created it meanwhile.
            if found := self._client.get_experiment_by_name(name):
                return found.experiment_id
            raise


tracker = MlflowTracker
