"""What an exemplar kind is: a budget, a choice of real images, and the inner loop that fits a model to exemplars."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from mnemonics_jax import bilevel
from mnemonics_jax.errors import UserError


@dataclass(frozen=True)
class Exemplars(ABC):
    """Base of all exemplar kinds. A subclass is a frozen dataclass whose fields are the kind's settings."""

    name: ClassVar[str]

    per_class: int = 20
    """Exemplars kept of each class."""
    total: int | None = None
    """Fixed total budget, shared out evenly over the classes seen and shrunk as classes arrive; overrides per_class."""

    unroll_length: int = 10
    """T, inner steps with which a model is fitted to the exemplars: Θ^E, and inside the meta-gradient. 0, with
    inner_init ridge or class_means only, solves the inner problem in closed form: their head is not trained on."""
    inner_init: Literal[
        "ridge", "class_means", "current", "reset_head", "previous", "perturbed", "partly_reset", "fresh"
    ] = "reset_head"
    """Where the inner loop starts: Θ_i whose head is a ridge regression on the exemplars' features; Θ_i whose head
    compares with their class means; Θ_i; Θ_i with a new head; Θ_{i-1}; Θ_i with noise; Θ_i with a new head and last
    stage; a new network."""
    inner_ridge: float = 1.0
    """λ of inner_init ridge, beside features of length one."""
    inner_scope: Literal["head", "last_stage", "all"] = "all"
    """Which parameters the inner loop trains."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """What takes the inner steps."""
    inner_learning_rate: float = 0.1
    """α, step size of the inner loop."""
    inner_momentum: float = 0.9
    """Momentum of the inner loop's SGD."""
    inner_batch: int | None = None
    """Exemplars of an inner step, drawn anew for each; all exemplars when not given."""
    inner_augment: bool = True
    """Whether inner batches get the crops and flips that replay uses."""

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        if self.total is None and self.per_class < 1:
            raise UserError(f"--exemplars.per-class {self.per_class}: keep at least one exemplar of each class")
        if self.total is not None and self.total < 1:
            raise UserError(f"--exemplars.total {self.total}: keep at least one exemplar of each class")
        if self.unroll_length < (0 if self.fits_head else 1):
            raise UserError(
                f"--exemplars.unroll-length {self.unroll_length}: the inner loop needs at least one step "
                "(none with --exemplars.inner-init ridge or class_means)"
            )
        if self.inner_ridge <= 0:
            raise UserError(f"--exemplars.inner-ridge {self.inner_ridge}: must be positive")
        if self.inner_batch is not None and self.inner_batch < 1:
            raise UserError(f"--exemplars.inner-batch {self.inner_batch}: must be positive, or left out for all")
        if self.inner_learning_rate <= 0:
            raise UserError(f"--exemplars.inner-learning-rate {self.inner_learning_rate}: must be positive")
        if not 0 <= self.inner_momentum < 1:
            raise UserError(f"--exemplars.inner-momentum {self.inner_momentum}: choose from 0 up to below 1")

    @property
    def fits_head(self) -> bool:
        """Whether the inner loop starts from a head that is a closed-form function of the exemplars."""
        return self.inner_init in ("ridge", "class_means")

    def capacity(self, base_classes: int) -> int:
        """M, the most exemplars a class ever has: its budget in the base phase."""
        return self.budget(base_classes)

    def budget(self, seen_classes: int) -> int:
        """Exemplars of each class once `seen_classes` have been seen."""
        return self.per_class if self.total is None else self.total // seen_classes

    @property
    def needs_features(self) -> bool:
        """Whether `choose` looks at features; without, it is handed arrays of zero columns."""
        return False

    @property
    def stored_dtype(self) -> type:
        """Type of a stored pixel: a byte."""
        return np.uint8

    def unroll(self) -> bilevel.Unroll:
        """How the inner loop is differentiated, where it is."""
        return bilevel.Unroll()

    @abstractmethod
    def choose(
        self, features: list[Float[np.ndarray, "_ feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Indices of `amount` images of each class, the most important first.

        `features` holds one array a class; `room` is the most images any class of the stream has, so that programs
        padded to it serve every phase.
        """


def check_budget(settings: Exemplars, sizes: tuple[int, ...], train_counts: Int[np.ndarray, "classes"]) -> None:
    """Raises `UserError` when a class has fewer images than its budget, or the total leaves a class with none."""
    total_classes, most = sum(sizes), settings.capacity(sizes[0])
    if settings.budget(total_classes) < 1:
        raise UserError(
            f"--exemplars.total {settings.total} leaves no exemplar for each of {total_classes} classes: "
            f"choose at least {total_classes}"
        )
    smallest = int(train_counts.min())
    if most > smallest:
        flag = "per-class" if settings.total is None else "total"
        limit = smallest if settings.total is None else smallest * sizes[0]
        raise UserError(
            f"--exemplars.{flag} {settings.per_class if settings.total is None else settings.total} asks for {most} "
            f"exemplars a class, but the smallest class has {smallest} training images: choose at most {limit}"
        )
