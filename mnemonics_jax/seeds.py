"""Runs that differ in their seed alone, at once: every run in a thread, one `vmap`ped program for all (`together`)."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from mnemonics_jax import data
from mnemonics_jax.config import Config
from mnemonics_jax.console import Display
from mnemonics_jax.errors import UserError
from mnemonics_jax.exemplars.groups import learning_bytes, planned_bytes
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.interrupt import on_sigterm_in_threads
from mnemonics_jax.state import make_setup
from mnemonics_jax.together import in_step


def groups(configs: Sequence[Config]) -> list[list[int]]:
    """The places of configurations that differ in nothing but the seed, group by group in the order of the first."""
    found: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        plain = json.dumps(dataclasses.replace(config, seed=0).to_dict(), sort_keys=True)
        found.setdefault(plain, []).append(place)
    return list(found.values())


def check(config: Config, count: int, load: data.Load = data.load) -> None:
    """Raises `UserError` when `count` runs of `config` cannot be one program.

    That is so on more than one device, and where the exemplars that are learned at once do not fit the device.
    """
    if jax.device_count() > 1:
        raise UserError(
            f"--vmap-seeds needs a single device, and there are {jax.device_count()}: show the program one "
            "(CUDA_VISIBLE_DEVICES), or leave the option out, and each run uses all of them"
        )
    if count == 1 or not (config.method.uses_memory and isinstance(config.exemplars, Mnemonics)):
        return
    setup = make_setup(config, load)
    classes = setup.group_classes or setup.stream.num_classes
    slots = classes * config.exemplars.capacity(setup.stream.sizes[0])
    needed = count * learning_bytes(config.exemplars, setup.net, slots, setup.stream.dataset.image_shape)
    if needed > planned_bytes():
        raise UserError(
            f"--vmap-seeds: learning the exemplars of {count} runs at once takes about {needed / 2**30:.1f} GiB, and "
            f"{planned_bytes() / 2**30:.1f} GiB are planned with: take fewer seeds, or set --exemplars.group-classes"
        )


def run_at_once(runs: Mapping[str, Callable[[Display], object]], display: Display) -> None:
    """Starts the runs, each with a display of its title, and returns when all have ended.

    Ctrl-C and SIGTERM save every one of them, as they save a run that is alone.
    """
    display.begin("")
    with on_sigterm_in_threads():
        in_step([partial(start, display.beside(title)) for title, start in runs.items()])
