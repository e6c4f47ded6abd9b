"""What a run is made of: `Setup`, which its phases share, and `PhaseState`, which one phase hands to the next."""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8, UInt32

from mnemonics_jax import data
from mnemonics_jax.config import Config
from mnemonics_jax.data.augment import Augmentation, augmentation
from mnemonics_jax.data.batches import DeviceStore, Store
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.pictures import Pictures
from mnemonics_jax.data.streaming import StreamedStore
from mnemonics_jax.devices import Devices, all_devices
from mnemonics_jax.exemplars import memory as memories
from mnemonics_jax.exemplars.base import check_budget
from mnemonics_jax.exemplars.groups import group_size
from mnemonics_jax.exemplars.inner import InnerProgram
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.methods import Bias
from mnemonics_jax.nets import build
from mnemonics_jax.nets.classifier import Classifier, Variables, init
from mnemonics_jax.rng import Key, Use, root_key, stream_key
from mnemonics_jax.stream import Stream, make_stream
from mnemonics_jax.training import TrainProgram


class PhaseState(NamedTuple):
    """All that one phase hands to the next, in host memory, and exactly what a checkpoint holds.

    `phase` is the phase to run next; `variables` and `previous` are the last two models trained (at first, both the
    initial one); `log_rates` are the logarithms of the inner loop's step sizes. `right[i, g]` and
    `right_exemplar_model[i, g]` count the test images of phase g's classes that Θ_i and Θ_i^E got right; −1 where not
    measured.
    """

    phase: Int32[np.ndarray, ""]
    variables: Variables
    previous: Variables
    memory: Memory
    log_rates: Float[np.ndarray, "steps"]
    bias: Bias
    key: Key
    right: Int32[np.ndarray, "phases groups"]
    right_exemplar_model: Int32[np.ndarray, "phases groups"]


@dataclass(frozen=True)
class Setup:
    """What all phases of a run share. Samples are indexed as in `data.batches`."""

    config: Config
    stream: Stream
    net: Classifier
    augmentation: Augmentation
    train_store: Store
    test_store: Store
    devices: Devices
    group_classes: int | None = None
    """New classes whose exemplars are learned together; None where all exemplars are in one program."""

    @property
    def train_program(self) -> TrainProgram:
        """The static half of model-level training."""
        train, augmentation = self.config.train, self.augmentation
        if isinstance(self.stream.dataset.train_images, Pictures):
            augmentation = replace(augmentation, resized_crop=False)  # the store has cropped, at full resolution
        return TrainProgram(
            self.net, self.config.method, augmentation, train.momentum, train.weight_decay, self.devices
        )

    @property
    def inner_program(self) -> InnerProgram:
        """The static half of the inner loop."""
        return InnerProgram(self.net, self.config.exemplars, self.augmentation, self.devices)

    @property
    def first_slot(self) -> int:
        """Index, among samples, of the memory's first slot."""
        return len(self.stream.train_labels)

    def sample_labels(self, memory: Memory) -> Int32[np.ndarray, "sample"]:
        """Class position of every sample: the training images, then the memory's slots."""
        return np.concatenate([self.stream.train_labels, memory.labels()])


def make_setup(config: Config, load: data.Load = data.load) -> Setup:
    """Loads the data, by `load`, and checks every setting against it; nothing is trained or compiled yet.

    Raises `UserError` for anything that would make the run fail later.
    """
    config.validate()
    dataset = load(config.data)
    stream = make_stream(config.stream, dataset, config.seed)
    if config.method.uses_memory:
        check_budget(config.exemplars, stream.sizes, dataset.train_counts())
    net = build(config.net, dataset.num_classes, config.method.head)
    devices = all_devices()
    devices.check("--train.batch-size", config.train.batch_size)
    group_classes = None
    if config.method.uses_memory and isinstance(config.exemplars, Mnemonics):
        devices.check("--exemplars.outer-batch", config.exemplars.outer_batch)
        capacity = config.exemplars.capacity(stream.sizes[0])
        group_classes = group_size(config.exemplars, net, stream.num_classes, capacity, dataset.image_shape)
        if group_classes is not None and config.exemplars.adjust:
            raise UserError(
                f"--exemplars.adjust needs all exemplars in one program, and the device holds those of {group_classes} "
                "classes at a time: leave it out, or keep fewer exemplars (--exemplars.per-class)"
            )
    return Setup(
        config=config,
        stream=stream,
        net=net,
        augmentation=augmentation(config.data, dataset),
        train_store=_store(config.data, dataset.train_images, devices),
        test_store=_store(config.data, dataset.test_images, devices),
        devices=devices,
        group_classes=group_classes,
    )


def _store(config: DataConfig, images: UInt8[np.ndarray, "..."] | Pictures, devices: Devices) -> Store:
    if isinstance(images, Pictures):
        return StreamedStore(images, config.workers, config.resized_crop, devices)
    return DeviceStore(images, devices)


def initial_state(setup: Setup) -> PhaseState:
    """The state before phase 0."""
    stream, settings = setup.stream, setup.config.exemplars
    classes, phases, shape = stream.num_classes, stream.num_phases, stream.dataset.image_shape
    key = root_key(setup.config.seed)
    variables = jax.tree.map(np.asarray, _init(setup.net, shape, stream_key(key, 0, Use.INIT)))
    capacity = settings.capacity(stream.sizes[0]) if setup.config.method.uses_memory else 1
    unmeasured = np.full((phases, phases), -1, np.int32)
    return PhaseState(
        phase=np.asarray(0, np.int32),
        variables=variables,
        previous=variables,
        memory=memories.empty(classes, capacity, shape, settings.stored_dtype),
        log_rates=np.full(max(settings.unroll_length, 1), np.log(settings.inner_learning_rate), np.float32),
        bias=Bias(np.ones(classes, np.float32), np.zeros(classes, np.float32)),
        key=key,
        right=unmeasured,
        right_exemplar_model=unmeasured,
    )


@partial(jax.jit, static_argnums=(0, 1))
def _init(net: Classifier, image_shape: tuple[int, int, int], key: UInt32[Array | np.ndarray, "2"]) -> Variables:
    return init(net, jax.random.wrap_key_data(key), image_shape)
