"""The gate in a phase: judge learned exemplars against the real images they started from, while D_i is still there."""

from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Float, Int

from mnemonics_jax.exemplars import gate
from mnemonics_jax.exemplars.forgetting import constant, decayed
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.nets import NetConfig, build
from mnemonics_jax.nets.classifier import Classifier, Variables, init
from mnemonics_jax.phase.callbacks import Callbacks
from mnemonics_jax.phase.evaluation import embed
from mnemonics_jax.phase.forgetful import Pool, draw_batches, train
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState
from mnemonics_jax.runtime.random_streams import Use, generator, phase_streams

POOL, STEPS, BATCH = 2, 36, 32
"""Models that forget; training steps of each forgetting and each way back; images of a step."""
# With 0.05 and 0.02, later phases forget so much that no candidate comes back (photographs: 0 % for herded, random and
# spoilt exemplars alike). With these, herded exemplars of phase 1 reach 49 %, those farthest from the class mean 16 %.
_FORGET_RATE, _REPLAY_RATE = 0.02, 0.05
DISCRIMINATOR = NetConfig(widths=(8, 16))
_DISCRIMINATOR_RATE = 0.1
_init = jax.jit(init, static_argnums=(0, 2))


def judging_images(setup: Setup, state: PhaseState) -> Int[np.ndarray, " held"]:
    """Return the phase's images that the outer loss leaves to the gate; none without a gate."""
    fresh = setup.stream.train_indices(int(state.phase))
    if not setup.config.exemplars.gate:
        return fresh[:0]
    rng = generator(state.key, int(state.phase), Use.GATE_HOLDOUT)
    return gate.held_out(fresh, setup.stream.train_labels[fresh], rng)


def pass_gate(setup: Setup, state: PhaseState, learned: Memory, part: int, callbacks: Callbacks) -> Memory:
    """Return the exemplars to keep: those of `state`, the learned ones, or a mixture. The event `gate` has the figures.

    Args:
        setup: what the phases share.
        state: the state before learning.
        learned: the memory after it.
        part: number of the bilevel problem in its phase.
        callbacks: receives the event.
    """
    before, settings = state.memory, setup.config.exemplars
    if np.array_equal(before.images, learned.images):
        verdict, count = gate.Verdict(0.0, [], []), 0
    else:
        probe = Probe(setup, state, learned, part)
        threshold = settings.gate_tell_apart
        verdict, count = gate.decide(probe.scores(), probe.tell_apart, threshold), len(probe.judging)
    values = {"shares": list(gate.SHARES), "scores": verdict.scores, "tell_apart": verdict.tell_apart}
    callbacks.event("gate", int(state.phase), part=part, share=verdict.share, held_out=count, **values)
    return setup.as_stored(before, gate.candidate(before, learned, verdict.share))


@dataclass(frozen=True, eq=False)
class Probe:
    """The probe of replay for the candidates between the exemplars of `state` and `learned`."""

    setup: Setup
    state: PhaseState
    learned: Memory
    part: int

    @cached_property
    def changed(self) -> Int[np.ndarray, " slot"]:
        """Flat slots of the exemplars that learning has changed."""
        axes = tuple(range(2, self.learned.images.ndim))
        return np.flatnonzero((self.learned.images != self.state.memory.images).any(axis=axes))

    @cached_property
    def judging(self) -> Int[np.ndarray, " held"]:
        """Held-out images of the classes whose exemplars were learned, without those that learning started from."""
        stream, memory = self.setup.stream, self.state.memory
        held = judging_images(self.setup, self.state)
        held = held[np.isin(stream.train_labels[held], memory.labels()[self.changed])]
        images = stream.dataset.train_images[held]
        if memory.images.dtype != np.uint8:
            images = images / np.float32(255)
        starts = memory.images.reshape(-1, *memory.images.shape[2:])[memory.slots()]
        return held[~gate.equal_to_any(images, starts)]

    def candidate(self, index: int) -> Memory:
        """Return the exemplars of candidate `index`."""
        before = self.state.memory
        return self.setup.as_stored(before, gate.candidate(before, self.learned, gate.SHARES[index]))

    def scores(self) -> Float[np.ndarray, "candidate sample"]:
        """Return how many of the pool's models, as a share, classify each held-out image correctly."""
        stream, seen = self.setup.stream, self.setup.stream.masks(int(self.state.phase)).seen
        correct = np.zeros((len(gate.SHARES), len(self.judging)))
        if not len(self.judging):
            return correct
        labels = stream.train_labels[self.judging]
        pool = Pool(self.setup, self.state, BATCH, judging_images(self.setup, self.state))
        for number in range(POOL):
            forgetful = pool.forgetful(number, constant(_FORGET_RATE, STEPS))
            for index in range(len(gate.SHARES)):
                memory = self.candidate(index)
                model = pool.replay(forgetful, memory, number, decayed(_REPLAY_RATE, STEPS))
                logits = self._logits(self.setup.net, model, memory, self.judging)
                correct[index] += gate.hits(logits, labels, seen) / POOL
        return correct

    def tell_apart(self, index: int) -> float:
        """Return the accuracy of a small network that tells candidate `index` from real images of the same classes.

        It is trained on one half of both and tested on the other, and the other way round; both kinds count equally.
        """
        setup, state, memory = self.setup, self.state, self.candidate(index)
        rng = generator(state.key, int(state.phase), Use.TELL_APART, self.part)
        kinds = (self.judging, setup.first_slot + self.changed)
        halves = [[kind[half] for half in gate.folds(len(kind), rng)] for kind in kinds]
        if min(len(half) for halves_of in halves for half in halves_of) == 0:
            return 1.0
        net = build(DISCRIMINATOR, 2, "linear")
        labels = np.zeros(setup.first_slot + memory.images.shape[0] * memory.images.shape[1], np.int32)
        labels[setup.first_slot :] = 1
        accuracies = []
        for fold in (0, 1):
            streams = phase_streams(state.key, int(state.phase), 2 * self.part + fold)
            key = streams(Use.TELL_APART).at(1).jax_key()
            start = jax.tree.map(np.asarray, _init(net, key, memory.images.shape[2:]))
            samples = replace(setup.samples(memory, np.concatenate([half[fold] for half in halves])), labels=labels)
            batches = draw_batches(samples, streams(Use.TELL_APART).at(2), BATCH, decayed(_DISCRIMINATOR_RATE, STEPS))
            args = (np.ones(2, bool), np.asarray(False), batches, key)
            model = train(setup, net, start, *args)
            for kind, half in enumerate(halves):
                logits = self._logits(net, model, memory, half[1 - fold])
                accuracies.append((logits.argmax(axis=1) == kind).mean())
        return float(np.mean(accuracies))

    def _logits(
        self, net: Classifier, model: Variables, memory: Memory, index: Int[np.ndarray, " sample"]
    ) -> Float[np.ndarray, "sample classes"]:
        store = self.setup.samples(memory, index).store
        return embed(net, self.setup.augmentation, model, store, index).logits
