"""How many classes' exemplars are learned together: all of them, or groups that fit the device."""

import os
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from mnemonics_jax.errors import UserError
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.nets.classifier import Classifier, Variables, apply, init

_COPIES = 9
"""Float32 copies of the learned pixels: themselves, two bounds, two moments, gradient, update, and two in passing."""
_PASSES = 2
"""Stored activations of an image, in terms of one forward pass, while a gradient is differentiated."""
_SHARE = 0.75
"""Part of the device's memory that exemplar learning may plan with; training images and compiled programs share it."""


def group_size(
    settings: Mnemonics, net: Classifier, num_classes: int, capacity: int, image_shape: tuple[int, int, int]
) -> int | None:
    """Classes learned together; None where all that have been seen are learned and replayed in one program.

    The option decides; without it, None where everything fits the device, else the most classes that do. Raises
    `UserError` for a group of a single class, which has nothing to be told from, and where not even two fit.
    """
    if settings.group_classes is not None:
        return settings.group_classes
    room = planned_bytes()

    def fits(classes: int) -> bool:
        return learning_bytes(settings, net, classes * capacity, image_shape) <= room

    if fits(num_classes):
        return None
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
    """An estimate of what learning so many exemplars takes on the device.

    One inner step's activations are held at a time, or those of the outer loss, as with `remat` "step".
    """
    images = max(min(settings.inner_batch or slots, slots), settings.outer_batch)
    pixels = slots * int(np.prod(image_shape)) * 4 * _COPIES
    return pixels + images * _PASSES * activation_bytes(net, image_shape)


@cache
def activation_bytes(net: Classifier, image_shape: tuple[int, int, int]) -> int:
    """What one image's forward pass stores for its backward pass; nothing is computed to find out."""
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
    """What of the device's memory exemplar learning may take."""
    return _SHARE * device_bytes()


def device_bytes() -> int:
    """Memory of the first device; of this machine where the device does not tell, as a CPU does not."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
