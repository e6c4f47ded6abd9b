"""A trained model at work: features and logits of many images, and the two prediction rules."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from mnemonics_jax import together
from mnemonics_jax.data.augment import Augmentation
from mnemonics_jax.data.batches import Store
from mnemonics_jax.devices import Devices
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.methods import Bias
from mnemonics_jax.nets.classifier import Classifier, Variables, apply
from mnemonics_jax.state import Setup

_BATCH = 256


class Embedding(NamedTuple):
    """Of n images: raw logits and features, float32 in host memory."""

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
    store: Store,
    index: Int[np.ndarray, "sample"],
    *,
    mirror: bool = False,
) -> Embedding:
    """Logits and features of the images `index` of `store`, of their mirror images with `mirror`."""
    devices = store.devices
    batch = -(-_BATCH // devices.count) * devices.count
    padded = np.append(index, np.zeros(-len(index) % batch, index.dtype)).reshape(-1, batch)
    variables = devices.put_whole(variables)
    static = (devices, net, augmentation, mirror)
    parts = [together.call(_embed, *static, variables, store.take(row), static=len(static)) for row in padded]
    logits, features = (np.concatenate([np.asarray(p[k]) for p in parts])[: len(index)] for k in (0, 1))
    return Embedding(logits, features)


def unit(features: Float[np.ndarray, "*sample feature"]) -> Float[np.ndarray, "*sample feature"]:
    """Each feature vector scaled to length one; zero stays zero."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def class_means(
    features: Float[np.ndarray, "sample feature"], labels: Int[np.ndarray, "sample"], num_classes: int
) -> Float[np.ndarray, "classes feature"]:
    """Mean unit feature of each class; zero for a class without samples."""
    means = np.zeros((num_classes, features.shape[1]), np.float32)
    np.add.at(means, labels, unit(features))
    return means / np.maximum(np.bincount(labels, minlength=num_classes), 1)[:, None]


def exemplar_means(
    net: Classifier, augmentation: Augmentation, variables: Variables, store: Store, offset: int, memory: Memory
) -> Float[np.ndarray, "classes feature"]:
    """iCaRL's prototypes: the class means of exemplars and, where images may be flipped, of their mirror images.

    `offset` is the index in `store` of the memory's first slot.
    """
    slots = memory.slots()
    labels = memory.labels()[slots]
    sides = (False, True) if augmentation.flip else (False,)
    means = [
        class_means(
            embed(net, augmentation, variables, store, offset + slots, mirror=side).features, labels, len(memory.counts)
        )
        for side in sides
    ]
    return np.mean(means, axis=0)


def by_classifier(embedding: Embedding, bias: Bias, seen: Bool[np.ndarray, "classes"]) -> Int[np.ndarray, "sample"]:
    """The seen class with the largest corrected logit."""
    return np.where(seen, bias.correct(embedding.logits), -np.inf).argmax(axis=1)


def by_nearest_mean(
    embedding: Embedding, means: Float[np.ndarray, "classes feature"], seen: Bool[np.ndarray, "classes"]
) -> Int[np.ndarray, "sample"]:
    """The seen class whose unit mean is nearest to the unit feature, that is, has the largest cosine with it."""
    return np.where(seen, unit(embedding.features) @ unit(means).T, -np.inf).argmax(axis=1)


def predict(setup: Setup, phase: int, memory: Memory, variables: Variables, bias: Bias) -> Int[np.ndarray, "sample"]:
    """The class position that the method's rule predicts for each test image of the classes seen by the end of `phase`.

    The train store has to hold the images of `memory`.
    """
    net, augmentation, stream = setup.net, setup.augmentation, setup.stream
    seen = stream.masks(phase).seen
    embedding = embed(net, augmentation, variables, setup.test_store, stream.test_indices(phase))
    if setup.config.method.predicts_by == "nearest_mean":
        means = exemplar_means(net, augmentation, variables, setup.train_store, setup.first_slot, memory)
        return by_nearest_mean(embedding, means, seen)
    return by_classifier(embedding, bias, seen)
