"""Which images come in which order, where their pixels come from, and the random streams behind it."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from mnemonics_jax.data.image_store import DeviceStore
from mnemonics_jax.data.sampling import Balanced, Shuffled
from mnemonics_jax.runtime.random_streams import Use, generator, random_stream, root_key, stream_key

STREAM = random_stream(root_key(3), 2, Use.ORDER)


@pytest.mark.parametrize(("samples", "batch"), [(12, 4), (10, 4), (3, 8), (7, 7), (1, 5), (5, 1)])
def test_every_shuffle_has_each_index_once_and_all_batches_are_full(samples, batch):
    indices = np.random.default_rng(0).choice(1000, samples, replace=False)
    batches = [*Shuffled(indices, STREAM, batch, 4 * samples)]
    assert {b.shape for b in batches} == {(batch,)}
    shuffles = np.concatenate(batches).reshape(-1, samples)
    assert len(shuffles) == 4 * batch
    np.testing.assert_array_equal(np.sort(shuffles, axis=1), np.sort(indices)[None].repeat(len(shuffles), axis=0))


def test_shuffles_differ_and_follow_the_stream():
    def flat(index):
        return np.concatenate([*Shuffled(np.arange(50), STREAM.at(index), 10, 10)])

    assert not np.array_equal(flat(0)[:50], flat(0)[50:])
    assert not np.array_equal(flat(0), flat(1))
    np.testing.assert_array_equal(flat(0), flat(0))


LABELS = np.repeat([4, 0, 7], [2, 30, 5])  # classes of very different size, sample 100 + i


def balanced(batch, steps):
    return Balanced(np.arange(100, 137), LABELS, STREAM, batch, steps)


@pytest.mark.parametrize("order", [Shuffled(np.arange(10), STREAM, 4, 9), balanced(5, 9)], ids=["shuffled", "balanced"])
def test_a_batch_depends_on_its_number_alone(order):
    walked = np.stack([*order])
    anew = dataclasses.replace(order)
    np.testing.assert_array_equal(np.stack([anew[step] for step in reversed(range(9))])[::-1], walked)
    np.testing.assert_array_equal(order.chunk(7, 4), walked[[7, 8, 8, 8]])
    longer = dataclasses.replace(order, steps=90)
    np.testing.assert_array_equal(longer.chunk(0, 9), walked)


def by_class(batches):
    return np.stack([np.bincount(LABELS[b - 100], minlength=8)[[0, 4, 7]] for b in batches])


def test_balanced_batches_have_equally_many_of_every_class():
    assert (by_class(balanced(6, 20)) == 2).all()


def test_balanced_batches_that_the_classes_do_not_divide():
    counts = by_class(balanced(5, 30))
    assert (counts.sum(axis=1) == 5).all()
    assert (counts.reshape(10, 3, 3).sum(axis=1) == 5).all()


def test_balanced_batches_use_every_sample_of_a_class_in_turn():
    batches = np.concatenate([*balanced(6, 30)])
    for label, size in ((0, 30), (4, 2), (7, 5)):
        drawn = batches[LABELS[batches - 100] == label]
        rounds = drawn[: len(drawn) // size * size].reshape(-1, size)
        np.testing.assert_array_equal(np.sort(rounds, axis=1), np.sort(rounds[:1], axis=1).repeat(len(rounds), axis=0))
        assert len(set(rounds[0].tolist())) == size


def test_balanced_batches_do_not_repeat_one_shuffle():
    batches = np.concatenate([*balanced(6, 60)])
    drawn = batches[LABELS[batches - 100] == 0][:120].reshape(4, 30)
    assert len({tuple(row) for row in drawn.tolist()}) == 4


# Pixels


def photos(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3, 2, 1)).astype(np.uint8)


def test_a_store_without_exemplars():
    images = photos(6)
    np.testing.assert_array_equal(DeviceStore(images).gather(np.array([5, 0, 3])), images[[5, 0, 3]])


def test_a_store_finds_data_and_exemplars():
    images, memory = photos(6), photos(3, 2, seed=1)
    store = DeviceStore(images).with_exemplars(memory)
    taken = store.gather(np.array([[0, 5, 6], [8, 11, 2]]))
    assert taken.shape == (2, 3, 3, 2, 1)
    assert taken.dtype == np.uint8
    expected = [[images[0], images[5], memory[0, 0]], [memory[1, 0], memory[2, 1], images[2]]]
    np.testing.assert_array_equal(taken, expected)
    changed = store.with_exemplars(255 - memory)
    np.testing.assert_array_equal(changed.gather(np.array([8, 1])), [255 - memory[1, 0], images[1]])
    np.testing.assert_array_equal(store.gather(np.array([8, 1])), [memory[1, 0], images[1]])


def test_a_store_with_unrounded_exemplars_delivers_floats():
    images, memory = photos(6), np.random.default_rng(1).uniform(size=(3, 2, 3, 2, 1)).astype(np.float32)
    store = DeviceStore(images).with_exemplars(memory)
    taken = store.gather(np.array([4, 9]))
    assert taken.dtype == np.float32
    np.testing.assert_allclose(taken[0], images[4] / 255, rtol=1e-6)
    np.testing.assert_array_equal(taken[1], memory[1, 1])


# Random streams


def test_streams_of_every_use_phase_and_index_differ():
    key, other = root_key(0), root_key(1)
    places = [*itertools.product(range(4), Use, range(3))]
    keys = {tuple(stream_key(k, *place).tolist()) for k in (key, other) for place in places}
    draws = {tuple(generator(k, *place).integers(0, 2**63, 3).tolist()) for k in (key, other) for place in places}
    assert len(keys) == len(draws) == 2 * len(places)


def test_streams_that_further_numbers_tell_apart_differ():
    places = [STREAM, *(STREAM.at(i) for i in range(3)), *(STREAM.at(1, i) for i in range(3))]
    assert len({tuple(place.jax_key().tolist()) for place in places}) == len(places)
    assert len({place.generator().integers(2**63) for place in places}) == len(places)


def test_streams_are_functions_of_their_place_alone():
    first = generator(root_key(3), 2, Use.ORDER).random(5)
    generator(root_key(3), 2, Use.CHOOSE).random(100)
    np.random.seed(0)
    np.testing.assert_array_equal(generator(root_key(3), 2, Use.ORDER).random(5), first)
    np.testing.assert_array_equal(generator(root_key(3), 2, Use.ORDER, 0).random(5), first)
    np.testing.assert_array_equal(stream_key(root_key(3), 2, Use.INIT), stream_key(root_key(3), 2, Use.INIT))


def test_keys_serve_jax():
    key = stream_key(root_key(0), 1, Use.AUGMENT)
    assert key.dtype == np.uint32
    assert jax.random.uniform(jax.random.wrap_key_data(key), (3,)).shape == (3,)


def test_seeds_give_keys_of_their_own():
    assert len({tuple(root_key(seed).tolist()) for seed in range(200)}) == 200
