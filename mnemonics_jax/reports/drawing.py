"""Drawing of a report's figures: in several processes at once; one that fails or crashes costs only itself."""

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mnemonics_jax.reports.figures import inline_svg
from mnemonics_jax.reports.figures.style import save, write
from mnemonics_jax.reports.parts import Plot
from mnemonics_jax.runtime.child_processes import end_with_parent
from mnemonics_jax.runtime.progress import Display

_MOST_WORKERS = 8
_WORTH_WORKERS = 4
"""Fewest tasks for which it pays to start processes, which takes seconds."""


class Failure(NamedTuple):
    """The message of a task that failed."""

    message: str


class Task(NamedTuple):
    """A function without arguments, picklable, and a name for the user."""

    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Drawn:
    """A figure for the page: an `<svg>` element or, where that is empty, a PNG file in base64. Sizes are in inches."""

    svg: str
    png: str
    width: float
    height: float


def run_tasks(tasks: Sequence[Task], title: str, display: Display, workers: int | None = None) -> list[Any]:
    """Return the results of the tasks in their order, with a `Failure` for each that raised an exception.

    Args:
        tasks: the tasks; they run in processes if there are processors and tasks enough.
        title: names all of them to the user.
        display: shows the progress.
        workers: number of processes; None for one on each processor, 1 for none.

    Raises:
        OSError: if a task could not write a file.
    """
    results: dict[int, Any] = {}
    display.task(title, max(len(tasks), 1))
    numbered = list(enumerate(tasks))
    try:
        _collect(numbered, results, display, workers)
    except BrokenProcessPool:
        # The process that died took the tasks beside it along: those are done again, each by itself.
        for number, task in numbered:
            if number in results:
                continue
            try:
                _collect([(number, task)], results, display, 2)
            except BrokenProcessPool:
                results[number] = Failure("the process that drew it ended without a word")
                display.warn(f"a process of the report ended without a word; left out: {task.name}")
    return [results[number] for number in range(len(tasks))]


def _collect(tasks: Sequence[tuple[int, Task]], results: dict[int, Any], display: Display, workers: int | None) -> None:
    """Put the result of each task under its number, in any order, and count them for the user."""
    # Imported here because only a report needs it.
    import joblib

    if workers is None:
        workers = min(joblib.cpu_count(), _MOST_WORKERS) if len(tasks) >= _WORTH_WORKERS else 1
    # Workers of loky, unlike those of multiprocessing, do not import the user's script.
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")
        for number, result in parallel(joblib.delayed(_attempt)(number, task) for number, task in tasks):
            results[number] = result
            display.advance(len(results))


def _attempt(number: int, task: Task) -> tuple[int, Any]:
    end_with_parent()
    try:
        return number, task.run()
    except OSError:
        raise  # A full disk is no fault of the figure.
    except Exception as error:
        return number, Failure((str(error).strip() or type(error).__name__).splitlines()[0])


def draw_plots(
    plots: Sequence[tuple[Plot, Path]], formats: Sequence[str], display: Display, workers: int | None = None
) -> dict[str, Drawn | Failure]:
    """Draw each figure into its folder, in each of the formats, and return it for the page, by name.

    Args:
        plots: figures with unique names, each with its folder.
        formats: some of `FORMATS`.
        display: shows the progress.
        workers: as in `run_tasks`.
    """
    tasks = [Task(plot.name, partial(_draw, plot, folder, tuple(formats))) for plot, folder in plots]
    results = run_tasks(tasks, "drawing figures", display, workers)
    return {task.name: result for task, result in zip(tasks, results, strict=True)}


def _draw(plot: Plot, folder: Path, formats: tuple[str, ...]) -> Drawn:
    figure = plot.draw()
    for form in formats:
        save(figure, folder / f"{plot.name}.{form}")
    width, height = figure.lay_out().size.tolist()
    if plot.vector:
        return Drawn(inline_svg(figure, f"figure-{plot.name}"), "", width, height)
    file = io.BytesIO()
    write(figure, file, "png")
    return Drawn("", base64.b64encode(file.getvalue()).decode(), width, height)
