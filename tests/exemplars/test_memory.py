"""The exemplar memory and its budgets."""

import numpy as np
import pytest

from mnemonics_jax.exemplars import EXEMPLARS, Herding, Mnemonics, Random, exemplar_class
from mnemonics_jax.exemplars.base import check_budget
from mnemonics_jax.exemplars.memory import add_classes, empty, shrink
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import check_ranges

SHAPE = (2, 3, 1)


def photos(amount, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (amount, *SHAPE)).astype(np.uint8)


def filled():
    """Four classes with room for three: three, one, none and two exemplars."""
    memory = empty(4, 3, SHAPE)
    for position, amount in ((0, 3), (3, 2), (1, 1)):
        memory = add_classes(memory, {position: photos(amount, position)})
    return memory


def test_an_empty_memory():
    memory = empty(4, 3, SHAPE)
    assert memory.images.shape == (4, 3, *SHAPE)
    assert memory.images.dtype == np.uint8
    assert memory.num_bytes == 0
    assert memory.slots().tolist() == []
    assert not memory.used.any()


def test_add_class_stores_in_its_first_slots():
    memory = filled()
    assert memory.counts.tolist() == [3, 1, 0, 2]
    for position, amount in enumerate([3, 1, 0, 2]):
        np.testing.assert_array_equal(memory.images[position, :amount], photos(amount, position))
        assert not memory.images[position, amount:].any()


def test_add_class_leaves_its_argument_alone():
    memory = empty(2, 3, SHAPE)
    add_classes(memory, {0: photos(2)})
    assert memory.num_bytes == 0
    assert not memory.images.any()


def test_slots_and_labels_name_the_same_images():
    memory = filled()
    assert memory.used.tolist() == [[True] * 3, [True, False, False], [False] * 3, [True, True, False]]
    assert memory.slots().tolist() == [0, 1, 2, 3, 9, 10]
    assert memory.labels().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert memory.labels()[memory.slots()].tolist() == [0, 0, 0, 1, 3, 3]
    flat = memory.images.reshape(-1, *SHAPE)
    np.testing.assert_array_equal(flat[memory.slots()][4:], photos(2, 3))


def test_shrink_cuts_every_class_to_a_prefix_and_clears_the_rest():
    memory = filled()
    small = shrink(memory, 2)
    assert small.counts.tolist() == [2, 1, 0, 2]
    assert small.counts.dtype == np.int32
    assert small.images.dtype == np.uint8
    np.testing.assert_array_equal(small.images[0, :2], memory.images[0, :2])
    assert not small.images[0, 2].any()
    np.testing.assert_array_equal(small.images[1:], memory.images[1:])
    assert memory.counts.tolist() == [3, 1, 0, 2]
    same = shrink(memory, 3)
    np.testing.assert_array_equal(same.images, memory.images)
    np.testing.assert_array_equal(same.counts, memory.counts)


@pytest.mark.parametrize(("dtype", "size"), [(np.uint8, 1), (np.float32, 4)])
def test_bytes_are_those_of_the_images_in_use(dtype, size):
    memory = empty(4, 3, SHAPE, dtype)
    memory = add_classes(memory, {0: photos(3), 2: photos(2)})
    assert memory.num_bytes == 5 * 2 * 3 * 1 * size
    assert shrink(memory, 1).num_bytes == 2 * 2 * 3 * 1 * size


def test_a_float_memory_keeps_pixels_in_the_unit_range():
    memory = add_classes(empty(2, 4, SHAPE, np.float32), {1: photos(3)})
    assert memory.images.dtype == np.float32
    np.testing.assert_allclose(memory.images[1, :3], photos(3).astype(np.float64) / 255, rtol=1e-6)
    assert shrink(memory, 2).images.dtype == np.float32


def test_a_fixed_budget_for_each_class():
    settings = Random(per_class=7)
    assert settings.capacity(50) == 7
    assert [settings.budget(seen) for seen in (1, 50, 100)] == [7, 7, 7]


def test_a_fixed_total_is_shared_out_and_shrinks():
    settings = Random(per_class=7, total=2000)
    assert settings.capacity(50) == 40
    assert [settings.budget(seen) for seen in (50, 60, 70, 100)] == [40, 33, 28, 20]
    memory = empty(6, Random(total=13).capacity(2), SHAPE)
    for first, seen in ((0, 2), (2, 4), (4, 6)):
        budget = Random(total=13).budget(seen)
        memory = shrink(memory, budget)
        for position in range(first, seen):
            memory = add_classes(memory, {position: photos(budget, position)})
        assert memory.counts.tolist() == [13 // seen] * seen + [0] * (6 - seen)
        assert memory.counts.sum() <= 13
    # The first of the six that class 0 once had.
    np.testing.assert_array_equal(memory.images[0, :2], photos(6, 0)[:2])


def test_what_a_kind_stores():
    assert Random().stored_dtype == Herding().stored_dtype == Mnemonics().stored_dtype == np.uint8
    assert Mnemonics(store="float32").stored_dtype == np.float32


SIZES, COUNTS = (4, 3, 3), np.array([30, 25, 60, 31, 32, 33, 34, 35, 36, 37])


@pytest.mark.parametrize("settings", [Random(per_class=25), Random(total=100), Random(total=10)])
def test_budgets_that_fit(settings):
    check_budget(settings, SIZES, COUNTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            Random(per_class=26),
            "--exemplars.per-class 26 asks for 26 exemplars a class, but the smallest class has 25 training images: "
            "choose at most 25",
        ),
        (
            Random(total=104),
            "--exemplars.total 104 asks for 26 exemplars a class, but the smallest class has 25 training images: "
            "choose at most 100",
        ),
        (
            Random(total=9),
            "--exemplars.total 9 leaves no exemplar for each of 10 classes: choose at least 10",
        ),
    ],
)
def test_budgets_that_do_not_fit(settings, message):
    with pytest.raises(UserError) as caught:
        check_budget(settings, SIZES, COUNTS)
    assert str(caught.value) == message


def check(settings):
    """Checks as a run does: each setting for itself, then one against another."""
    check_ranges(settings, "exemplars.")
    settings.validate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Random(per_class=0), "--exemplars.per-class 0"),
        (Random(total=0), "--exemplars.total 0"),
        (Herding(unroll_length=0), "--exemplars.unroll-length 0"),
        (Herding(inner_batch=0), "--exemplars.inner-batch 0"),
        (Random(inner_learning_rate=0.0), "--exemplars.inner-learning-rate 0.0"),
        (Random(inner_momentum=1.0), "--exemplars.inner-momentum 1.0"),
        (Mnemonics(outer_clip=0.0), "--exemplars.outer-clip 0.0"),
        (Mnemonics(outer_steps=-1), "--exemplars.outer-steps -1"),
        (Mnemonics(unroll_length=5, truncate=6), "--exemplars.truncate 6: choose from 1 to the unroll length 5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError) as caught:
        check(settings)
    assert message in str(caught.value)


def test_kinds_by_name():
    for name, cls in EXEMPLARS.items():
        assert exemplar_class(name) is cls
        check(cls())
    with pytest.raises(UserError, match="unknown exemplar kind 'mnemonic': did you mean 'mnemonics'"):
        exemplar_class("mnemonic")
