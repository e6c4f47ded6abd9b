"""Runs in lockstep: where several runs call the same program, one `vmap`ped program computes it for all of them.

Each run is ordinary code in a thread of its own, its lane. It waits at each `vmapped_call` until all lanes wait; those
that are farthest behind and wait for the same program then get its results from one call. Between two calls one thread
runs at a time: what the runs share needs no lock, and no program is compiled twice.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from mnemonics_jax.runtime.devices import all_devices

_current_lane: ContextVar["_Lane | None"] = ContextVar("lane", default=None)
_any_lane = jax.custom_batching.custom_vmap(lambda flag: flag)
_any_lane.def_vmap(lambda count, batched, flags: (flags.any(axis=0), False))


def vmapped_call(function: Callable, *args: Any, static: int = 1, batched: Any = True) -> Any:
    """Return `function(*args)`, computed by one program with the same call of the other runs in lockstep, if any.

    `function` is jitted, its first `static` arguments hashable and static, the others pytrees of arrays. `batched`, a
    tree prefix of bools, tells which of them differ from run to run. Runs that differ in others are computed apart,
    and a `lax.cond` on those stays one. Results equal those of the plain call up to rounding.
    """
    lane, program = _current_lane.get(), (function, args[:static], batched)
    return lane.scheduler.wait(lane, program, args[static:]) if lane else function(*args)


def masked_step(active: Bool[Array, ""], step: Callable, carry: Any, batch: Any, idle: Any) -> tuple[Any, Any]:
    """Return `step(carry, batch)`; where not `active`, return `(carry, idle)` and compute nothing.

    For the body of a scan in a program for `vmapped_call`: under `vmap`, a plain `lax.cond` would compute every step.
    """

    def masked(carry: Any, batch: Any) -> tuple[Any, Any]:
        return jax.tree.map(partial(jnp.where, active), step(carry, batch), (carry, idle))

    return jax.lax.cond(_any_lane(active), masked, lambda carry, _: (carry, idle), carry, batch)


def enter_phase(phase: int) -> None:
    """Tell the runs in lockstep with this one that it starts `phase`: those ahead wait for the one farthest behind."""
    if lane := _current_lane.get():
        lane.position = (phase, 0)


def num_lanes() -> int:
    """Return how many runs are in lockstep, including this one and those that have ended; 1 for a run alone."""
    return len(lane.scheduler.lanes) if (lane := _current_lane.get()) else 1


def run(runs: Sequence[Callable[[], None]]) -> None:
    """Call each of `runs` in a lane of its own, and return when all have ended.

    Ctrl-C is raised in each lane where it calls a program, and here. Any other exception ends its own lane alone; that
    of the first such lane is raised here at the end.
    """
    scheduler = _Scheduler(len(runs))
    lanes, changed = scheduler.active, scheduler.changed
    with ThreadPoolExecutor(len(runs), "lane") as threads, changed:
        try:
            ends = threads.map(scheduler.start, scheduler.lanes, runs)
            while changed.wait_for(lambda: None not in [lane.args for lane in lanes]) and lanes:
                scheduler.answer()
        except KeyboardInterrupt:
            scheduler.interrupted = True
            changed.notify_all()
            raise
    list(ends)


@dataclass(eq=False)
class _Lane:
    """A run among several: its phase, how often the key of its calls has changed, and the call that it waits for."""

    scheduler: "_Scheduler"
    index: int
    position: tuple[int, int] = (0, 0)
    key: tuple = ()
    args: tuple | None = None
    answer: Future | None = None


class _Scheduler:
    """Decides which lanes are computed next. The thread that runs holds the lock of `changed`; waiting releases it."""

    def __init__(self, count: int) -> None:
        self.lanes = [_Lane(self, index) for index in range(count)]
        self.active = list(self.lanes)
        self.changed = threading.Condition()
        self.interrupted = False

    def start(self, lane: _Lane, run: Callable[[], None]) -> None:
        _current_lane.set(lane)
        with self.changed:
            try:
                run()
            finally:
                self.active.remove(lane)
                self.changed.notify_all()

    def wait(self, lane: _Lane, program: tuple[Callable, tuple, Any], args: tuple) -> Any:
        leaves, structure = jax.tree.flatten(args)
        own = jax.tree.leaves(jax.tree.broadcast(program[-1], args))
        shared = tuple(np.asarray(leaf).tobytes() for leaf, each in zip(leaves, own, strict=True) if not each)
        key = (program, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), shared)
        phase, stage = lane.position
        lane.position, lane.key, lane.args = (phase, stage + (key != lane.key)), key, args
        self.changed.notify_all()
        self.changed.wait_for(lambda: lane.args is None or self.interrupted)
        if self.interrupted:
            raise KeyboardInterrupt
        answer, lane.answer = lane.answer, None
        return answer.result()[lane.index]

    def answer(self) -> None:
        behind = min(self.active, key=lambda lane: lane.position)
        group = [lane for lane in self.active if lane.key == behind.key]
        # An empty lane repeats another's arguments: the same program serves however many runs are left.
        args = [(lane if lane in group else behind).args for lane in self.lanes]
        answer = Future()
        try:
            # Runs mix host arrays with arrays on the device, which are other types to the compiler.
            answer.set_result(_lanes(*behind.key[0], *jax.device_put(args, all_devices().whole)))
        except Exception as error:
            answer.set_exception(error)
        for lane in group:
            lane.answer, lane.args = answer, None
        self.changed.notify_all()


@partial(jax.jit, static_argnums=(0, 1, 2))
def _lanes(function: Callable, static: tuple, batched: Any, *lanes: tuple) -> list:
    """Return the results of each lane, by one `vmap` of `function`, placed like arguments: they become such again."""
    own = jax.tree.broadcast(batched, lanes[0])
    stacked = jax.tree.map(lambda each, *values: jnp.stack(values) if each else values[0], own, *lanes)
    results = jax.vmap(partial(function, *static), jax.tree.map(lambda each: 0 if each else None, own))(*stacked)
    return all_devices().keep_whole([jax.tree.map(itemgetter(lane), results) for lane in range(len(lanes))])
