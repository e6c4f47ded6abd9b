"""What a run starts from: a setup that all its processes agree on, and a checkpoint."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mnemonics_jax import data
from mnemonics_jax.config.config import Config, flatten
from mnemonics_jax.exemplars.device_memory import learning_bytes, planned_bytes
from mnemonics_jax.phase.setup import Setup, make_setup
from mnemonics_jax.phase.state import ResumePoint, initial_state
from mnemonics_jax.runs.base_model_cache import BaseModelCache
from mnemonics_jax.runs.checkpoint import Checkpoint, CheckpointFolder
from mnemonics_jax.runs.folder import SCRATCH, check_folder, claim_folder, with_recorded
from mnemonics_jax.runs.record import Record, arithmetic, record_of
from mnemonics_jax.runs.save_config import SaveConfig
from mnemonics_jax.runs.tracker import Service
from mnemonics_jax.runs.tracking import check_services
from mnemonics_jax.runtime.distributed import broadcast_from_primary, is_primary, require_agreement
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import check_name, locked, remove
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.runtime.settings import check_ranges


def common_setup(
    config: Config, out: Path, save: SaveConfig, track: Sequence[Service], resources: ExitStack, load: data.Load
) -> tuple[Setup, Callable[[], None]]:
    """Return the run's setup, once all processes have the same one and the primary has locked the folder.

    Return also a function that raises `UserError` where the primary's folder has been removed or replaced since.
    """
    problem, setup = "", None
    shared: dict[str, Any] = {}

    def check_still_there() -> None:
        pass

    try:
        check_ranges(save, "save.")
        if is_primary():
            check_services(track)
        check_name(out)
        asked, config = config, with_recorded(out, config)
        setup = make_setup(config, load, out / SCRATCH)
        if config != asked:
            _check_recorded_size(setup, out)
        config = setup.config
        if is_primary():
            record = record_of(setup, begins=True)
            # Before there is a lock: a folder that is refused is left as it was.
            check_folder(out, config, record)
            check_still_there = resources.enter_context(locked(out))
            claim_folder(out, config, record)
            # What a killed process has left.
            remove(out / SCRATCH)
            resources.callback(remove, out / SCRATCH)
        shared = setup.stream.dataset.fingerprint
    except UserError as error:
        problem = str(error)
    require_agreement(flatten({**config.to_dict(), "contents": shared}), problem)
    return setup, check_still_there


def _check_recorded_size(setup: Setup, out: Path) -> None:
    """Check that the group size in which the run in `out` began fits this device.

    Raises:
        UserError: when it does not.
    """
    strategy, stream = setup.config.exemplars, setup.stream
    slots = (setup.group_classes or stream.num_classes) * strategy.capacity(stream.sizes[0])
    needed = learning_bytes(strategy, setup.net, slots, stream.dataset.image_shape)
    if needed > planned_bytes():
        size = strategy.group_classes
        groups = f"in groups of {size} classes" if size else "of all classes at once"
        raise UserError(
            f"the run in {out} learns exemplars {groups}, which takes about {needed / 2**30:.1f} GiB, and "
            f"{planned_bytes() / 2**30:.1f} GiB are planned for it on this device: go on on a device with more memory, "
            f"try it all the same with --exemplars.group-classes {size}, or choose another --out"
        )


def starting_checkpoint(setup: Setup, checkpoints: CheckpointFolder, display: Display, record: Record) -> Checkpoint:
    """Return, in every process, the newest checkpoint that is good for the primary, or the start of the run.

    `record` is that of a run that begins now. Where a run goes on with another arithmetic, the checkpoint's record says
    so, and the user is told.
    """
    state = initial_state(setup)
    checkpoint, problem = None, ""
    try:
        if is_primary():
            checkpoint = checkpoints.latest(setup, state, display.warn)
    except UserError as error:
        problem = str(error)
    require_agreement({}, problem)
    name = broadcast_from_primary(checkpoint.resume_point.name if checkpoint else "")
    if not name:
        return Checkpoint(ResumePoint(state), [], 0.0, 0, record)
    try:
        checkpoint = checkpoint or checkpoints.named(name, setup, state)
    except UserError as error:
        problem = str(error)
    require_agreement({}, problem)
    now = arithmetic(setup)
    if changes := checkpoint.record.changes(now):
        listed = ", ".join(f"{name} {before} → {after}" for name, (before, after) in changes.items())
        display.warn(
            f"this run computed with something else until now ({listed}), so it can end with other numbers than an "
            "uninterrupted one; its summary.json will say so"
        )
    return checkpoint._replace(record=checkpoint.record.continued(now, name))


def from_base_model(cache: BaseModelCache, start: Checkpoint, display: Display) -> Checkpoint:
    """Return the checkpoint of a shared Θ_0, or `start` when that is past the first step or there is no Θ_0."""
    resume_point = start.resume_point
    if resume_point.done or resume_point.state.phase or (shared := cache.load(resume_point.state)) is None:
        return start
    display.note(f"phase 0 is trained already, by a run that starts the same ({cache.name})")
    return shared
