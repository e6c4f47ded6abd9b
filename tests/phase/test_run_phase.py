"""`run_phase` on the digits: what it carries, what it stores, and that memory and labels matter."""

import jax
import numpy as np
import pytest

from mnemonics_jax.methods import METHODS
from mnemonics_jax.phase import model_level
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import initial_state


def run_phases(setup, count, state=None):
    """The states after each of the next `count` phases."""
    state, states = initial_state(setup) if state is None else state, []
    for _ in range(count):
        state = run_phase(setup, state, NoCallbacks())
        states.append(state)
    return states


def shapes(state):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name, type(leaf)), state)


def accuracy(setup, state, row, group):
    """Percentage of the test images of one phase's classes that Θ after phase `row` gets right."""
    total = (setup.stream.phase_of_class()[setup.stream.test_labels] == group).sum()
    return 100 * state.num_correct[row, group] / total


@pytest.mark.parametrize("method", METHODS)
def test_two_phases_of_every_method(tiny, method):
    setup = tiny.setup(method, "herding", stream={"phases": 1}, train={"epochs": 10})
    start = initial_state(setup)
    first, second = run_phases(setup, 2)
    assert shapes(first) == shapes(second) == shapes(start)
    assert (int(first.phase), int(second.phase)) == (1, 2)
    assert accuracy(setup, first, 0, 0) > 70
    assert accuracy(setup, second, 1, 1) > 40
    # Without memory, or with a plain classifier trained on 35 new images for each old one, the old classes may go.
    assert accuracy(setup, second, 1, 0) > (-1 if method in ("finetune", "lwf") else 20)
    np.testing.assert_array_equal(second.num_correct[0], first.num_correct[0])
    assert first.num_correct[1].tolist() == [-1, -1]
    for now, then in zip(jax.tree.leaves(second.previous), jax.tree.leaves(first.variables), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("kind", ["random", "herding", "mnemonics"])
def test_state_keeps_its_form_through_the_phases(tiny, kind):
    setup = tiny.setup("icarl", kind, train={"epochs": 1})
    start = initial_state(setup)
    states = run_phases(setup, 3)
    assert all(shapes(state) == shapes(start) for state in states)
    assert [int(state.memory.counts.sum()) for state in states] == [4 * setup.stream.seen(i) for i in range(3)]
    assert (states[-1].num_correct_exemplar_model[:3] >= 0).all()


@pytest.mark.parametrize("kind", ["random", "herding"])
def test_memory_holds_real_images_of_the_right_class(tiny, kind):
    setup = tiny.setup("icarl", kind, stream={"phases": 1}, train={"epochs": 1})
    stream, memory = setup.stream, run_phases(setup, 2)[-1].memory
    for position, label in enumerate(stream.order):
        real = {image.tobytes() for image in stream.dataset.train_images[stream.dataset.train_labels == label]}
        kept = [image.tobytes() for image in memory.images[position, : memory.counts[position]]]
        assert len(set(kept)) == 4
        assert set(kept) <= real


def test_learned_exemplars_start_from_herding_and_leave_it_for_new_classes_only(tiny):
    changes = {"stream": {"phases": 1}, "train": {"epochs": 1}}
    learned = run_phases(tiny.setup("icarl", "mnemonics", **changes), 2)
    herded = run_phases(tiny.setup("icarl", "herding", **changes), 1)
    change = np.abs(learned[0].memory.images[:5].astype(int) - herded[0].memory.images[:5])
    assert change.any(axis=(2, 3, 4)).all()
    # Six steps of at most β each.
    assert change.max() <= 6 * 0.02 * 255 + 1
    np.testing.assert_array_equal(learned[1].memory.images[:5], learned[0].memory.images[:5])


@pytest.fixture(scope="module")
def lwf(tiny):
    """A setup and its state after the base phase."""
    setup = tiny.setup("lwf", "herding", stream={"phases": 1}, train={"epochs": 12}, exemplars={"per_class": 40})
    return setup, run_phases(setup, 1)[0]


def old_accuracy(lwf, state):
    setup, _ = lwf
    return accuracy(setup, run_phases(setup, 1, state)[0], 1, 0)


@pytest.fixture(scope="module")
def intact(lwf):
    return old_accuracy(lwf, lwf[1])


def test_a_zeroed_memory_is_noticed(lwf, intact):
    memory = lwf[1].memory
    broken = memory._replace(images=np.zeros_like(memory.images))
    assert old_accuracy(lwf, lwf[1]._replace(memory=broken)) < intact - 10


def test_exemplars_under_wrong_labels_are_noticed(lwf, intact):
    memory = lwf[1].memory
    images = memory.images.copy()
    images[:5] = np.roll(images[:5], 1, axis=0)
    assert old_accuracy(lwf, lwf[1]._replace(memory=memory._replace(images=images))) < intact - 10


def test_a_wrong_label_map_is_noticed(lwf, intact, monkeypatch):
    original = Setup.sample_labels

    def rotated(self, memory):
        labels = original(self, memory)
        return np.where(labels < 5, (labels + 1) % 5, labels).astype(np.int32)

    monkeypatch.setattr(Setup, "sample_labels", rotated)
    assert old_accuracy(lwf, lwf[1]) < intact - 10


@pytest.mark.parametrize("kind", ["random", "mnemonics"])
def test_bic_holds_out_a_balanced_set_and_never_trains_on_it(tiny, monkeypatch, kind):
    """The exemplars in it are those of the memory, learned where the memory's are."""
    setup = tiny.setup("bic", kind, train={"epochs": 1})
    trained, measured = [], []
    run_chunks, embed = model_level.run_chunks, model_level.embed

    def noting(loop, *rest):
        trained.append(loop.samples.indices)
        return run_chunks(loop, *rest)

    monkeypatch.setattr(model_level, "run_chunks", noting)
    monkeypatch.setattr(model_level, "embed", lambda *args: measured.append(args) or embed(*args))
    state = run_phases(setup, 1)[0]
    assert len(trained[0]) == len(setup.stream.train_indices(0)), "the base phase holds nothing out"
    measured.clear()
    run_phases(setup, 1, state)
    held = measured[0][4]
    exemplar = held[held >= setup.first_slot][:1]
    slots = state.memory.images.reshape(-1, *state.memory.images.shape[2:])
    np.testing.assert_array_equal(measured[0][3].gather(exemplar), slots[exemplar - setup.first_slot])
    labels = setup.sample_labels(state.memory)[held]
    np.testing.assert_array_equal(np.bincount(labels, minlength=10), [1] * 6 + [0] * 4)
    assert len(np.unique(held)) == len(held)
    assert not np.intersect1d(held, trained[1]).size
    everything = np.concatenate([setup.stream.train_indices(1), setup.first_slot + state.memory.slots()])
    np.testing.assert_array_equal(np.sort(np.concatenate([held, trained[1]])), np.sort(everything))


def test_bic_corrects_each_phases_classes_once(tiny):
    states = run_phases(tiny.setup("bic", "random", train={"epochs": 4}), 3)
    for state in states:
        seen = 4 + int(state.phase)
        np.testing.assert_array_equal(state.correction.scale[:5], 1)
        np.testing.assert_array_equal(state.correction.shift[:5], 0)
        np.testing.assert_array_equal(state.correction.scale[seen:], 1)
        np.testing.assert_array_equal(state.correction.shift[seen:], 0)
    for phase in (1, 2):
        assert states[phase].correction.scale[4 + phase] != 1
        assert states[phase].correction.shift[4 + phase] != 0
    assert states[2].correction.scale[5] == states[1].correction.scale[5]
    assert states[2].correction.shift[5] == states[1].correction.shift[5]


def test_a_fixed_total_shrinks_to_the_first_of_each_class(tiny):
    setup = tiny.setup("icarl", "herding", exemplars={"total": 20}, stream={"phases": 1}, train={"epochs": 1})
    first, second = (state.memory for state in run_phases(setup, 2))
    assert first.counts.tolist() == [4] * 5 + [0] * 5
    assert second.counts.tolist() == [2] * 10
    assert first.num_bytes == second.num_bytes == 20 * 64
    np.testing.assert_array_equal(second.images[:5, :2], first.images[:5, :2])
    assert not second.images[:, 2:].any()


@pytest.mark.parametrize(("later", "moves"), [(None, True), (1e-12, False)])
def test_later_phases_have_a_step_size_of_their_own(tiny, later, moves):
    setup = tiny.setup("icarl", "herding", train={"later_learning_rate": later})
    first = run_phase(setup, initial_state(setup), NoCallbacks())
    second = run_phase(setup, first, NoCallbacks())
    pairs = zip(jax.tree.leaves(first.variables.params), jax.tree.leaves(second.variables.params), strict=True)
    assert (max(float(np.abs(a - b).max()) for a, b in pairs) > 1e-3) == moves
    assert any(
        (a != b).any()
        for a, b in zip(*(jax.tree.leaves(s.variables.params) for s in (initial_state(setup), first)), strict=True)
    )


def test_later_phases_have_epochs_of_their_own(tiny):
    steps = []

    class Counting(NoCallbacks):
        def advance(self, done, **values):
            if "epoch" in values:
                steps.append((values["epoch"], done))

    setup = tiny.setup("icarl", "herding", train={"epochs": 3, "later_epochs": 1})
    state = initial_state(setup)
    for phase, epochs in ((0, 3), (1, 1)):
        samples = len(setup.stream.train_indices(phase)) + int(state.memory.counts.sum())
        state = run_phase(setup, state, Counting())
        assert steps[-1] == (epochs, epochs * -(-samples // 64))
