"""The data of figures about one finished run: computed from its checkpoints, its data set and its log."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from mnemonics_jax import data
from mnemonics_jax.config.parsing import read_config
from mnemonics_jax.phase.evaluation import embed, predict
from mnemonics_jax.phase.setup import Setup, make_setup
from mnemonics_jax.phase.state import PhaseState, initial_state
from mnemonics_jax.reports.figures import Confusion
from mnemonics_jax.reports.finished_runs import FinishedRun
from mnemonics_jax.runs.checkpoint import CheckpointFolder
from mnemonics_jax.runtime.errors import UserError

_EMBEDDED = 400
"""Number of images in a snapshot: enough to show where classes lie, few enough for t-SNE to take seconds."""
_EMBEDDED_CLASSES = 10
_GRID_CLASSES = 6
_GRID_EXEMPLARS = 5


class Snapshot(NamedTuple):
    """Features of training images and of exemplars after a phase. Labels index `FigureData.embedded_classes`."""

    phase: int
    data: Float[np.ndarray, "image feature"]
    data_labels: Int[np.ndarray, " image"]
    exemplars: Float[np.ndarray, "exemplar feature"]
    exemplar_labels: Int[np.ndarray, " exemplar"]


@dataclass(frozen=True)
class FigureData:
    """The data of one run's figures. A field is None if the run lacks it; `missing` says why."""

    confusion: Confusion
    embedded_classes: tuple[str, ...]
    """Names of the classes in `snapshots`."""
    snapshots: tuple[Snapshot, ...]
    """Features after phase 1 and after the last phase; only the last if phase 1 is the last or its checkpoint is
    missing.
    """
    exemplar_classes: tuple[str, ...]
    """Names of the classes in `exemplars` and `starts`."""
    exemplars: Shaped[np.ndarray, "classes exemplar height width channel"] | None
    """Some exemplars after the last phase."""
    starts: Shaped[np.ndarray, "classes exemplar height width channel"] | None
    """The real images from which learning started, one for each of `exemplars`."""
    missing: tuple[str, ...]


def load_figure_data(run: FinishedRun, load: data.Load = data.load) -> FigureData:
    """Return the figure data of a run; `load` loads its data set.

    Raises:
        UserError: if the run's settings, its data or its last checkpoint cannot be read.
    """
    setup = make_setup(read_config(run.folder / "config.json"), load)
    like, last = initial_state(setup), setup.stream.num_phases - 1
    missing = []
    with CheckpointFolder(run.folder / "checkpoints", writes=False) as checkpoints:
        state = checkpoints.after(last, setup, like)
        states = {last: state}
        if last > 1:
            try:
                states = {1: checkpoints.after(1, setup, like), last: state}
            except UserError as error:
                missing.append(f"no features after phase 1: {error}")
    confusion = _confusion(setup, last, state)
    shown = spread(setup.stream.num_classes, _EMBEDDED_CLASSES)
    snapshots = tuple(_snapshot(setup, phase, states[phase], shown) for phase in states)
    exemplar_classes = spread(setup.stream.num_classes, _GRID_CLASSES)
    exemplars = starts = None
    if setup.config.method.uses_memory:
        amount = min(int(state.memory.counts.min()), _GRID_EXEMPLARS)
        exemplars = state.memory.images[exemplar_classes, :amount]
        starts = _starting_images(setup, run.named("chosen"), exemplar_classes, amount)
        if starts is None:
            missing.append("the log does not name the images from which the exemplars were learned")
    return FigureData(
        confusion,
        _names(setup, shown),
        snapshots,
        _names(setup, exemplar_classes),
        exemplars,
        starts,
        tuple(missing),
    )


def spread(classes: int, most: int) -> Int[np.ndarray, " shown"]:
    """Return the positions of at most `most` of `classes` classes, evenly spaced over the class order."""
    return np.unique(np.linspace(0, classes - 1, min(classes, most)).round().astype(int))


def _names(setup: Setup, positions: Int[np.ndarray, " shown"]) -> tuple[str, ...]:
    return tuple(setup.stream.dataset.class_names[label] for label in setup.stream.order[positions])


def _confusion(setup: Setup, phase: int, state: PhaseState) -> Confusion:
    stream = setup.stream
    counts = np.zeros((stream.num_classes, stream.num_classes), np.int64)
    guesses = predict(setup, phase, state.memory, state.variables, state.correction)
    np.add.at(counts, (stream.test_labels[stream.test_indices(phase)], guesses), 1)
    return Confusion(counts, _names(setup, np.arange(stream.num_classes)), stream.sizes)


def _snapshot(setup: Setup, phase: int, state: PhaseState, shown: Int[np.ndarray, " shown"]) -> Snapshot:
    stream = setup.stream
    seen = shown[shown < stream.seen(phase)]
    each = max(_EMBEDDED // len(shown), 1)
    images = [np.flatnonzero(stream.train_labels == position) for position in seen]
    images = [index[spread(len(index), each)] for index in images]
    store = setup.train_store.with_exemplars(state.memory.images)
    slots = state.memory.slots()
    kept = state.memory.labels()[slots]
    slots, kept = slots[np.isin(kept, seen)], kept[np.isin(kept, seen)]
    data = embed(setup.net, setup.augmentation, state.variables, store, np.concatenate(images)).features
    exemplars = np.zeros((0, data.shape[1]), np.float32)
    if len(slots):
        index = setup.first_slot + slots
        exemplars = embed(setup.net, setup.augmentation, state.variables, store, index).features
    labels = np.repeat(np.arange(len(seen)), [len(index) for index in images])
    return Snapshot(phase, data, labels, exemplars, np.searchsorted(shown, kept))


def _starting_images(
    setup: Setup, events: list[dict[str, Any]], positions: Int[np.ndarray, " shown"], amount: int
) -> Shaped[np.ndarray, "classes exemplar height width channel"] | None:
    """Return the first `amount` images chosen of each class, as the log names them.

    Return None if the log names none, or images that do not exist.
    """
    stream = setup.stream
    chosen = {event["phase"]: event.get("images") for event in events}
    phases = stream.phase_of_class()[positions].tolist()
    within = [position - stream.new_classes(phase).start for position, phase in zip(positions, phases, strict=True)]
    try:
        index = np.array([chosen[phase][place][:amount] for phase, place in zip(phases, within, strict=True)])
        if index.dtype.kind != "i" or (stream.train_labels[index] != positions[:, None]).any():
            return None
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return stream.dataset.train_images[index]
