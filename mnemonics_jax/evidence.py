"""What figures show of a finished run beyond its summary: made of its checkpoints, its data and its log."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from mnemonics_jax.checkpoint import Checkpoints
from mnemonics_jax.config_file import read_config
from mnemonics_jax.errors import UserError
from mnemonics_jax.figures import Confusion
from mnemonics_jax.inference import embed, predict
from mnemonics_jax.records import Record
from mnemonics_jax.state import PhaseState, Setup, initial_state, make_setup

_EMBEDDED = 600
"""Images of a snapshot: enough to see where classes lie, few enough for t-SNE to take seconds."""
_EMBEDDED_CLASSES = 10
_PICTURED_CLASSES = 6
_PICTURES = 5


class Snapshot(NamedTuple):
    """Features after a phase, of training images and of exemplars; labels index `Evidence.embedded`."""

    phase: int
    data: Float[np.ndarray, "image feature"]
    data_labels: Int[np.ndarray, "image"]
    exemplars: Float[np.ndarray, "exemplar feature"]
    exemplar_labels: Int[np.ndarray, "exemplar"]


@dataclass(frozen=True)
class Evidence:
    """What one run's figures are made of; None for what the run lacks, of which `missing` tells."""

    confusion: Confusion
    embedded: tuple[str, ...]
    """Names of the classes in `snapshots`."""
    snapshots: tuple[Snapshot, ...]
    """An early phase (1) and the last; the last alone where there is no other, or its checkpoint is gone."""
    pictured: tuple[str, ...]
    """Names of the classes in `exemplars` and `starts`."""
    exemplars: Shaped[np.ndarray, "classes exemplar height width channel"] | None
    """Some exemplars as they are after the last phase."""
    starts: Shaped[np.ndarray, "classes exemplar height width channel"] | None
    """The real images that these began as."""
    missing: tuple[str, ...]


def gather(record: Record) -> Evidence:
    """The evidence of a run. Raises `UserError` when its settings, its data or its last checkpoint cannot be read."""
    setup = make_setup(read_config(record.folder / "config.json"))
    like, last = initial_state(setup), setup.stream.num_phases - 1
    missing = []
    with Checkpoints(record.folder / "checkpoints", writes=False) as checkpoints:
        state = checkpoints.after(last, setup, like)
        states = {last: state}
        if last > 1:
            try:
                states = {1: checkpoints.after(1, setup, like), last: state}
            except UserError as error:
                missing.append(f"no features after phase 1: {error}")
    setup.train_store.hold(state.memory.images)
    confusion = _confusion(setup, last, state)
    shown = spread(setup.stream.num_classes, _EMBEDDED_CLASSES)
    snapshots = tuple(_snapshot(setup, phase, states[phase], shown) for phase in states)
    pictured = spread(setup.stream.num_classes, _PICTURED_CLASSES)
    exemplars = starts = None
    if setup.config.method.uses_memory:
        amount = min(int(state.memory.counts.min()), _PICTURES)
        exemplars = state.memory.images[pictured, :amount]
        starts = _starting_images(setup, record.named("chosen"), pictured, amount)
        if starts is None:
            missing.append("the run does not tell which images its exemplars began as")
    return Evidence(
        confusion,
        _names(setup, shown),
        snapshots,
        _names(setup, pictured),
        exemplars,
        starts,
        tuple(missing),
    )


def spread(classes: int, most: int) -> Int[np.ndarray, "shown"]:
    """Positions of at most `most` classes, evenly over the order of arrival."""
    return np.unique(np.linspace(0, classes - 1, min(classes, most)).round().astype(int))


def _names(setup: Setup, positions: Int[np.ndarray, "shown"]) -> tuple[str, ...]:
    return tuple(setup.stream.dataset.class_names[label] for label in setup.stream.order[positions])


def _confusion(setup: Setup, phase: int, state: PhaseState) -> Confusion:
    stream = setup.stream
    counts = np.zeros((stream.num_classes, stream.num_classes), np.int64)
    guesses = predict(setup, phase, state.memory, state.variables, state.bias)
    np.add.at(counts, (stream.test_labels[stream.test_indices(phase)], guesses), 1)
    return Confusion(counts, _names(setup, np.arange(stream.num_classes)), stream.sizes)


def _snapshot(setup: Setup, phase: int, state: PhaseState, shown: Int[np.ndarray, "shown"]) -> Snapshot:
    stream = setup.stream
    seen = shown[shown < stream.seen(phase)]
    each = max(_EMBEDDED // len(shown), 1)
    images = [np.flatnonzero(stream.train_labels == position) for position in seen]
    images = [index[spread(len(index), each)] for index in images]
    setup.train_store.hold(state.memory.images)
    slots = state.memory.slots()
    kept = state.memory.labels()[slots]
    slots, kept = slots[np.isin(kept, seen)], kept[np.isin(kept, seen)]
    data = embed(setup.net, setup.augmentation, state.variables, setup.train_store, np.concatenate(images)).features
    exemplars = np.zeros((0, data.shape[1]), np.float32)
    if len(slots):
        index = setup.first_slot + slots
        exemplars = embed(setup.net, setup.augmentation, state.variables, setup.train_store, index).features
    labels = np.repeat(np.arange(len(seen)), [len(index) for index in images])
    return Snapshot(phase, data, labels, exemplars, np.searchsorted(shown, kept))


def _starting_images(
    setup: Setup, events: list[dict[str, Any]], positions: Int[np.ndarray, "shown"], amount: int
) -> Shaped[np.ndarray, "classes exemplar height width channel"] | None:
    """The first `amount` images chosen of each class, as the log names them; None where it names none that exist."""
    stream = setup.stream
    chosen = {event.get("phase"): event.get("images") for event in events}
    phases = stream.phase_of_class()[positions].tolist()
    within = [position - stream.new_classes(phase).start for position, phase in zip(positions, phases, strict=True)]
    try:
        index = np.array([chosen[phase][place][:amount] for phase, place in zip(phases, within, strict=True)])
        if index.dtype.kind != "i" or (stream.train_labels[index] != positions[:, None]).any():
            return None
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return stream.dataset.train_images[index]
