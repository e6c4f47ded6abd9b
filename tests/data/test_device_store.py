"""The store on the device: what a batch costs does not depend on the size of the data set."""

import numpy as np
import pytest

from mnemonics_jax.data.image_store import DeviceStore, _gather


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_batch_needs_no_copy_of_the_data_set(dtype):
    images = np.random.default_rng(0).integers(0, 256, (2000, 8, 8, 3), np.uint8)
    exemplars = np.full((5, 4, 8, 8, 3), 1, dtype)
    store = DeviceStore(images).with_exemplars(exemplars)
    index = np.array([[0, 1999, 2000, 2019]])
    gather = _gather.lower(store.devices, store._images, store._exemplars, index).compile()
    # Bytes as floats would be four times the data set.
    assert gather.memory_analysis().temp_size_in_bytes < images.nbytes / 10
    mixed = np.asarray(store.gather(index))
    assert mixed.dtype == dtype
    unit = 1 if dtype == np.uint8 else 255
    np.testing.assert_allclose(mixed[0, :2] * unit, images[[0, 1999]], rtol=1e-6)
    np.testing.assert_array_equal(mixed[0, 2:], 1)
