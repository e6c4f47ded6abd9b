"""Where arrays live: one mesh over all devices of all processes; batches are cut over it, all else is whole on each.

The compiler does the rest: a program whose batch is cut computes each part where it lies and adds up the gradients.
"""

from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from mnemonics_jax.errors import UserError

_AXIS = "data"

T = TypeVar("T")


@dataclass(frozen=True)
class Devices:
    """A mesh of n devices with the one axis "data". Hashable, so it can be a static argument of `jit`."""

    mesh: Mesh

    @property
    def count(self) -> int:
        """n, of all processes together."""
        return self.mesh.size

    @property
    def whole(self) -> NamedSharding:
        """The sharding of an array that every device has all of."""
        return NamedSharding(self.mesh, PartitionSpec())

    def cut(self, axis: int) -> NamedSharding:
        """The sharding of an array whose `axis` is dealt out to the devices."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, _AXIS))

    def columns(self, batch: int) -> Int[np.ndarray, "column"]:
        """Which columns of a batch cut over the devices lie on this process's own, rising."""
        places = self.cut(0).addressable_devices_indices_map((batch,)).values()
        return np.unique(np.concatenate([np.arange(batch)[place] for place in places]))

    def put_whole(self, tree: T) -> T:
        """Host arrays, the same in every process, put whole on every device."""
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(self.whole, np.asarray(leaf)), tree)

    def put_cut(self, columns: Shaped[np.ndarray, "..."], axis: int, batch: int) -> Shaped[Array, "..."]:
        """This process's `columns` along `axis`, put together with all others' to an array of `batch` along it."""
        shape = (*columns.shape[:axis], batch, *columns.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(self.cut(axis), columns, shape)

    def keep_whole(self, tree: T) -> T:
        """Inside `jit`: arrays that shall come out whole on every device."""
        return jax.lax.with_sharding_constraint(tree, self.whole)

    def check(self, flag: str, batch: int) -> None:
        """Raises `UserError` when a batch cannot be dealt out evenly, with the sizes that can."""
        if batch % self.count:
            below = batch // self.count * self.count
            sizes = " or ".join(str(size) for size in (below, below + self.count) if size)
            raise UserError(
                f"{flag} {batch} does not divide over {self.count} devices: choose a multiple of {self.count}, "
                f"such as {sizes}, or show the program fewer devices (CUDA_VISIBLE_DEVICES)"
            )


def all_devices() -> Devices:
    """Every device of every process."""
    return Devices(Mesh(np.asarray(jax.devices()), (_AXIS,), axis_types=(AxisType.Auto,)))
