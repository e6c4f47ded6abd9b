"""Models of a phase made to forget classes, and their way back: the pool that judges and selects exemplars."""

from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Float, Int

from mnemonics_jax.data.image_store import Samples
from mnemonics_jax.data.sampling import Balanced
from mnemonics_jax.exemplars.forgetting import ShortBatches, ShortProgram, lost_classes, train_short
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.nets.classifier import Classifier, Variables
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState
from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.random_streams import RandomStream, Use, generator, phase_streams

StepSizes = Float[np.ndarray, " steps"]


@dataclass(frozen=True, eq=False)
class Pool:
    """Forgetful models of one phase, by number. `batch` is the number of images of a step in every training here.

    `spared` are images that no training here may use.
    """

    setup: Setup
    state: PhaseState
    batch: int
    spared: Int[np.ndarray, " sample"]

    def lost(self, number: int) -> Int[np.ndarray, " lost"]:
        """Return the classes that model `number` is made to forget."""
        new = self.setup.stream.new_classes(int(self.state.phase))
        return lost_classes(new, new.start, number, generator(self.state.key, self._phase, Use.FORGET, number // 2))

    def forgetful(self, number: int, rates: StepSizes) -> Variables:
        """Return Θ_i made to forget new classes, by training on the others alone, with these step sizes.

        In the base phase it forgets one half of the classes; later all the new ones, trained on the old exemplars.
        """
        setup, state = self.setup, self.state
        data = setup.stream.train_indices(0) if self._phase == 0 else setup.first_slot + state.memory.slots()
        data = np.setdiff1d(data, self.spared)
        samples = setup.samples(state.memory, data)
        kept = data[~np.isin(samples.labels[data], self.lost(number))]
        return self._train(replace(samples, indices=kept), state.variables, rates, number, Use.FORGET)

    def replay(self, start: Variables, memory: Memory, number: int, rates: StepSizes) -> Variables:
        """Return a model trained on the exemplars of `memory` alone, all classes equally often, from `start`.

        The same `number` draws the same slots, crops and flips, whatever the memory.
        """
        samples = self.setup.samples(memory, self.setup.first_slot + memory.slots())
        return self._train(samples, start, rates, number, Use.REPLAY)

    @property
    def _phase(self) -> int:
        return int(self.state.phase)

    def _train(self, samples: Samples, start: Variables, rates: StepSizes, number: int, use: Use) -> Variables:
        setup, streams = self.setup, phase_streams(self.state.key, self._phase, number)
        batches = draw_batches(samples, streams(use).at(0), self.batch, rates)
        seen, frozen = setup.stream.masks(self._phase).seen, np.asarray(self._phase > 0)
        return train(setup, setup.net, start, seen, frozen, batches, streams(use).at(1).jax_key())


def train(setup: Setup, net: Classifier, start: Variables, *args: object) -> Variables:
    """Return the model of `train_short`, in host memory; `args` are its other arguments."""
    program = ShortProgram(net, setup.augmentation, setup.devices)
    start = setup.devices.put_whole(start)
    return jax.tree.map(np.asarray, lockstep.vmapped_call(train_short, program, start, *args))


def draw_batches(samples: Samples, stream: RandomStream, batch: int, rates: StepSizes) -> ShortBatches:
    """Return a batch for each of the step sizes; every class is drawn equally often."""
    batch = -(-batch // samples.store.devices.count) * samples.store.devices.count
    order = Balanced(samples.indices, samples.labels[samples.indices], stream, batch, len(rates))
    images, labels = next(samples.chunks(order, 0, len(rates)))
    return ShortBatches(images, labels, rates)
