"""Runs in step: where several of them call the same program, one `vmap`ped program computes it for all.

Each run is ordinary code in a thread of its own, and calls the programs that are worth it by `call`: alone, that is the
plain function. Among several runs the thread waits there; when all do, those that wait for the same program get its
results from one call, in which every run has a lane of its own. Between two such calls one thread works at a time, so
nothing that the runs share needs a lock, and no program is compiled twice.
"""

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from mnemonics_jax.devices import all_devices

T = TypeVar("T")

Batched = Any
"""A pytree of bools that begins like a program's arguments: whether each run has its own value, or all the same."""


@dataclass(eq=False)
class _Seat:
    """A run among several: its lane, how far it has come, and what it waits for."""

    table: "_Table"
    lane: int
    place: tuple[int, int] = (0, 0)
    request: "_Request | None" = None
    last: tuple | None = None


@dataclass(eq=False)
class _Request:
    function: Callable
    static: tuple
    args: tuple
    batched: Batched
    key: tuple
    answer: Callable[[], Any] | None = None


_seat: ContextVar[_Seat | None] = ContextVar("seat", default=None)


def call(function: Callable, *args: Any, static: int = 1, batched: Batched = True) -> Any:
    """`function(*args)`, computed together with the same call of the runs in step with this one, if there are any.

    `function` is jitted, its first `static` arguments hashable and static, the others pytrees of arrays. What is not
    `batched` has to be equal in runs that are computed together; a `lax.cond` on it stays one under `vmap`, where a
    batched condition computes both branches. Results agree with those of the plain call to rounding.
    """
    seat = _seat.get()
    return function(*args) if seat is None else seat.table.ask(seat, function, args[:static], args[static:], batched)


def if_active(active: Bool[Array, ""], step: Callable, carry: T, batch: Any, idle: Any) -> tuple[T, Any]:
    """`step(carry, batch)`, or `(carry, idle)` where not `active`, and then nothing is computed.

    For the body of a scan in a program for `call`. Under `vmap` a step is computed where any run is active, and left
    out where none is; a plain `lax.cond` would compute it always.
    """

    def masked(carry: T, batch: Any) -> tuple[T, Any]:
        return jax.tree.map(partial(jnp.where, active), step(carry, batch), (carry, idle))

    return jax.lax.cond(_any_lane(active), masked, lambda carry, _: (carry, idle), carry, batch)


@jax.custom_batching.custom_vmap
def _any_lane(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    return flag


@_any_lane.def_vmap
def _any_of_lanes(lanes: int, batched: list[bool], flags: Bool[Array, "lanes"]) -> tuple[Bool[Array, ""], bool]:
    return flags.any(axis=0), False


def reach(phase: int) -> None:
    """Tells how far this run has come, for those in step with it: they wait for the one that is farthest behind."""
    if (seat := _seat.get()) is not None:
        seat.place = (phase, 0)


def lanes() -> int:
    """How many runs this one is computed together with, itself and the finished ones included; 1 alone."""
    seat = _seat.get()
    return 1 if seat is None else len(seat.table.seats)


def in_step(works: Sequence[Callable[[], None]]) -> None:
    """Does every one of `works`, each in a thread of its own, as the module tells; returns when all have ended.

    Ctrl-C is raised in each of them where it next calls a program, and here at the end. So is any other exception, the
    first of them, after the others have ended by themselves.
    """
    _Table(len(works)).serve(works)


class _Table:
    """The runs in step. Whoever works holds the lock of `_changed`; waiting for an answer releases it."""

    def __init__(self, count: int) -> None:
        self.seats = [_Seat(self, lane) for lane in range(count)]
        self._changed = threading.Condition()
        self._working = set(self.seats)
        self._failures: list[BaseException] = []

    def serve(self, works: Sequence[Callable[[], None]]) -> None:
        threads = [
            threading.Thread(target=self._work, args=pair, name=f"lane {pair[0].lane}")
            for pair in zip(self.seats, works, strict=True)
        ]
        interrupted: KeyboardInterrupt | None = None
        with self._changed:
            for thread in threads:
                thread.start()
            while self._working:
                try:
                    self._changed.wait_for(lambda: all(seat.request for seat in self._working))
                    if interrupted:
                        self._answer(list(self._working), partial(_raise, KeyboardInterrupt()))
                    elif self._working:
                        self._compute(self._next())
                except KeyboardInterrupt as error:
                    interrupted = error
        for thread in threads:
            thread.join()
        if interrupted:
            raise interrupted
        if self._failures:
            raise self._failures[0]

    def ask(self, seat: _Seat, function: Callable, static: tuple, args: tuple, batched: Batched) -> Any:
        """The answer to a seat's request, once all others wait as well or have ended."""
        key = (function, static, *_signature(args, batched))
        if key != seat.last:
            seat.place, seat.last = (seat.place[0], seat.place[1] + 1), key
        seat.request = request = _Request(function, static, args, batched, key)
        self._changed.notify_all()
        self._changed.wait_for(lambda: request.answer)
        return request.answer()

    def _work(self, seat: _Seat, work: Callable[[], None]) -> None:
        _seat.set(seat)
        with self._changed:
            try:
                work()
            except BaseException as error:
                self._failures.append(error)
            finally:
                self._working.discard(seat)
                self._changed.notify_all()

    def _next(self) -> list[_Seat]:
        """Of the waiting seats those that are farthest behind and ask for the same, in order of their lanes."""
        behind = min(self._working, key=lambda seat: (seat.place, seat.lane))
        group = [seat for seat in self._working if seat.request.key == behind.request.key]
        return sorted(group, key=lambda seat: seat.lane)

    def _compute(self, group: list[_Seat]) -> None:
        request = group[0].request
        # An empty lane repeats another's arguments: the same program serves however many runs are left.
        filled = {seat.lane: seat.request.args for seat in group}
        args = [filled.get(lane, request.args) for lane in range(len(self.seats))]
        # Runs mix host arrays with arrays on the device, which are other types to the compiler.
        args = jax.device_put(args, all_devices().whole)
        try:
            results = _program()(request.function, request.static, request.batched, *args)
        except Exception as error:
            self._answer(group, partial(_raise, error))
            return
        for seat in group:
            self._answer([seat], partial(lambda result: result, results[seat.lane]))

    def _answer(self, seats: list[_Seat], answer: Callable[[], Any]) -> None:
        for seat in seats:
            seat.request.answer, seat.request = answer, None
        self._changed.notify_all()


def _signature(args: tuple, batched: Batched) -> tuple:
    """What tells whether two calls can be computed together: structure, shapes, dtypes, and what has to be the same."""
    leaves, structure = jax.tree.flatten(args)
    own = jax.tree.leaves(jax.tree.broadcast(batched, args))
    shared = (np.asarray(leaf).tobytes() for leaf, each in zip(leaves, own, strict=True) if not each)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), tuple(shared)


@cache
def _program() -> Callable:
    """`_lanes` compiled. Its results lie as `_compute` puts the arguments: they come back in as the same type."""
    return jax.jit(_lanes, static_argnums=(0, 1, 2), out_shardings=all_devices().whole)


def _lanes(function: Callable, static: tuple, batched: Batched, *lanes: tuple) -> list:
    """The results of each lane, by one `vmap` of `function`."""
    own = jax.tree.broadcast(batched, lanes[0])
    stacked = jax.tree.map(lambda each, *values: jnp.stack(values) if each else values[0], own, *lanes)
    axes = jax.tree.map(lambda each: 0 if each else None, own)
    results = jax.vmap(partial(function, *static), axes)(*stacked)
    return [jax.tree.map(lambda values: values[lane], results) for lane in range(len(lanes))]  # noqa: B023


def _raise(error: BaseException) -> None:
    raise error
