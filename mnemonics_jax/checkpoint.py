"""Phase states on disk, by Orbax: one step for each finished phase."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from mnemonics_jax.state import PhaseState


class Checkpoints:
    """The checkpoints of a run; to be used as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The last finished phase on disk, or None."""
        return self._manager.latest_step()

    def save(self, state: PhaseState) -> None:
        """Writes the state that a phase has just ended with."""
        self._manager.save(int(state.phase) - 1, args=ocp.args.StandardSave(state._asdict()))

    def restore(self, phase: int, like: PhaseState) -> PhaseState:
        """The state with which `phase` ended; `like` gives structure, shapes and dtypes."""
        plain = self._manager.restore(phase, args=ocp.args.StandardRestore(like._asdict()))
        return PhaseState(**jax.tree.map(np.asarray, plain))
