"""What a method is: a loss, a step before and after training, and a prediction rule. Never a training loop."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mnemonics_jax.nets.classifier import Outputs
from mnemonics_jax.stream import Classes


class Bias(NamedTuple):
    """Correction `scale · logit + shift` of each class's logit (BiC); one and zero leave logits as they are."""

    scale: Float[Array | np.ndarray, "classes"]
    shift: Float[Array | np.ndarray, "classes"]

    def correct(self, logits: Float[Array | np.ndarray, "batch classes"]) -> Float[Array | np.ndarray, "batch classes"]:
        """The corrected logits."""
        return logits * self.scale + self.shift


class LossInputs(NamedTuple):
    """What a method's loss sees of one batch. `previous` is Θ_{i-1} on the same augmented images (zeros in phase 0)."""

    outputs: Outputs
    previous: Outputs
    labels: Int[Array, "batch"]
    classes: Classes
    bias: Bias


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods. A subclass is a frozen dataclass whose fields are the method's settings."""

    name: ClassVar[str]
    head: ClassVar[Literal["linear", "cosine"]] = "linear"
    predicts_by: ClassVar[Literal["classifier", "nearest_mean"]] = "classifier"
    uses_memory: ClassVar[bool] = True
    """Whether exemplars are kept and replayed."""
    sees_all_data: ClassVar[bool] = False
    """Whether every phase trains on all data so far (the upper bound)."""
    imprints: ClassVar[bool] = False
    """Whether `prepare` wants the new classes' mean features."""
    holdout: ClassVar[float] = 0.0
    """Share of the exemplars kept out of training for `calibrate`, with as many new samples a class."""

    def __init_subclass__(cls) -> None:
        # A subclass that trains otherwise must not pass for its parent.
        if {"loss", "prepare", "restrict"} & vars(cls).keys() and "first_phase" not in vars(cls):
            cls.first_phase = Method.first_phase

    @property
    def first_phase(self) -> str:
        """Names what training computes in phase 0: methods that name the same, on the same head, make the same Θ_0.

        To the bit, so that it can be trained once for all of them. By default the method with all its settings.
        """
        return repr(self)

    def validate(self) -> None:  # noqa: B027 (a method without settings has nothing to check)
        """Raises `UserError` for a setting out of range."""

    def prepare(self, params: dict, class_means: Float[Array, "classes feature"], classes: Classes) -> dict:
        """Parameters to start the phase from. `class_means` are Θ_{i-1}'s mean unit features of the new classes."""
        del class_means, classes
        return params

    @abstractmethod
    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """The training loss, a mean over the batch."""

    def restrict(self, updates: dict, classes: Classes) -> dict:
        """The parameter updates with those of frozen parameters set to zero."""
        del classes
        return updates

    def calibrate(
        self,
        logits: Float[Array, "sample classes"],
        labels: Int[Array, "sample"],
        weights: Float[Array, "sample"],
        classes: Classes,
        bias: Bias,
    ) -> Bias:
        """The bias correction fitted on held-out samples after training; only called where `holdout` > 0."""
        del logits, labels, weights, classes
        return bias


def count(mask: Bool[Array, "classes"]) -> Float[Array, ""]:
    """How many classes a mask names."""
    return jnp.sum(mask, dtype=jnp.float32)
