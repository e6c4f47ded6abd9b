"""How many classes' exemplars one program learns: all of them, or groups of classes that fit the device."""

import os
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.nets.classifier import Classifier, Variables, apply, init
from mnemonics_jax.runtime.errors import UserError

_COPIES = 9
"""Float32 copies of the learned pixels: pixels, two bounds, two moments, gradient, update, and two temporary ones."""
_PASSES = 2
"""Activations stored of an image while a gradient is differentiated, in units of those of one forward pass."""
_SHARE = 0.75
"""Share of the device's memory for exemplar learning; the rest is for training images and compiled programs."""


def group_size(
    settings: Mnemonics, net: Classifier, num_classes: int, capacity: int, image_shape: tuple[int, int, int]
) -> int:
    """Return how many classes one program learns; 0 where one program learns and replays all that have been seen.

    The setting `group_classes` decides. Without it: 0 where everything fits the device, else the most classes that do.

    Args:
        settings: settings of the learned exemplars.
        net: the network.
        num_classes: classes of the whole stream.
        capacity: the most exemplars of a class.
        image_shape: (height, width, channel).

    Raises:
        UserError: where not even two classes fit; the loss of a single class would have nothing to tell it from.
    """
    if settings.group_classes is not None:
        return settings.group_classes
    room = planned_bytes()

    def fits(classes: int) -> bool:
        return learning_bytes(settings, net, classes * capacity, image_shape) <= room

    if fits(num_classes):
        return 0
    if not fits(2):
        raise UserError(
            f"learning the {capacity} exemplars of each of two classes does not fit the device "
            f"({room / 2**30:.1f} GiB are planned with): choose a smaller --exemplars.inner-batch, "
            "--exemplars.outer-batch or --data.image-size, or set --exemplars.group-classes yourself"
        )
    low, high = 2, num_classes
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def learning_bytes(settings: Mnemonics, net: Classifier, slots: int, image_shape: tuple[int, int, int]) -> int:
    """Return an estimate of the bytes that learning `slots` exemplars takes on the device.

    Activations are those of one inner step or of the outer loss, whichever are more, as with `remat` "step".
    """
    images = max(min(settings.inner_batch or slots, slots), settings.outer_batch)
    pixels = slots * int(np.prod(image_shape)) * 4 * _COPIES
    return pixels + images * _PASSES * activation_bytes(net, image_shape)


@cache
def activation_bytes(net: Classifier, image_shape: tuple[int, int, int]) -> int:
    """Return the bytes that one image's forward pass stores for its backward pass, from shapes alone.

    Nothing is computed. `image_shape` is (height, width, channel).
    """
    variables = jax.eval_shape(lambda: init(net, jax.random.key(0), image_shape))

    def backward(variables: Variables, x: jax.Array) -> object:
        def logits(params: dict, x: jax.Array) -> jax.Array:
            return apply(net, variables._replace(params=params), x).logits

        return jax.vjp(logits, variables.params, x)[1]

    def stored(images: int) -> int:
        kept = jax.eval_shape(backward, variables, jax.ShapeDtypeStruct((images, *image_shape), jnp.float32))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))

    # The difference leaves out the parameters, which are stored once.
    return stored(2) - stored(1)


def planned_bytes() -> float:
    """Return the bytes of the device's memory that exemplar learning may take."""
    return _SHARE * device_bytes()


def device_bytes() -> int:
    """Return the bytes of the first device's memory; of this machine's where the device does not tell, as a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
