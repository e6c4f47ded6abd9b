"""`Setup`: what the phases of a run share, checked as a whole before anything is trained."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, UInt8

from mnemonics_jax import data
from mnemonics_jax.config.config import Config
from mnemonics_jax.data.augmentation import Augmentation, augmentation
from mnemonics_jax.data.class_stream import Stream, make_stream
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.image_store import DeviceStore, ImageStore, Samples
from mnemonics_jax.data.lazy_images import LazyImages
from mnemonics_jax.data.packing import packed_bytes, through_packing
from mnemonics_jax.data.streamed_store import StreamedStore
from mnemonics_jax.exemplars.base import check_budget
from mnemonics_jax.exemplars.device_memory import group_size
from mnemonics_jax.exemplars.inner import InnerProgram
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.nets import build
from mnemonics_jax.nets.classifier import Classifier
from mnemonics_jax.phase.sizes import check_sizes
from mnemonics_jax.phase.training import TrainProgram
from mnemonics_jax.runtime.devices import Devices, all_devices
from mnemonics_jax.runtime.errors import UserError


@dataclass(frozen=True)
class Setup:
    """Data, network and settings that all phases of a run share. Samples are indexed as in `data.image_store`.

    `config` has what the settings leave to the device, the number of classes learned in one program, filled in.
    """

    config: Config
    stream: Stream
    net: Classifier
    augmentation: Augmentation
    train_store: ImageStore
    test_store: ImageStore
    devices: Devices

    @property
    def learns(self) -> bool:
        """Whether the run learns exemplars."""
        return self.config.method.uses_memory and self.config.exemplars.learns

    @property
    def group_classes(self) -> int | None:
        """Number of classes whose exemplars one program learns; None where one program learns all."""
        return self.config.exemplars.group_classes or None if self.learns else None

    @property
    def train_program(self) -> TrainProgram:
        """Static inputs of model-level training."""
        train, augmentation = self.config.train, self.augmentation
        if isinstance(self.stream.dataset.train_images, LazyImages):
            augmentation = replace(augmentation, resized_crop=False)  # the store has cropped, at full resolution
        return TrainProgram(
            self.net, self.config.method, augmentation, train.momentum, train.weight_decay, self.devices
        )

    @property
    def inner_program(self) -> InnerProgram:
        """Static inputs of the inner loop."""
        return InnerProgram(self.net, self.config.exemplars, self.augmentation, self.devices)

    @property
    def first_slot(self) -> int:
        """Index of the memory's first slot among the samples."""
        return len(self.stream.train_labels)

    def sample_labels(self, memory: Memory) -> Int32[np.ndarray, " sample"]:
        """Return the class position of every sample: the training images, then the memory's slots."""
        return np.concatenate([self.stream.train_labels, memory.labels()])

    def memory_bytes(self, memory: Memory) -> int:
        """Return the bytes that the exemplars in use take, in the form in which they are stored."""
        if not self.stream.dataset.packed:
            return memory.num_bytes
        return int(memory.counts.sum()) * packed_bytes(self.stream.dataset.image_shape)

    def as_stored(self, before: Memory, after: Memory) -> Memory:
        """Return the memory `after` learning as it can be stored; what has not changed since `before` stays."""
        if not self.stream.dataset.packed:
            return after
        changed = (after.images != before.images).any(axis=(2, 3, 4), keepdims=True)
        return after._replace(images=np.where(changed, through_packing(after.images), after.images))

    def samples(self, memory: Memory, indices: Int[np.ndarray, " sample"]) -> Samples:
        """Return the samples `indices` of the training images and the memory's slots, with their labels."""
        return Samples(self.train_store.with_exemplars(memory.images), indices, self.sample_labels(memory))


def make_setup(config: Config, load: data.Load = data.load, scratch: Path | None = None) -> Setup:
    """Load the data and check every setting against it; nothing is trained or compiled yet.

    Args:
        config: the configuration of the run.
        load: loads the data set.
        scratch: a folder for temporary files, which need not exist; without it they are in the system's.

    Raises:
        UserError: for anything that would make the run fail later.
    """
    config.validate()
    dataset = load(config.data)
    stream = make_stream(config.stream, dataset, config.seed)
    if config.method.uses_memory:
        check_budget(config.exemplars, stream.sizes, dataset.train_counts())
        if dataset.packed and config.exemplars.stored_dtype != np.uint8:
            raise UserError(
                "--exemplars.store float32 and --data.storage packed are two ways of storing exemplars: choose one"
            )
    check_sizes(config, stream)
    net = build(config.net, dataset.num_classes, config.method.head)
    devices = all_devices()
    devices.check("--train.batch-size", config.train.batch_size)
    if config.method.uses_memory and config.exemplars.learns:
        devices.check("--exemplars.outer-batch", config.exemplars.outer_batch)
        capacity = config.exemplars.capacity(stream.sizes[0])
        size = group_size(config.exemplars, net, stream.num_classes, capacity, dataset.image_shape)
        config = replace(config, exemplars=replace(config.exemplars, group_classes=size))
    return Setup(
        config=config,
        stream=stream,
        net=net,
        augmentation=augmentation(config.data, dataset),
        train_store=_store(config.data, dataset.train_images, devices, scratch),
        test_store=_store(config.data, dataset.test_images, devices, scratch),
        devices=devices,
    )


def _store(
    config: DataConfig, images: UInt8[np.ndarray, "..."] | LazyImages, devices: Devices, scratch: Path | None
) -> ImageStore:
    if isinstance(images, LazyImages):
        return StreamedStore(images, config.workers, config.resized_crop, devices, scratch)
    return DeviceStore(images, devices)
