"""The order in which classes arrive, and what is new and old in each phase."""

import itertools

import numpy as np
import pytest

from mnemonics_jax.data.class_stream import Stream, StreamConfig, class_order, make_stream
from mnemonics_jax.data.dataset import make_dataset
from mnemonics_jax.runtime.errors import UserError


def dataset(classes=10, train=6, test=3):
    """Classes of different size in mixed order; an image's pixels spell its label."""

    def split(per_class, seed):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.repeat(np.arange(classes), per_class + np.arange(classes) % 3)).astype(np.int32)
        images = np.broadcast_to(labels[:, None, None, None], (len(labels), 2, 2, 1)).astype(np.uint8)
        return images, labels

    return make_dataset("toy", split(train, 0), split(test, 1), tuple(f"c{i}" for i in range(classes)))


def stream(**settings):
    return make_stream(StreamConfig(**{"phases": 3, "base": 4} | settings), dataset(), seed=0)


def test_order_of_the_literature():
    """The CIFAR-100 order of seed 1993 that iCaRL's successors print."""
    order = class_order(100, 1993)
    assert order[:10].tolist() == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]
    np.random.seed(1993)
    expected = np.arange(100)
    np.random.shuffle(expected)
    np.testing.assert_array_equal(order, expected)


def test_order_leaves_the_global_generator_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    class_order(100, 1993)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_seeds_give_orders_of_their_own():
    orders = [make_stream(StreamConfig(), dataset(), seed).order for seed in range(6)]
    np.testing.assert_array_equal(orders[0], class_order(10, 1993))
    np.testing.assert_array_equal(orders[4], class_order(10, 1997))
    assert len({tuple(order) for order in orders}) == 6
    for order in orders:
        assert sorted(order) == list(range(10))
    fixed = [make_stream(StreamConfig(order_seed=7), dataset(), seed).order for seed in (0, 3)]
    np.testing.assert_array_equal(fixed[0], fixed[1])
    np.testing.assert_array_equal(fixed[0], class_order(10, 7))


@pytest.mark.parametrize(
    ("classes", "config", "sizes"),
    [
        (100, StreamConfig(phases=5), (50, *[10] * 5)),
        (100, StreamConfig(phases=25), (50, *[2] * 25)),
        (10, StreamConfig(phases=3, base=4), (4, 2, 2, 2)),
        (10, StreamConfig(phases=1, base=1), (1, 9)),
        (9, StreamConfig(phases=5), (4, 1, 1, 1, 1, 1)),
        (2, StreamConfig(phases=1), (1, 1)),
    ],
)
def test_sizes(classes, config, sizes):
    assert config.sizes(classes) == sizes
    assert sum(sizes) == classes


def test_counts_and_masks():
    s = stream()
    assert (s.num_classes, s.num_phases) == (10, 4)
    assert [s.seen(i) for i in range(4)] == [4, 6, 8, 10]
    assert [list(s.new_classes(i)) for i in range(4)] == [[0, 1, 2, 3], [4, 5], [6, 7], [8, 9]]
    assert s.phase_of_class().tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    for i in range(4):
        masks = s.masks(i)
        assert np.flatnonzero(masks.new).tolist() == list(s.new_classes(i))
        assert np.flatnonzero(masks.old).tolist() == list(range(s.seen(i) - s.sizes[i]))


def test_positions_map_back_to_every_images_own_class():
    s = stream()
    for images, labels in ((s.dataset.train_images, s.train_labels), (s.dataset.test_images, s.test_labels)):
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(s.order[labels], images[:, 0, 0, 0])


def test_positions_of_an_order_that_is_not_its_own_inverse():
    s = Stream(dataset(3), np.array([2, 0, 1]), (2, 1))
    expected = {2: 0, 0: 1, 1: 2}
    assert s.train_labels.tolist() == [expected[label] for label in s.dataset.train_labels.tolist()]


def test_phases_partition_the_training_images():
    s = stream()
    parts = [s.train_indices(i) for i in range(4)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(s.dataset.train_labels)))
    for i, part in enumerate(parts):
        arrived = [s.order[c] for c in s.new_classes(i)]
        assert set(s.dataset.train_labels[part].tolist()) == set(arrived)


def test_joint_training_has_all_images_so_far():
    s = stream()
    for i in range(4):
        so_far = np.concatenate([s.train_indices(j) for j in range(i + 1)])
        np.testing.assert_array_equal(s.train_indices(i, joint=True), np.sort(so_far))


def test_test_indices_grow_to_the_whole_test_set():
    s = stream()
    sets = [set(s.test_indices(i).tolist()) for i in range(4)]
    for i, (smaller, larger) in enumerate(itertools.pairwise(sets)):
        assert smaller < larger
        assert {s.test_labels[k] for k in larger - smaller} == set(s.new_classes(i + 1))
    assert sets[-1] == set(range(len(s.dataset.test_labels)))


@pytest.mark.parametrize(
    ("config", "classes", "message"),
    [
        (StreamConfig(phases=0), 10, "--phases 0: has to be at least 1"),
        (StreamConfig(phases=-2), 10, "--phases -2"),
        (StreamConfig(base=0), 10, "--base 0: has to be at least 1"),
        (StreamConfig(base=10), 10, "--base 10 is not possible with 10 classes: choose a base size from 1 to 9"),
        (StreamConfig(order_seed=-1), 10, "--stream.order-seed -1: has to be at least 0 and less than 4294967296"),
        (StreamConfig(base=-1), 10, "--base -1"),
        (
            StreamConfig(phases=5, base=4),
            10,
            "--phases 5 does not divide the 6 classes left after a base of 4: choose --phases from 1, 2, 3, 6, or "
            "another --base",
        ),
        (StreamConfig(phases=7), 100, "choose --phases from 1, 2, 5, 10, 25, 50, or another --base"),
        (StreamConfig(phases=20, base=4), 10, "choose --phases from 1, 2, 3, 6"),
    ],
)
def test_classes_that_cannot_be_dealt_out(config, classes, message):
    with pytest.raises(UserError) as caught:
        config.sizes(classes)
    assert message in str(caught.value)


def test_make_stream_refuses_too():
    with pytest.raises(UserError, match="--phases 4 does not divide the 6 classes"):
        stream(phases=4)
