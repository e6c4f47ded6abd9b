"""Evaluation of a trained model: features, the two prediction rules, and the accuracies of a run."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped

from mnemonics_jax.data.augmentation import Augmentation
from mnemonics_jax.data.image_store import ImageStore
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.methods import LogitCorrection
from mnemonics_jax.nets.classifier import Classifier, Variables, apply
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState
from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.devices import Devices

_BATCH = 256


class Embedding(NamedTuple):
    """Uncorrected logits and features of n images, float32 in host memory."""

    logits: Float[np.ndarray, "sample classes"]
    features: Float[np.ndarray, "sample feature"]


@partial(jax.jit, static_argnames=("devices", "net", "augmentation", "mirror"))
def _embed(
    devices: Devices,
    net: Classifier,
    augmentation: Augmentation,
    mirror: bool,
    variables: Variables,
    images: Shaped[Array, "batch height width channel"],
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch feature"]]:
    outputs = apply(net, variables, augmentation.evaluate(images[:, :, ::-1] if mirror else images))
    return devices.keep_whole((outputs.logits, outputs.features))


def embed(
    net: Classifier,
    augmentation: Augmentation,
    variables: Variables,
    store: ImageStore,
    index: Int[np.ndarray, " sample"],
    *,
    mirror: bool = False,
) -> Embedding:
    """Return logits and features of some images of a store.

    Args:
        net: the network.
        augmentation: scales the images as evaluation does, without crops and flips.
        variables: parameters and running statistics.
        store: holds the images.
        index: which images of the store, in the order of the result.
        mirror: whether to take their mirror images instead.
    """
    devices = store.devices
    batch = -(-_BATCH // devices.count) * devices.count
    padded = np.append(index, np.zeros(-len(index) % batch, index.dtype)).reshape(-1, batch)
    variables = devices.put_whole(variables)
    static = (devices, net, augmentation, mirror)
    parts = [lockstep.vmapped_call(_embed, *static, variables, store.gather(row), static=len(static)) for row in padded]
    logits, features = (np.concatenate([np.asarray(p[k]) for p in parts])[: len(index)] for k in (0, 1))
    return Embedding(logits, features)


def unit(features: Float[np.ndarray, "*sample feature"]) -> Float[np.ndarray, "*sample feature"]:
    """Return each feature vector scaled to length one; a zero vector stays zero."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def class_means(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, " sample"], num_classes: int
) -> Float[np.ndarray, "classes feature"]:
    """Return the mean unit feature of each class; zero for a class without samples."""
    means = np.zeros((num_classes, features.shape[1]), np.float32)
    np.add.at(means, labels, unit(features))
    return means / np.maximum(np.bincount(labels, minlength=num_classes), 1)[:, None]


def exemplar_means(setup: Setup, memory: Memory, variables: Variables) -> Float[np.ndarray, "classes feature"]:
    """Return iCaRL's prototypes: the class means of exemplars and, where images may be flipped, of their mirrors."""
    slots = memory.slots()
    labels = memory.labels()[slots]
    store = setup.train_store.with_exemplars(memory.images)
    means = []
    for mirror in (False, True) if setup.augmentation.flip else (False,):
        index = setup.first_slot + slots
        features = embed(setup.net, setup.augmentation, variables, store, index, mirror=mirror).features
        means.append(class_means(features, labels, len(memory.counts)))
    return np.mean(means, axis=0)


def by_classifier(
    embedding: Embedding, correction: LogitCorrection, seen: Bool[np.ndarray, " classes"]
) -> Int[np.ndarray, " sample"]:
    """Return the seen class with the largest corrected logit."""
    return np.where(seen, correction.correct(embedding.logits), -np.inf).argmax(axis=1)


def by_nearest_mean(
    embedding: Embedding, means: Float[np.ndarray, "classes feature"], seen: Bool[np.ndarray, " classes"]
) -> Int[np.ndarray, " sample"]:
    """Return the seen class whose unit mean has the largest cosine with the feature, that is, is nearest to it."""
    return np.where(seen, unit(embedding.features) @ unit(means).T, -np.inf).argmax(axis=1)


def predict(
    setup: Setup, phase: int, memory: Memory, variables: Variables, correction: LogitCorrection
) -> Int[np.ndarray, " sample"]:
    """Return the class position that the method's rule predicts for each test image of the classes seen so far."""
    net, augmentation, stream = setup.net, setup.augmentation, setup.stream
    seen = stream.masks(phase).seen
    embedding = embed(net, augmentation, variables, setup.test_store, stream.test_indices(phase))
    if setup.config.method.predicts_by == "nearest_mean":
        means = exemplar_means(setup, memory, variables)
        return by_nearest_mean(embedding, means, seen)
    return by_classifier(embedding, correction, seen)


def evaluate_phase(setup: Setup, state: PhaseState, exemplar_model: Variables | None) -> PhaseState:
    """Return the state with the number of test images that Θ_i and Θ_i^E classify correctly.

    `exemplar_model` is Θ_i^E, None for methods without exemplars. It has seen every class equally, so it is evaluated
    without the logit correction, whose purpose is to remove a bias towards new classes.
    """
    phase = int(state.phase)

    def count(variables: Variables, correction: LogitCorrection) -> Int32[np.ndarray, " groups"]:
        labels = setup.stream.test_labels[setup.stream.test_indices(phase)]
        guesses = predict(setup, phase, state.memory, variables, correction)
        return count_correct(labels, guesses, setup.stream.phase_of_class())

    counts = _with_row(state.num_correct, phase, count(state.variables, state.correction))
    state = state._replace(num_correct=counts)
    if exemplar_model is None:
        return state
    none = LogitCorrection(np.ones_like(state.correction.scale), np.zeros_like(state.correction.shift))
    counts = _with_row(state.num_correct_exemplar_model, phase, count(exemplar_model, none))
    return state._replace(num_correct_exemplar_model=counts)


def _with_row(
    matrix: Int32[np.ndarray, "phases groups"], row: int, values: Int32[np.ndarray, " groups"]
) -> Int32[np.ndarray, "phases groups"]:
    changed = matrix.copy()
    changed[row] = values
    return changed


class Accuracies(NamedTuple):
    """Percentages, 0 to 100.

    `overall[i]` is A_i, over all classes seen after phase i; `matrix[i, g]` is over the classes that arrived in phase
    g, NaN for g > i.
    """

    overall: Float[np.ndarray, " phases"]
    matrix: Float[np.ndarray, "phases groups"]

    @property
    def average(self) -> float:
        """Mean of A_0 .. A_N."""
        return float(self.overall.mean())

    @property
    def forgetting(self) -> float:
        """F = a_{0,0} − a_{N,0}, in percentage points: what the base classes, those of phase 0, have lost in the end.

        Here a_{i,g} is `matrix[i, g]`, and phase N the last. Source: Liu et al., Mnemonics Training, CVPR 2020.
        """
        return float(self.matrix[0, 0] - self.matrix[-1, 0])

    @property
    def average_forgetting(self) -> float:
        """1/N Σ_{g<N} (max_{g≤l<N} a_{l,g} − a_{N,g}), in percentage points: best earlier minus final accuracy.

        The mean is over all class groups but the last, each with the same weight; 0 if there is no earlier group.
        Source: Chaudhry et al., Riemannian Walk for Incremental Learning, ECCV 2018.
        """
        last = len(self.matrix) - 1
        # Groups still to come are NaN, which fmax ignores.
        best = np.fmax.reduce(self.matrix[:last, :last], axis=0, initial=-np.inf)
        return _mean(best - self.matrix[last, :last])

    @property
    def backward_transfer(self) -> float:
        """1/N Σ_{g<N} (a_{N,g} − a_{g,g}), in percentage points: final accuracy minus that on arrival.

        The mean is over all class groups but the last, each with the same weight; 0 if there is no earlier group.
        Negative where later phases harm. Source: Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017.
        """
        last = len(self.matrix) - 1
        return _mean(self.matrix[last, :last] - self.matrix.diagonal()[:last])


def _mean(changes: Float[np.ndarray, " groups"]) -> float:
    return float(changes.mean()) if len(changes) else 0.0


def count_correct(
    labels: Int[np.ndarray, " sample"], guesses: Int[np.ndarray, " sample"], group_of_class: Int[np.ndarray, " classes"]
) -> Int32[np.ndarray, " groups"]:
    """Return the number of correct guesses among the samples of each class group."""
    hits = labels[labels == guesses]
    return np.bincount(group_of_class[hits], minlength=group_of_class.max() + 1).astype(np.int32)


def accuracies(
    num_correct: Int32[np.ndarray, "phases groups"],
    test_labels: Int[np.ndarray, " sample"],
    group_of_class: Int[np.ndarray, " classes"],
) -> Accuracies:
    """Return percentages from the numbers of correct guesses.

    Args:
        num_correct: correct guesses after each phase for the classes of each phase; the rows may be those of the
            finished phases only.
        test_labels: class positions of all test images.
        group_of_class: the phase in which each class arrives.
    """
    total = np.bincount(group_of_class[test_labels], minlength=num_correct.shape[1])
    seen = np.arange(num_correct.shape[1]) <= np.arange(len(num_correct))[:, None]
    overall = 100 * np.where(seen, num_correct, 0).sum(axis=1) / np.where(seen, total, 0).sum(axis=1)
    return Accuracies(overall, np.where(seen, 100 * num_correct / total, np.nan))
