"""Progress of a run for the user: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_LINE_EVERY = 10.0
"""Seconds between two plain progress lines."""


class Display:
    """A display of one run after another on standard error. `title` names the current run, `where` its last step."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Console(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage, self._total, self._started, self._last_line = "", 1, 0.0, 0.0
        self.title, self.where = "", ""

    def begin(self, title: str) -> None:
        """Start to show the next run, with that title."""
        self.title, self.where = title, ""

    def beside(self, title: str) -> "Display":
        """Return a display on the same screen for a concurrent run, with its own progress bar."""
        other = Display(self._console)
        other._bar = self._bar
        other.begin(title)
        return other

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the progress bar from the terminal."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def say(self, message: str) -> None:
        """Print one line, after the title of the run."""
        line = f"{self.title}: {message}" if self.title else message
        # File names may look like rich's markup.
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print one line, marked as a warning."""
        self.say(f"warning: {message}")

    def stage(self, phase: int, name: str, total: int) -> None:
        """Show that a stage of `total` steps starts in a phase."""
        self.task(f"phase {phase} {name}", total)

    def task(self, name: str, total: int) -> None:
        """Show that a task of `total` steps starts."""
        self._stage, self._total = name, total
        self.where = name
        self._started = self._last_line = time.monotonic()
        if self._bar:
            if self._task is not None:
                self._bar.remove_task(self._task)
            prefix = f"{self.title} " if self.title else ""
            self._task = self._bar.add_task(prefix + self._stage, total=total, values="")

    def advance(self, done: int, **values: int | float) -> None:
        """Show that `done` steps are finished, together with `values` (epoch, loss, accuracy)."""
        self.where = f"{self._stage}, step {done} of {self._total}"
        shown = " ".join(f"{name} {value:.3g}" for name, value in values.items())
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, values=shown)
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY:
            self._last_line = now
            left = (now - self._started) / done * (self._total - done)
            parts = [f"{self._stage}: step {done} of {self._total}", shown, f"{left:.0f} s left"]
            self.say(", ".join(part for part in parts if part))

    def phase_done(self, event: dict[str, Any]) -> None:
        """Print one line for a finished phase, from its event."""
        text = f"phase {event['phase']}: {event['seen_classes']} classes, accuracy {event['accuracy']:.2f} %"
        if "accuracy_exemplar_model" in event:
            text += f", of the exemplar-fitted model {event['accuracy_exemplar_model']:.2f} %"
        self.say(f"{text} ({event['seconds']:.1f} s)")


def stdout() -> Console:
    """Return the console for results: standard output, 120 columns wide where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 120)
