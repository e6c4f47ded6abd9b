"""A whole run as a function: configuration in, `Result` out, in memory or in a folder."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from mnemonics_jax import data
from mnemonics_jax.config.config import Config
from mnemonics_jax.phase.callbacks import NO_CALLBACKS, Callbacks
from mnemonics_jax.phase.evaluation import Accuracies, accuracies
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.setup import Setup, make_setup
from mnemonics_jax.phase.state import PhaseState, initial_state
from mnemonics_jax.runs.checkpoint import CheckpointFolder
from mnemonics_jax.runs.folder import with_recorded
from mnemonics_jax.runs.model import Model, model_of
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.progress import Display

if TYPE_CHECKING:
    import pandas as pd


class LabelledImages(NamedTuple):
    """Images, and their labels in the data set's own numbering."""

    images: Shaped[np.ndarray, "image height width channel"]
    labels: Int[np.ndarray, " image"]


@dataclass(frozen=True, eq=False)
class Result:
    """The results of a finished run. Accuracies are percentages from 0 to 100; phase i counts from 0 to N."""

    setup: Setup
    state: PhaseState
    """The state after the last phase."""

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.setup.config

    @property
    def accuracy(self) -> list[float]:
        """A_i, the accuracy of Θ_i on all classes seen after phase i."""
        return self._model_level.overall.tolist()

    @property
    def average_accuracy(self) -> float:
        """The mean of A_0 .. A_N."""
        return self._model_level.average

    @property
    def forgetting(self) -> float:
        """Accuracy of Θ_0 minus accuracy of Θ_N on the classes of phase 0, in percentage points."""
        return self._model_level.forgetting

    @property
    def average_forgetting(self) -> float:
        """Best earlier minus final accuracy on the classes of a phase, mean over phases 0 .. N-1, in percentage points.

        1/N Σ_{g<N} (max_{g≤l<N} a_{l,g} − a_{N,g}), a being `accuracy_matrix` (Chaudhry et al., ECCV 2018).
        """
        return self._model_level.average_forgetting

    @property
    def backward_transfer(self) -> float:
        """Final accuracy minus that on arrival on the classes of a phase, mean over phases 0 .. N-1, in points.

        1/N Σ_{g<N} (a_{N,g} − a_{g,g}), a being `accuracy_matrix` (Lopez-Paz and Ranzato, NeurIPS 2017).
        """
        return self._model_level.backward_transfer

    @property
    def accuracy_matrix(self) -> Float[np.ndarray, "phases groups"]:
        """Accuracy after phase i (rows) on the classes that arrived in phase g (columns); NaN for g > i."""
        return self._model_level.matrix

    @property
    def accuracy_exemplar_model(self) -> list[float] | None:
        """Accuracies of Θ_i^E, the model fitted to the exemplars alone; None for a method without exemplars."""
        if not self.config.method.uses_memory:
            return None
        return self._accuracies(self.state.num_correct_exemplar_model).overall.tolist()

    @property
    def exemplars(self) -> LabelledImages:
        """Exemplars of all classes after the last phase: uint8, or float32 in [0, 1] where they are not rounded."""
        memory = self.state.memory
        images = memory.images.reshape(-1, *memory.images.shape[2:])
        return LabelledImages(images[memory.slots()], self.setup.stream.order[memory.labels()[memory.slots()]])

    @property
    def model(self) -> Model:
        """Θ_N, the last model, which is called with images."""
        return model_of(self.setup, self.state)

    def to_pandas(self) -> "pd.DataFrame":
        """Return a table with a row for each phase: classes seen, both accuracies, and accuracy by class group."""
        import pandas as pd

        stream = self.setup.stream
        table = {"seen_classes": [stream.seen(i) for i in range(stream.num_phases)], "accuracy": self.accuracy}
        if self.accuracy_exemplar_model is not None:
            table["accuracy_exemplar_model"] = self.accuracy_exemplar_model
        table |= {f"group_{g}": column for g, column in enumerate(self.accuracy_matrix.T)}
        return pd.DataFrame(table, index=pd.RangeIndex(stream.num_phases, name="phase"))

    @cached_property
    def _model_level(self) -> Accuracies:
        return self._accuracies(self.state.num_correct)

    def _accuracies(self, num_correct: Int[np.ndarray, "phases groups"]) -> Accuracies:
        return accuracies(num_correct, self.setup.stream.test_labels, self.setup.stream.phase_of_class())


def run(config: Config, out: Path | str | None = None, *, callbacks: Callbacks = NO_CALLBACKS) -> Result:
    """Run all phases of `config` and return their result.

    Args:
        config: a configuration from `make_config`.
        out: folder for settings, metrics, checkpoints and summary; an interrupted run there is resumed. Progress is
            shown on standard error. Without `out` nothing is written.
        callbacks: receives the progress of a run without `out`.

    Raises:
        UserError: before any training, for settings that cannot work or do not fit the data; when a file cannot be
            written.
        NumbersError: when a loss or gradient is not finite.
    """
    if out is not None:
        # The data are loaded once, for the run and for its result.
        load = lru_cache(maxsize=1)(data.load)
        with Display() as display:
            run_in_folder(config, Path(out), display, load=load)
            setup = make_setup(with_recorded(Path(out), config), load)
            with CheckpointFolder(Path(out) / "checkpoints") as checkpoints:
                return Result(setup, checkpoints.after(setup.stream.num_phases - 1, setup, initial_state(setup)))
    setup = make_setup(config)
    state = initial_state(setup)
    for _ in range(setup.stream.num_phases):
        state = run_phase(setup, state, callbacks)
    return Result(setup, state)
