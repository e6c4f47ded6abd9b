"""Head columns of classes to come: no training moves them, and each class starts its phase with a fresh one."""

import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.methods import METHODS
from mnemonics_jax.nets.heads import mask_head_updates
from mnemonics_jax.phase import model_level
from mnemonics_jax.phase.callbacks import NoCallbacks
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.state import initial_state


def test_updates_of_unseen_columns_and_their_biases_are_zero():
    updates = {"head": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4), "sigma": jnp.ones(())}, "backbone": {"w": 2.0}}
    masked = mask_head_updates(updates, jnp.array([True, False, True, False]))
    np.testing.assert_array_equal(masked["head"]["kernel"], [[1, 0, 1, 0]] * 3)
    np.testing.assert_array_equal(masked["head"]["bias"], [1, 0, 1, 0])
    assert masked["head"]["sigma"] == 1
    assert masked["backbone"] == {"w": 2.0}


@pytest.mark.parametrize("method", METHODS)
def test_each_phase_starts_new_classes_from_their_initial_columns(tiny, method, monkeypatch):
    setup = tiny.setup(method, "random", train={"epochs": 2})
    state, starts, run_chunks = initial_state(setup), [], model_level.run_chunks

    def noting(loop, *rest):
        starts.append(loop.start.params["head"])
        return run_chunks(loop, *rest)

    monkeypatch.setattr(model_level, "run_chunks", noting)
    initial = state.variables.params["head"]
    for phase in range(3):
        state = run_phase(setup, state, NoCallbacks())
        after, first = state.variables.params["head"], setup.stream.seen(phase)
        for name in {"kernel", "bias"} & set(initial):
            np.testing.assert_array_equal(after[name][..., first:], initial[name][..., first:])
            # Those of the classes seen have learned.
            new = list(setup.stream.new_classes(phase))
            assert (starts[phase][name][..., new] != after[name][..., new]).all()
            if not (METHODS[method].imprints and phase):
                np.testing.assert_array_equal(starts[phase][name][..., new], initial[name][..., new])
    assert (np.linalg.norm(starts[2]["kernel"], axis=0) > 0.1).all()


def test_the_model_of_the_phase_before_learns_new_classes_under_lucir(tiny):
    # The weight decay of these phases, about exp(−14) in all, would leave the columns of classes to come shorter than
    # 1e-6: there the column of a cosine head has neither a direction nor a gradient.
    training = {"weight_decay": 0.01, "epochs": 120, "milestones": (0.95,)}
    later = {"later_learning_rate": 0.01, "later_epochs": 4}
    inner = {"inner_init": "previous", "unroll_length": 50, "inner_learning_rate": 0.01, "inner_augment": False}
    setup = tiny.setup("lucir", "herding", train=training | later, exemplars={"per_class": 10, **inner})
    state = initial_state(setup)
    total = np.bincount(setup.stream.phase_of_class()[setup.stream.test_labels])
    for phase in range(6):
        state = run_phase(setup, state, NoCallbacks())
        assert 100 * state.num_correct_exemplar_model[phase, phase] / total[phase] > 35, phase
