"""Base class of the methods: a loss, hooks before and after training, a prediction rule; never a training loop."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mnemonics_jax.data.class_stream import Classes
from mnemonics_jax.nets.outputs import Outputs
from mnemonics_jax.runtime.lazy import Array, jnp


class LogitCorrection(NamedTuple):
    """Correction `scale · logit + shift` of each class's logit (BiC); scale 1 and shift 0 leave logits as they are."""

    scale: Float[Array | np.ndarray, " classes"]
    shift: Float[Array | np.ndarray, " classes"]

    def correct(self, logits: Float[Array | np.ndarray, "batch classes"]) -> Float[Array | np.ndarray, "batch classes"]:
        """Return the corrected logits."""
        return logits * self.scale + self.shift


class LossInputs(NamedTuple):
    """Inputs of a method's loss for one batch.

    `outputs` are those of Θ_i, the model being trained, `previous` those of Θ_{i-1} on the same augmented images (zeros
    in phase 0). `labels` are class positions; `classes` masks the old, new and seen ones.
    """

    outputs: Outputs
    previous: Outputs
    labels: Int[Array, " batch"]
    classes: Classes
    correction: LogitCorrection


@dataclass(frozen=True)
class Method(ABC):
    """Base class of all methods.

    A subclass is a frozen dataclass. Its fields are the settings of the method, their docstrings the help texts.
    """

    name: ClassVar[str]
    head: ClassVar[Literal["linear", "cosine"]] = "linear"
    predicts_by: ClassVar[Literal["classifier", "nearest_mean"]] = "classifier"
    uses_memory: ClassVar[bool] = True
    """Whether exemplars are stored and replayed."""
    sees_all_data: ClassVar[bool] = False
    """Whether every phase trains on the data of all phases so far (the upper bound)."""
    imprints: ClassVar[bool] = False
    """Whether `init_head` needs the mean features of the new classes."""
    holdout: ClassVar[float] = 0.0
    """Share of the exemplars held out of training for `fit_correction`, with as many images of each new class."""

    @property
    def base_loss(self) -> str | None:
        """Name of the loss of phase 0; runs whose methods give the same name share their base model Θ_0.

        So methods of one name, on the same head, have to train the same Θ_0 to the bit. A subclass does not inherit the
        name, since it may train otherwise: it states one itself, or shares Θ_0 only with runs of its own class and
        settings, as methods do where this is None.
        """
        return None

    def validate(self) -> None:  # noqa: B027 (most methods have nothing to check)
        """Check the settings against each other; ranges are part of the fields' types.

        Raises:
            UserError: when settings contradict each other.
        """

    def init_head(self, params: dict, class_means: Float[Array, "classes feature"], classes: Classes) -> dict:
        """Return the parameters to start the phase from.

        Without this, new classes start from head columns as they were drawn at initialisation: training leaves the
        columns of classes to come alone, so they need no new draw.

        Args:
            params: parameters of Θ_{i-1}.
            class_means: mean unit features of the new classes under Θ_{i-1}; zero for all other classes.
            classes: masks of the old, new and seen classes.
        """
        del class_means, classes
        return params

    @abstractmethod
    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """Return the training loss, a mean over the batch."""

    def mask_updates(self, updates: dict, classes: Classes) -> dict:
        """Return the parameter updates, with those of frozen parameters set to zero."""
        del classes
        return updates

    def fit_correction(
        self,
        logits: Float[Array, "sample classes"],
        labels: Int[Array, " sample"],
        weights: Float[Array, " sample"],
        classes: Classes,
        correction: LogitCorrection,
    ) -> LogitCorrection:
        """Return the logit correction fitted to held-out samples after training; called only where `holdout` > 0.

        Args:
            logits: uncorrected logits of Θ_i.
            labels: class positions of the samples.
            weights: 1 for a sample, 0 for padding.
            classes: masks of the old, new and seen classes.
            correction: the correction that the previous phases fitted.
        """
        del logits, labels, weights, classes
        return correction


def count(mask: Bool[Array, " classes"]) -> Float[Array, ""]:
    """Return how many classes a mask selects."""
    return jnp.sum(mask, dtype=jnp.float32)
