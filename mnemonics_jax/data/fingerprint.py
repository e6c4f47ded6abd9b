"""Fingerprints of images and labels, by which a run notices that its data have changed."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from mnemonics_jax.data.lazy_images import LazyImages
from mnemonics_jax.runtime.errors import UserError

_NAMED_PARTS = 3
"""The last parts of a file's path that count: split, class and name. The folder of the data set may move."""


@runtime_checkable
class Stamped(Protocol):
    """Encoded images that know what identifies them."""

    def stamps(self) -> Iterator[bytes]:
        """Yield bytes that change when an image changes."""


def images_hash(images: Shaped[np.ndarray, "..."] | LazyImages) -> str:
    """Return a hash of images: of their pixels or, if they are streamed, of names, sizes and times of their files."""
    if not isinstance(images, LazyImages):
        return array_hash(images)
    records = images.records
    return bytes_hash(records.stamps() if isinstance(records, Stamped) else file_stamps(records))


def array_hash(array: Shaped[np.ndarray, "..."]) -> str:
    """Return a hash of an array's dtype, shape and bytes."""
    return bytes_hash([f"{array.dtype} {array.shape}".encode(), np.ascontiguousarray(array).reshape(-1).view(np.uint8)])


def file_stamps(paths: Sequence[str]) -> Iterator[bytes]:
    """Yield name, size and time of the last change of each file.

    Raises:
        UserError: names a file that cannot be found.
    """
    for path in paths:
        try:
            found = os.stat(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; restore it") from error
        name = "/".join(os.path.abspath(path).split(os.sep)[-_NAMED_PARTS:])
        yield f"{name} {found.st_size} {found.st_mtime_ns}\0".encode(errors="surrogateescape")


def bytes_hash(pieces: Iterable[bytes | np.ndarray]) -> str:
    """Return a hash of pieces of bytes, one after another."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
