"""Concurrent runs that differ only in the seed: one thread for each run, one vmapped program for all (`lockstep`)."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from mnemonics_jax import data
from mnemonics_jax.config.config import Config
from mnemonics_jax.exemplars.device_memory import learning_bytes, planned_bytes
from mnemonics_jax.phase.setup import make_setup
from mnemonics_jax.runs.preemption import on_sigterm_in_threads
from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.progress import Display


def groups(configs: Sequence[Config]) -> list[list[int]]:
    """Return groups of indices of configurations that differ only in the seed, in order of each group's first."""
    found: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        plain = json.dumps(dataclasses.replace(config, seed=0).to_dict(), sort_keys=True)
        found.setdefault(plain, []).append(place)
    return list(found.values())


def pays() -> bool:
    """Return whether one vmapped program can be faster than the runs in order: not on a CPU, which one run fills."""
    return jax.default_backend() != "cpu"


def check(config: Config, count: int, load: data.Load = data.load) -> None:
    """Check that `count` runs of `config` can be one program.

    Raises:
        UserError: on more than one device, and when the exemplars learned at once do not fit into device memory.
    """
    if jax.device_count() > 1:
        raise UserError(
            f"--vmap-seeds needs a single device, and there are {jax.device_count()}: show the program one "
            "(CUDA_VISIBLE_DEVICES), or leave the option out, so that each run uses all of them"
        )
    if count == 1 or not (config.method.uses_memory and config.exemplars.learns):
        return
    setup = make_setup(config, load)
    classes = setup.group_classes or setup.stream.num_classes
    slots = classes * config.exemplars.capacity(setup.stream.sizes[0])
    needed = count * learning_bytes(config.exemplars, setup.net, slots, setup.stream.dataset.image_shape)
    if needed > planned_bytes():
        raise UserError(
            f"--vmap-seeds: learning the exemplars of {count} runs at once takes about {needed / 2**30:.1f} GiB, and "
            f"{planned_bytes() / 2**30:.1f} GiB are planned for it: take fewer seeds, or set --exemplars.group-classes"
        )


def run_at_once(runs: Mapping[str, Callable[[Display], object]], display: Display) -> None:
    """Start all runs, by title and each with its own display, and return when all have ended.

    Ctrl-C and SIGTERM save every run, as they save a single one.
    """
    display.begin("")
    with on_sigterm_in_threads():
        lockstep.run([partial(start, display.beside(title)) for title, start in runs.items()])
