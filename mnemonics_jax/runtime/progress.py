"""Progress of runs for the user: bars on a terminal and in a notebook, lines with time stamps elsewhere."""

import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from mnemonics_jax.runtime.compile_cache import is_compiling

_LINE_EVERY = 600.0
"""Seconds between two lines about one stage where there is no bar; 10 with --verbose."""


@dataclass
class _Whole:
    """How much of all runs is done; displays of concurrent runs share it.

    `runs` is 0 where no run is under way, as in a report. `parts` has the done share of each run under way.
    """

    runs: int = 0
    done: float = 0.0
    parts: dict[int, float] = field(default_factory=dict)
    _begun: tuple[float, float] | None = None

    @property
    def amount(self) -> float:
        """Number of runs that are done, with the shares of those under way."""
        return self.done + sum(self.parts.values())

    def skip(self) -> None:
        """Count a run that was finished before, which says nothing about the time that the others take."""
        self.done += 1
        if self._begun:
            self._begun = (self._begun[0], self._begun[1] + 1)

    def left(self) -> str:
        """Return the time that is left, by the time that the done part has taken; empty at the start."""
        if self._begun is None and self.parts:
            self._begun = (time.monotonic(), self.amount)
        if self._begun is None or self.amount <= self._begun[1]:
            return ""
        begun, before = self._begun
        seconds = (time.monotonic() - begun) / (self.amount - before) * (self.runs - self.amount)
        return f"about {_duration(seconds)} left"


class _StateColumn(ProgressColumn):
    """The values of the last step and the time left; "compiling …" while a program is being compiled."""

    def render(self, task: Task) -> Text:
        """Return the text of one bar."""
        compiling = task.fields["stage"] and is_compiling()
        return Text("compiling …" if compiling else task.fields["state"])


class Display:
    """A display of one run after another on standard error. `title` names the current run, `where` its last step.

    With several runs (`many`), each gives one line; with `verbose` all that a single run tells.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False, verbose: bool = False) -> None:
        self._console = console or Console(stderr=True, quiet=quiet)
        self._verbose, self._whole = verbose, _Whole()
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._whole_task: TaskID | None = None
        self._stage, self._total, self._started, self._last_line = "", 1, 0.0, 0.0
        self._planned: list[int] = []
        self._phase, self._before = 0, 0
        self.title, self.where = "", ""

    def many(self, runs: int) -> None:
        """Show that this is about `runs` runs, which `begin` starts one after the other."""
        self._whole = _Whole(runs)
        self._show_whole("")

    @property
    def many_runs(self) -> bool:
        """Whether this is about several runs."""
        return self._whole.runs > 1

    def begin(self, title: str) -> None:
        """Start to show the next run, with that title."""
        self.title, self.where, self._planned = title, "", []

    def beside(self, title: str) -> "Display":
        """Return a display on the same screen for a concurrent run, with its own progress bar."""
        other = Display(self._console, verbose=self._verbose)
        other._bars, other._whole, other._whole_task = self._bars, self._whole, self._whole_task
        other.begin(title)
        return other

    def __enter__(self) -> "Display":
        notebook = self._console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        if self._console.is_terminal or notebook:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[count]}"),
                _StateColumn(),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the progress bars from the screen."""
        if self._bars:
            self._bars.stop()
            self._bars = None

    def say(self, message: str) -> None:
        """Print one line, after the title of the run; where there is no screen, after date and time."""
        line = f"{self.title}: {message}" if self.title else message
        if not (self._console.is_terminal or self._console.is_jupyter):
            line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"
        # File names may look like rich's markup.
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """Print one line that is of interest for a single run, or with `verbose`."""
        if self._verbose or not self.many_runs:
            self.say(message)

    def warn(self, message: str) -> None:
        """Print one line, marked as a warning."""
        self.say(f"warning: {message}")

    def header(self, facts: Mapping[str, str]) -> None:
        """Show what is about to run: a line for each fact on a screen, one line in a log."""
        if not (self._console.is_terminal or self._console.is_jupyter):
            self.say("; ".join(f"{name}: {text}" for name, text in facts.items()))
            return
        table = Table.grid(padding=(0, 2))
        for name, text in facts.items():
            table.add_row(Text(name, "dim"), Text(text))
        self._console.print(table)

    def plan(self, steps: Sequence[int]) -> None:
        """Show a run whose phases take about so many `steps`."""
        self._planned = [max(count, 1) for count in steps]
        if not self._whole.runs:
            self._whole = _Whole(1)
        self._show_whole("")

    def run_done(self, summary: Mapping[str, Any] | None, *, before: bool = False) -> None:
        """Show that one of several runs has ended, with its summary, or None where it failed.

        `before` tells that it was finished already when it was started.
        """
        self._whole.parts.pop(id(self), None)
        if before:
            self._whole.skip()
        else:
            self._whole.done += 1
            if summary is not None:
                self.say(
                    f"average accuracy {summary['average_accuracy']:.2f} %, last {summary['last_accuracy']:.2f} % "
                    f"({_duration(summary['seconds'])})"
                )
        self._show_whole("")

    def stage(self, phase: int, name: str, total: int) -> None:
        """Show that a stage of `total` steps starts in a phase."""
        self._before = self._before + self._total if self._planned and phase == self._phase and self.where else 0
        self._phase = phase
        self.task(f"phase {phase} {name}", total)

    def task(self, name: str, total: int) -> None:
        """Show that a task of `total` steps starts."""
        self._stage, self._total = name, total
        self.where = name
        self._started = self._last_line = time.monotonic()
        if self._bars:
            if self._task is not None:
                self._bars.remove_task(self._task)
            prefix = f"{self.title} " if self.title else ""
            fields = {"count": f"0/{total}", "state": "", "stage": True}
            self._task = self._bars.add_task(prefix + self._stage, total=total, **fields)
        self._progress(0)

    def advance(self, done: int, **values: int | float) -> None:
        """Show that `done` steps are finished, together with `values` (epoch, loss, accuracy)."""
        self.where = f"{self._stage}, step {done} of {self._total}"
        self._progress(done)
        shown = " ".join(f"{name} {value:.3g}" for name, value in values.items())
        now = time.monotonic()
        left = f"{_duration((now - self._started) / max(done, 1) * (self._total - done))} left"
        if self._bars and self._task is not None:
            state = f"{shown}  {left}" if shown else left
            self._bars.update(self._task, completed=done, count=f"{done}/{self._total}", state=state)
        elif now - self._last_line >= (_LINE_EVERY / 60 if self._verbose else _LINE_EVERY):
            self._last_line = now
            parts = [f"{self._stage}: step {done} of {self._total}", shown, left]
            self.say(", ".join(part for part in parts if part))

    def phase_done(self, event: dict[str, Any]) -> None:
        """Print one line for a finished phase, from its event."""
        text = f"phase {event['phase']}: {event['seen_classes']} classes, accuracy {event['accuracy']:.2f} %"
        if "accuracy_exemplar_model" in event:
            text += f", of the exemplar-fitted model {event['accuracy_exemplar_model']:.2f} %"
        self.note(f"{text} ({event['seconds']:.1f} s)")

    def _progress(self, done: int) -> None:
        """Show how much of the whole is done, at step `done` of the stage."""
        if not self._planned:
            return
        phase = min(self._phase, len(self._planned) - 1)
        steps = sum(self._planned[:phase]) + min(self._before + done, self._planned[phase])
        self._whole.parts[id(self)] = steps / sum(self._planned)
        self._show_whole(f"phase {phase} of {len(self._planned) - 1}")

    def _show_whole(self, phase: str) -> None:
        if self._bars is None or not self._whole.runs:
            return
        several = self._whole.runs > 1
        if self._whole_task is None:
            fields = {"count": "", "state": "", "stage": False}
            self._whole_task = self._bars.add_task("all runs" if several else "whole run", **fields)
        count = f"{self._whole.done:.0f}/{self._whole.runs}" if several else phase
        whole = {"total": self._whole.runs, "completed": self._whole.amount, "count": count}
        self._bars.update(self._whole_task, state=self._whole.left(), **whole)


def _duration(seconds: float) -> str:
    """Return a time span in words, of at most two units."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def stdout() -> Console:
    """Return the console for results: standard output, 120 columns wide where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 120)
