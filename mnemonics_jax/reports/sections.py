"""The sections of report.html with figures: each function returns parts of the page, with figures still to be drawn."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mnemonics_jax.reports import figures
from mnemonics_jax.reports.figure_data import FigureData
from mnemonics_jax.reports.finished_runs import FinishedRun, number, numbers
from mnemonics_jax.reports.parts import Folded, Paragraph, Part, Plot, note, plain_table
from mnemonics_jax.reports.statistics import Arm

_ABREAST = 3
"""Most arms side by side in a figure."""


class Side(NamedTuple):
    """An arm, its run for figures of a single run, and the figure data of that run.

    If the figure data could not be loaded, `data` is None and `problem` says why. `clouds` are the planes of the run's
    snapshots, None for one that could not be drawn; the tuple is empty where none were asked for.
    """

    arm: Arm
    run: FinishedRun
    data: FigureData | None
    problem: str
    clouds: tuple[figures.Cloud | None, ...] = ()
    cloud_problems: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """The seed of the shown run."""
        return self.run.summary["seed"]


Make = Callable[[Sequence[Side]], list[Part]]


def forgetting(sides: Sequence[Side]) -> list[Part]:
    """Draw heat maps of the phase × class-group matrix, means over class orders, one figure for each method."""
    lead = (
        "Down a column: the accuracy on the classes of one phase, after that phase and each later one. Above each map, "
        "in points: what the first column loses from top to bottom (base classes), what the columns but the last lose "
        "from their best earlier value to the bottom (average), and the bottom minus the diagonal (backward transfer)."
    )
    parts: list[Part] = [Paragraph(lead)]
    matrices = {side.arm.label: _matrices(side.arm) for side in sides}
    lowest = min((float(np.nanmin(matrix.mean(axis=0))) for matrix in matrices.values()), default=0.0) // 10 * 10
    for method, group in _by_method(sides):
        draw = partial(figures.group_accuracy, {side.arm.label: matrices[side.arm.label] for side in group}, lowest)
        alt = f"Heat maps for {method}: accuracy of each class group after each phase"
        parts.append(Plot(file_name("forgetting", method), alt, f"{method}: means over class orders.", draw))
    return parts


def confusions(sides: Sequence[Side]) -> list[Part]:
    """Draw confusion matrices after the last phase, one figure for each method."""
    parts: list[Part] = []
    for method, group in _by_method(sides):
        found = {side.arm.label: side.data.confusion for side in group if side.data}
        if found:
            alt = f"Confusion matrices for {method}, classes in order of arrival, with lines where phases begin"
            caption = f"{method}, seed {group[0].seed}, after the last phase."
            draw = partial(figures.confusion_matrices, found)
            parts.append(Plot(file_name("confusion", method), alt, caption, draw))
    return [*parts, *_problems(sides)]


def exemplars(sides: Sequence[Side]) -> list[Part]:
    """Draw exemplars by kind side by side, and learned exemplars beside the images they started from."""
    parts: list[Part] = []
    for method, group in _by_method(sides):
        shown = [side for side in group if side.data and side.data.exemplars is not None and _drawable(side)]
        for row, (abreast, names) in enumerate(_abreast(shown, lambda side: side.data.exemplar_classes)):
            kinds = {str(side.arm.exemplars): side.data.exemplars for side in abreast}
            draw = partial(figures.exemplar_kinds, kinds, names)
            alt = f"Exemplars of {len(names)} classes for {method}, one block of images for each exemplar kind"
            caption = f"{method}, seed {abreast[0].seed}: exemplars after the last phase."
            parts.append(Plot(file_name("exemplars", method, row), alt, caption, draw, vector=False))
        for side in shown:
            starts, learned = side.data.starts, side.data.exemplars
            if starts is None or not (_unit(starts) != _unit(learned)).any():
                continue
            scale = figures.difference_scale(starts, learned)
            draw = partial(figures.exemplar_comparison, starts, learned, side.data.exemplar_classes)
            alt = f"Exemplars of {side.arm.label}: the real images they started from, as learned, and the difference"
            caption = f"{side.arm.label}, seed {side.seed}: before and after; the difference is multiplied by {scale}."
            parts.append(Plot(file_name("learned", side.arm.label), alt, caption, draw, vector=False))
    lacking = [f"{side.arm.label}: {text}." for side in sides if side.data for text in side.data.missing]
    without = [side.arm.label for side in sides if side.arm.exemplars is None]
    notes = [note(text) for text in lacking]
    if without:
        notes.append(note(f"Not shown, because they have no exemplars: {', '.join(without)}."))
    return [*parts, *notes, *_problems(sides)]


def features(sides: Sequence[Side]) -> list[Part]:
    """Draw t-SNE of features with exemplars marked: an early phase above the last, exemplar kinds side by side."""
    parts: list[Part] = []
    for method, group in _by_method(sides):
        shown = [side for side in group if any(side.clouds)]
        for row, (abreast, names) in enumerate(_abreast(shown, lambda side: side.data.embedded_classes)):
            # If an early phase is missing, its place stays empty, so that the last phases are side by side.
            rows = max(len(side.clouds) for side in abreast)
            columns = [(None,) * (rows - len(side.clouds)) + side.clouds for side in abreast]
            draw = partial(figures.tsne_panel, list(zip(*columns, strict=True)), names)
            alt = f"Points in the plane for {method}: images of each class, and exemplars among them"
            caption = f"{method}, seed {abreast[0].seed}."
            parts.append(Plot(file_name("tsne", method, row), alt, caption, draw, vector=False))
    lead = Paragraph(
        "t-SNE of unit features: training images light, exemplars dark and edged. Each plane is fitted by itself, so "
        "which points are neighbours can be compared between planes; places and distances cannot."
    )
    failed = [note(f"Not drawn: {text}") for side in sides for text in side.cloud_problems]
    return [*([lead] if parts else []), *parts, *failed, *_problems(sides)]


def learning(sides: Sequence[Side]) -> list[Part]:
    """Draw the outer loss of exemplar learning, and list what learning changed in each phase."""
    logged = {side.arm.label: side.run.outer_losses() for side in sides}
    logged = {label: lines for label, lines in logged.items() if lines}
    parts: list[Part] = []
    if logged:
        alt = "Lines of the outer loss against outer steps, one for each phase"
        caption = "Outer loss on the drawn batches, mean over each compiled chunk of outer steps."
        parts.append(Plot("outer_loss", alt, caption, partial(figures.outer_loss_curves, logged)))
    rows = [
        [side.arm.label, str(event["phase"]), name, *(f"{number(event, key):.4g}" for key in _LEARNED)]
        for side in sides
        for name in ("exemplars", "adjusting")
        for event in side.run.named(name)
    ]
    if rows:
        columns = ["arm", "phase", "stage", *_LEARNED.values()]
        caption = "Outer loss on a fixed set of batches; pixel change in units of the pixel range"
        parts.append(Folded("What learning did, phase by phase", plain_table(columns, rows, caption, words=3)))
    if judged := [row for side in sides for row in _gate_rows(side)]:
        caption = (
            "The gate: percent of held-out real images that models made to forget classify correctly after training on "
            "the exemplars, and the share of the learned change that was kept"
        )
        columns = ["arm", "phase", "real images", "best change", "told apart", "kept"]
        parts.append(Folded("What the gate let through", plain_table(columns, judged, caption, words=1)))
    return parts or [note("No run of this report has logged exemplar learning.")]


def _gate_rows(side: Side) -> Iterator[list[str]]:
    """Yield a row for each decision of the gate: scores of the real images and of the best candidate, and the share."""
    for event in side.run.named("gate"):
        scores, told = numbers(event, "scores"), numbers(event, "tell_apart")
        pair = [f"{scores[0]:.1f}", f"{max(scores[1:]):.1f}"] if len(scores) > 1 else ["–", "–"]
        last = f"{told[-1]:.0f}" if told else "–"
        yield [side.arm.label, str(event["phase"]), *pair, last, f"{number(event, 'share'):.0%}"]


def training(sides: Sequence[Side]) -> list[Part]:
    """Draw training loss and accuracy, one figure for each method."""
    parts: list[Part] = []
    for method, group in _by_method(sides):
        logged = {side.arm.label: side.run.training() for side in group}
        logged = {label: run for label, run in logged.items() if run}
        if logged:
            alt = f"Lines of training loss and training accuracy by epoch for {method}"
            draw = partial(figures.training_curves, logged)
            parts.append(Plot(file_name("training", method), alt, f"{method}, seed {group[0].seed}.", draw))
    return parts or [note("No run of this report has a metrics.jsonl that can be read.")]


_LEARNED = {
    "outer_loss_before": "outer loss before",
    "outer_loss_after": "after",
    "pixel_change": "pixel change",
    "gradient_norm": "gradient norm",
}
SECTIONS: dict[str, Make] = {
    "Forgetting by class group": forgetting,
    "Confusions": confusions,
    "Exemplars": exemplars,
    "Features": features,
    "Exemplar learning": learning,
    "Training": training,
}


def _by_method(sides: Sequence[Side]) -> Iterator[tuple[str, list[Side]]]:
    """Yield each method with its sides. Arms are sorted by method already."""
    for method, group in groupby(sides, key=lambda side: side.arm.method):
        yield method, list(group)


def _abreast(
    sides: Sequence[Side], classes: Callable[[Side], tuple[str, ...]]
) -> Iterator[tuple[Sequence[Side], tuple[str, ...]]]:
    """Yield the sides of each figure and the classes it shows.

    A figure holds as many sides as fit, all with the same classes.
    """
    for names in dict.fromkeys(map(classes, sides)):
        alike = [side for side in sides if classes(side) == names]
        for start in range(0, len(alike), _ABREAST):
            yield alike[start : start + _ABREAST], names


def file_name(figure: str, name: str, number: int = 0) -> str:
    """Return the name of a figure's files, without spaces and other characters that a shell or a browser changes."""
    safe = re.sub(r"[^A-Za-z0-9_.=+]+", "-", name).strip("-.")[:100]
    return f"{figure}-{safe or 'other'}{f'-{number}' if number else ''}"


def _problems(sides: Sequence[Side]) -> list[Part]:
    return [note(f"Left out: {side.problem}") for side in sides if side.problem]


def _matrices(arm: Arm) -> Float[np.ndarray, "orders phases groups"]:
    matrices = [
        np.array([[np.nan if value is None else value for value in row] for row in run["accuracy_matrix"]], np.float64)
        for run in arm.runs
    ]
    return np.stack([matrix for matrix in matrices if matrix.shape == matrices[0].shape])


def _drawable(side: Side) -> bool:
    return side.data.exemplars.shape[1] > 0 and side.data.exemplars.shape[-1] <= 3


def _unit(images: np.ndarray) -> np.ndarray:
    return images / np.float32(255) if images.dtype == np.uint8 else images
