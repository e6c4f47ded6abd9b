"""Where arrays live: one mesh over all devices of all processes.

Batches are cut (sharded) over the devices; every other array is whole (replicated) on each of them. The compiler does
the rest: each device computes its part of a batch, and the gradients of the parts are added up.
"""

from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from mnemonics_jax.runtime.errors import UserError

_AXIS = "data"

T = TypeVar("T")


@dataclass(frozen=True)
class Devices:
    """A mesh of n devices with the one axis "data". Hashable, so it can be a static argument of `jit`."""

    mesh: Mesh

    @property
    def count(self) -> int:
        """Number n of devices, over all processes."""
        return self.mesh.size

    @property
    def whole(self) -> NamedSharding:
        """Sharding of an array that is whole (replicated) on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def cut(self, axis: int) -> NamedSharding:
        """Return the sharding of an array whose `axis` is split evenly over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, _AXIS))

    def columns(self, batch: int) -> Int[np.ndarray, " column"]:
        """Return, in rising order, the columns of a cut batch of size `batch` that lie on this process's devices."""
        places = self.cut(0).addressable_devices_indices_map((batch,)).values()
        return np.unique(np.concatenate([np.arange(batch)[place] for place in places]))

    def put_whole(self, tree: T) -> T:
        """Return a tree of host arrays, the same in every process, as arrays that are whole on every device."""
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(self.whole, np.asarray(leaf)), tree)

    def put_cut(self, columns: Shaped[np.ndarray, "..."], axis: int, batch: int) -> Shaped[Array, "..."]:
        """Return an array of size `batch` along `axis`; every process passes the `columns` of its own devices."""
        shape = (*columns.shape[:axis], batch, *columns.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(self.cut(axis), columns, shape)

    def keep_whole(self, tree: T) -> T:
        """Constrain a tree of arrays, inside `jit`, to be whole on every device."""
        return jax.lax.with_sharding_constraint(tree, self.whole)

    def check(self, flag: str, batch: int) -> None:
        """Raise `UserError` when `batch`, the value of `flag`, cannot be split evenly over the devices."""
        if batch % self.count:
            below = batch // self.count * self.count
            sizes = " or ".join(str(size) for size in (below, below + self.count) if size)
            raise UserError(
                f"{flag} {batch} does not divide over {self.count} devices: choose a multiple of {self.count}, "
                f"such as {sizes}, or show the program fewer devices (CUDA_VISIBLE_DEVICES)"
            )


def all_devices() -> Devices:
    """Return the mesh of all devices of all processes."""
    return Devices(Mesh(np.asarray(jax.devices()), (_AXIS,), axis_types=(AxisType.Auto,)))
