"""The choice of a phase's exemplars among its real images."""

import numpy as np
from jaxtyping import Float, Int

from mnemonics_jax.exemplars import memory as memories
from mnemonics_jax.exemplars.forgetting import constant, decayed
from mnemonics_jax.exemplars.gradient_matching import Kernel, gradient_kernel, unit_variance
from mnemonics_jax.exemplars.herd import herd_classes
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.phase.callbacks import Callbacks
from mnemonics_jax.phase.evaluation import embed, unit
from mnemonics_jax.phase.forgetful import Pool
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState
from mnemonics_jax.runtime.random_streams import Use, generator

STEPS, BATCH = 60, 64
"""Training steps of each forgetting and of each way back; images of a step."""
_FORGET_RATE, _REPLAY_RATE = 0.05, 0.02
# Numbers 0 and 1 are the gate's models. Two splits of the base classes, and later two models that forget the new ones.
_BASE_POOL, _LATER_POOL = range(2, 6), range(2, 4)

Groups = dict[int, Int[np.ndarray, " image"]]


def choose_exemplars(setup: Setup, state: PhaseState, callbacks: Callbacks) -> PhaseState:
    """Return the state with its memory cut to the budget and real images of the new classes in it.

    The event `chosen` has the indices of these images, since exemplar learning replaces them.
    """
    stream, strategy, phase = setup.stream, setup.config.exemplars, int(state.phase)
    budget = strategy.budget(stream.seen(phase))
    state = state._replace(memory=memories.shrink(state.memory, budget))
    fresh = stream.train_indices(phase)
    labels = stream.train_labels[fresh]
    groups = {c: fresh[labels == c] for c in stream.new_classes(phase)}
    if strategy.needs_gradients:
        rows = _kernels(setup, state, groups, budget)
    elif strategy.needs_features:
        rows = _features(setup, state, groups)
    else:
        rows = [np.zeros((len(group), 0), np.float32) for group in groups.values()]
    picks = strategy.choose(rows, budget, _room(setup), generator(state.key, phase, Use.CHOOSE))
    chosen = {c: group[pick] for (c, group), pick in zip(groups.items(), picks, strict=True)}
    callbacks.event("chosen", phase, images=[index.tolist() for index in chosen.values()])
    return state._replace(memory=_stored(setup, state, chosen))


def _room(setup: Setup) -> int:
    return int(setup.stream.dataset.train_counts().max())


def _stored(setup: Setup, state: PhaseState, chosen: Groups) -> Memory:
    images = setup.stream.dataset.train_images
    return memories.add_classes(state.memory, {c: images[index] for c, index in chosen.items()})


def _features(setup: Setup, state: PhaseState, groups: Groups) -> list[Float[np.ndarray, "_ feature"]]:
    # With the memory behind the images, as everywhere: one program gathers them all.
    fresh = np.concatenate(list(groups.values()))
    store = setup.samples(state.memory, fresh).store
    features = embed(setup.net, setup.augmentation, state.variables, store, fresh).features
    return np.split(features, np.cumsum([len(group) for group in groups.values()])[:-1])


def _kernels(setup: Setup, state: PhaseState, groups: Groups, budget: int) -> list[Kernel]:
    """Return each class's kernel: of gradients and of unit features, with the same weight.

    Gradients are those at models that forgot the class, and at the same models after replay: that of herded exemplars,
    since the choice is still to be made.
    """
    features_now = _features(setup, state, groups)
    picks = herd_classes(features_now, budget, _room(setup))
    herded = {c: group[pick] for (c, group), pick in zip(groups.items(), picks, strict=True)}
    memory = _stored(setup, state, herded)
    pool = Pool(setup, state, BATCH, np.zeros(0, np.int64))
    kernels = {c: np.zeros((len(group), len(group))) for c, group in groups.items()}
    seen, cosine = setup.stream.masks(int(state.phase)).seen, setup.config.method.head == "cosine"
    for number in _LATER_POOL if state.phase else _BASE_POOL:
        model = pool.forgetful(number, constant(_FORGET_RATE, STEPS))
        # A single base class cannot be forgotten: its gradients are those of the model as it is.
        lost = pool.lost(number).tolist() or list(groups)
        index = np.concatenate([groups[c] for c in lost])
        ends = np.cumsum([len(groups[c]) for c in lost])[:-1]
        store = setup.samples(state.memory, index).store
        for variables in (model, pool.replay(model, memory, number, decayed(_REPLAY_RATE, STEPS))):
            logits, features = embed(setup.net, setup.augmentation, variables, store, index)
            parts = zip(lost, np.split(logits, ends), np.split(features, ends), strict=True)
            for c, some_logits, some_features in parts:
                kernels[c] += gradient_kernel(some_logits, some_features, c, seen, cosine=cosine)
    near = (unit(rows.astype(np.float64)) for rows in features_now)
    pairs = zip(kernels.values(), near, strict=True)
    return [unit_variance(kernel) + unit_variance(rows @ rows.T) for kernel, rows in pairs]
