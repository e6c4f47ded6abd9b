"""TensorBoard's view of a run: its numbers as curves, its settings beside its final results, its exemplars."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, image, scalar

from mnemonics_jax.runs.tracker import NamedImages, Scalars
from mnemonics_jax.runtime.files import remove


class TensorBoard:
    """The tracker of every run: it writes TensorBoard events into `folder`, in place of those that are there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin a new file of events; `settings` are shown beside the results."""
        self._folder.mkdir(exist_ok=True)
        for path in self._folder.glob("events.out.tfevents.*"):
            remove(path)
        # Not SummaryWriter: it writes in a thread of its own, which a full disk would end without an error.
        # A relative name such as gs:x would be taken for the address of a bucket.
        self._writer = EventsWriter(str(self._folder.absolute() / "events"))
        self._settings = settings

    def show(self, scalars: Scalars) -> None:
        """Write the values of one event."""
        for key, value in scalars.values.items():
            self._add(scalar(f"{scalars.name}/{key}", value), scalars.step)
        self._writer.flush()

    def finish(self, results: Mapping[str, int | float], images: NamedImages) -> None:
        """Write the results, once as hyperparameters have them and once as scalars, and the images."""
        # TensorBoard has no lists; a value that is none of its kinds would be left out of its table.
        plain = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in self._settings.items()
        }
        for summary in hparams(plain, dict(results)):
            self._add(summary, 0)
        for name, value in results.items():
            self._add(scalar(name, value), 0)
        for name, pixels in images.items():
            self._add(image(name, pixels, dataformats="HWC"), 0)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()

    def _add(self, summary: Summary, step: int) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
