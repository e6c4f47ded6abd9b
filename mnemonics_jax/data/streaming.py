"""Images decoded by grain while the device works: the same batches as from memory, for data sets of any size."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grain
import numpy as np
from absl import flags
from jaxtyping import Array, Int, Shaped, UInt8

from mnemonics_jax.data.batches import Order
from mnemonics_jax.data.decoding import open_image
from mnemonics_jax.data.pictures import Pictures, resized_crop
from mnemonics_jax.devices import Devices
from mnemonics_jax.errors import UserError
from mnemonics_jax.rng import Key

_PIECE = 32
"""Images that a thread decodes at a time where no crop is asked for."""
_MOST_WORKERS = 16


class _Exemplars:
    """The memory's images as a file that worker processes map rather than copy."""

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
    """Batches of pixels uint8 [column, size, size, 3] by number: `columns` of the index batches from the `first` on.

    With `key`, each image is cut out at random, by a stream of chance of its own for each step and column.
    """

    pictures: Pictures
    exemplars: UInt8[np.ndarray, "exemplar height width 3"] | _Exemplars
    indices: Sequence
    first: int
    columns: Int[np.ndarray, "column"]
    key: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.indices) - self.first

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "column size size 3"]:
        step = self.first + number
        index = self.indices[step][self.columns]
        images = np.empty((len(index), *self.pictures.shape[1:]), np.uint8)
        for row, (column, sample) in enumerate(zip(self.columns, index, strict=True)):
            slot = int(sample) - len(self.pictures)
            if self.key is not None:
                source = self.pictures.records[int(sample)] if slot < 0 else self.exemplars[slot]
                rng = np.random.default_rng([*self.key, step, int(column)])
                images[row] = resized_crop(open_image(source), self.pictures.size, rng)
            else:
                images[row] = self.pictures.decode(int(sample)) if slot < 0 else self.exemplars[slot]
        return images


class StreamedStore:
    """Training images decoded when they are needed, exemplars in host memory beside them.

    What is held of the data set is a fixed number of batches, whatever its size. `workers` processes decode for
    training (None: half the cores, up to 16, where there are 8 or more); otherwise, and where that is 0, threads do.
    """

    def __init__(self, pictures: Pictures, workers: int | None, crops: bool, devices: Devices) -> None:
        self.devices = devices
        self._pictures, self._crops = pictures, crops
        self._threads = os.cpu_count() or 1
        automatic = min(self._threads // 2, _MOST_WORKERS) if self._threads >= 8 else 0
        self._workers = automatic if workers is None else workers
        self._exemplars = np.zeros((1, *pictures.shape[1:]), np.uint8)

    def hold(self, exemplars: Shaped[np.ndarray, "classes slot height width channel"]) -> None:
        """As in `Store`. Raises `UserError` for exemplars that are not bytes."""
        if exemplars.dtype != np.uint8:
            raise UserError("--exemplars.store float32 needs images in memory: choose uint8, or --data.no-stream")
        self._exemplars = exemplars.reshape(-1, *exemplars.shape[2:])

    def take(self, index: Int[np.ndarray, "*batch"]) -> UInt8[Array, "*batch height width channel"]:
        """As in `Store`: uint8, each image's centre."""
        columns = self.devices.columns(index.shape[-1])
        flat = index[..., columns].reshape(-1)
        pieces = np.array_split(flat, -(-len(flat) // _PIECE))
        width = max(len(piece) for piece in pieces)
        rows = [np.resize(piece, width) for piece in pieces]
        batches = _Batches(self._pictures, self._exemplars, rows, 0, np.arange(width), None)
        read = self._read(batches, self._threads, len(rows))
        images = np.concatenate([part[: len(piece)] for part, piece in zip(read, pieces, strict=True)])
        shape = (*index.shape[:-1], len(columns), *images.shape[1:])
        return self.devices.put_cut(images.reshape(shape), index.ndim - 1, index.shape[-1])

    def chunks(
        self, order: Order, first: int, steps: int, key: Key
    ) -> Iterator[UInt8[Array, "steps batch height width channel"]]:
        """As in `Store`; the next chunks are decoded while the device works on one."""
        columns = self.devices.columns(order.batch)
        seed = tuple(int(part) for part in key) if self._crops else None
        with tempfile.TemporaryDirectory() as folder:
            exemplars = self._exemplars
            if self._workers:
                exemplars = _Exemplars(Path(folder) / "exemplars.npy")
                np.save(exemplars.path, self._exemplars)
            batches = _Batches(self._pictures, exemplars, order, first, columns, seed)
            read = self._read(batches, 1 if self._workers else self._threads, steps, self._workers)
            for start in range(first, len(order), steps):
                # A new array each time: on a CPU the device works on this very memory.
                chunk = np.zeros((steps, len(columns), *self._pictures.shape[1:]), np.uint8)
                for step in range(min(steps, len(order) - start)):
                    chunk[step] = next(read)
                yield self.devices.put_cut(chunk, 1, order.batch)

    def _read(self, batches: _Batches, threads: int, ahead: int, workers: int = 0) -> Iterator[np.ndarray]:
        """The batches in order, `ahead` of them and one a thread read ahead; in each worker, two."""
        options = grain.ReadOptions(threads, threads + ahead) if not workers else grain.ReadOptions(1, 1)
        data = grain.MapDataset.source(batches).to_iter_dataset(options)
        if workers:
            if not flags.FLAGS.is_parsed():  # grain asks absl for flags, which only absl's own `app.run` parses
                flags.FLAGS.mark_as_parsed()
            data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        return iter(data)
