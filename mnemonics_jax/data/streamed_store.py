"""An image store that decodes while the device works: the same batches as from memory, for data sets of any size."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grain
import numpy as np
from absl import flags
from jaxtyping import Array, Int, Shaped, UInt8

from mnemonics_jax.data.decoding import open_image
from mnemonics_jax.data.lazy_images import LazyImages, resized_crop
from mnemonics_jax.data.sampling import Order
from mnemonics_jax.runtime.child_processes import end_with_parent
from mnemonics_jax.runtime.devices import Devices
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import cannot_write
from mnemonics_jax.runtime.random_streams import Key

_PIECE = 32
"""Number of images that a thread decodes at a time if no crop is asked for."""
_MOST_WORKERS = 16


class _Exemplars:
    """The memory's images as a file that worker processes map into memory instead of copying it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return _Exemplars, (self.path,)

    @cached_property
    def _images(self) -> UInt8[np.ndarray, "exemplar height width 3"]:
        return np.load(self.path, mmap_mode="r")

    def __getitem__(self, slot: int) -> UInt8[np.ndarray, "height width 3"]:
        return self._images[slot]


@dataclass(frozen=True)
class _Batches(Sequence):
    """Batches of pixels, uint8 [column, size, size, 3], by number: `columns` of the index batches from `first` on.

    With `key`, each image is cropped at random; every step and column has its own random stream.
    """

    images: LazyImages
    exemplars: UInt8[np.ndarray, "exemplar height width 3"] | _Exemplars
    indices: Sequence
    first: int
    columns: Int[np.ndarray, " column"]
    key: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.indices) - self.first

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "column size size 3"]:
        end_with_parent()
        step = self.first + number
        index = self.indices[step][self.columns]
        images = np.empty((len(index), *self.images.shape[1:]), np.uint8)
        for row, (column, sample) in enumerate(zip(self.columns, index, strict=True)):
            slot = int(sample) - len(self.images)
            if self.key is not None:
                source = self.images.records[int(sample)] if slot < 0 else self.exemplars[slot]
                rng = np.random.default_rng([*self.key, step, int(column)])
                images[row] = resized_crop(open_image(source), self.images.size, rng)
            else:
                images[row] = self.images.decode(int(sample)) if slot < 0 else self.exemplars[slot]
        return images


class StreamedStore:
    """An image store that decodes training images on demand and keeps exemplars in host memory.

    It holds a fixed number of decoded batches, whatever the size of the data set. `workers` processes decode images for
    training. None means half of the cores, at most 16, on machines with 8 or more cores. Threads decode if `workers` is
    0, on smaller machines, and for evaluation. Processes find the exemplars in a file in the folder `scratch`, which is
    created where it does not exist; without one, in a folder of the system's.
    """

    def __init__(
        self, images: LazyImages, workers: int | None, crops: bool, devices: Devices, scratch: Path | None = None
    ) -> None:
        self.devices = devices
        self._images, self._crops, self._scratch = images, crops, scratch
        self._threads = os.cpu_count() or 1
        automatic = min(self._threads // 2, _MOST_WORKERS) if self._threads >= 8 else 0
        self._workers = automatic if workers is None else workers
        self._exemplars = np.zeros((1, *images.shape[1:]), np.uint8)

    def with_exemplars(self, exemplars: Shaped[np.ndarray, "classes slot height width channel"]) -> "StreamedStore":
        """Return a store with these exemplars, see `ImageStore.with_exemplars`.

        Raises:
            UserError: if the exemplars are not uint8.
        """
        if exemplars.dtype != np.uint8:
            raise UserError(
                "--exemplars.store float32 needs images in memory: choose --exemplars.store uint8 or --data.no-stream"
            )
        other = copy(self)
        other._exemplars = exemplars.reshape(-1, *exemplars.shape[2:])
        return other

    def gather(self, index: Int[np.ndarray, "*batch"]) -> UInt8[Array, "*batch height width channel"]:
        """Return the images of `index` as uint8, each image's centre, see `ImageStore.gather`."""
        columns = self.devices.columns(index.shape[-1])
        flat = index[..., columns].reshape(-1)
        pieces = np.array_split(flat, -(-len(flat) // _PIECE))
        width = max(len(piece) for piece in pieces)
        rows = [np.resize(piece, width) for piece in pieces]
        batches = _Batches(self._images, self._exemplars, rows, 0, np.arange(width), None)
        read = self._read(batches, self._threads, len(rows))
        images = np.concatenate([part[: len(piece)] for part, piece in zip(read, pieces, strict=True)])
        shape = (*index.shape[:-1], len(columns), *images.shape[1:])
        return self.devices.put_cut(images.reshape(shape), index.ndim - 1, index.shape[-1])

    def chunks(
        self, order: Order, first: int, steps: int, crop_key: Key | None
    ) -> Iterator[UInt8[Array, "steps batch height width channel"]]:
        """Yield chunks of images, see `ImageStore.chunks`. While the device works on one, the next are decoded."""
        columns = self.devices.columns(order.batch)
        seed = tuple(int(part) for part in crop_key) if self._crops and crop_key is not None else None
        with ExitStack() as resources:
            exemplars = self._exemplars
            if self._workers:
                exemplars = _Exemplars(self._temporary_folder(resources) / "exemplars.npy")
                with cannot_write(exemplars.path):
                    np.save(exemplars.path, self._exemplars)
            batches = _Batches(self._images, exemplars, order, first, columns, seed)
            read = self._read(batches, 1 if self._workers else self._threads, steps, self._workers)
            for start in range(first, len(order), steps):
                # Allocate a new array for each chunk: on a CPU the device uses this memory itself, without a copy.
                chunk = np.zeros((steps, len(columns), *self._images.shape[1:]), np.uint8)
                for step in range(min(steps, len(order) - start)):
                    chunk[step] = next(read)
                yield self.devices.put_cut(chunk, 1, order.batch)

    def _temporary_folder(self, resources: ExitStack) -> Path:
        scratch = self._scratch or Path(tempfile.gettempdir())
        with cannot_write(scratch):
            scratch.mkdir(exist_ok=True)
            return Path(resources.enter_context(tempfile.TemporaryDirectory(dir=scratch)))

    def _read(self, batches: _Batches, threads: int, ahead: int, workers: int = 0) -> Iterator[np.ndarray]:
        """Return an iterator over the batches in order.

        Threads read `ahead` batches in advance and one more for each thread; each worker process reads two in advance.
        """
        options = grain.ReadOptions(threads, threads + ahead) if not workers else grain.ReadOptions(1, 1)
        data = grain.MapDataset.source(batches).to_iter_dataset(options)
        if workers:
            if not flags.FLAGS.is_parsed():  # grain reads absl flags, which only absl's `app.run` parses
                flags.FLAGS.mark_as_parsed()
            data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        return iter(data)
