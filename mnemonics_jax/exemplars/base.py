"""Base class of the exemplar kinds: budget, choice of real images, and inner loop that fits a model to exemplars."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float, Int

from mnemonics_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import mnemonics_jax.bilevel


@dataclass(frozen=True)
class ExemplarStrategy(ABC):
    """Base class of all exemplar kinds.

    A subclass is a frozen dataclass. Its fields are the settings of the kind, their docstrings the help texts.
    """

    name: ClassVar[str]
    learns: ClassVar[bool] = False
    """Whether the images that `choose` picks only start exemplar learning, whose settings are those of `Mnemonics`."""

    per_class: Annotated[int, Ge(1)] = 20
    """Number of exemplars stored of each class."""
    total: Annotated[int, Ge(1)] | None = None
    """Total number of exemplars, divided evenly among the classes seen: each class has fewer as classes arrive. Where
    given, per_class is ignored."""

    unroll_length: Annotated[int, Ge(0)] = 10
    """Number T of inner steps that fit a model to the exemplars, for the exemplar model Θ^E and in the meta-gradient. 0
    (only with inner_init ridge or class_means) takes the closed-form head as it is, without further training."""
    inner_init: Literal[
        "ridge", "class_means", "current", "reset_head", "previous", "perturbed", "partly_reset", "fresh"
    ] = "reset_head"
    """Model that the inner loop starts from. ridge: the current model Θ_i, its head replaced by a ridge regression on
    the exemplars' features; class_means: Θ_i, its head replaced by the class means of those features; current: Θ_i;
    reset_head: Θ_i with a new random head; previous: the model Θ_{i-1} of the phase before; perturbed: Θ_i with noise
    added; partly_reset: Θ_i with a new random head and last stage; fresh: a new random network."""
    inner_ridge: Annotated[float, Gt(0)] = 1.0
    """With inner_init ridge: strength λ of the regression; features are scaled to length one."""
    inner_scope: Literal["head", "last_stage", "all"] = "all"
    """Parameters that the inner loop trains: the head alone, the head and the last stage, or all."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the inner loop."""
    inner_learning_rate: Annotated[float, Gt(0)] = 0.1
    """Step size α of the inner loop."""
    inner_momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Momentum of the inner loop's SGD."""
    inner_batch: Annotated[int, Ge(1)] | None = None
    """Number of exemplars of an inner step, drawn anew for each step. When not given, every step uses all exemplars. A
    head in closed form uses all of them in any case; their features are then computed in parts of this size."""
    inner_augment: bool = True
    """Whether the inner loop augments exemplars by the random crops and flips of training."""

    def validate(self) -> None:
        """Check the settings against each other; ranges are part of the fields' types.

        Raises:
            UserError: when settings contradict each other.
        """
        if self.unroll_length < 1 and not self.fits_head:
            raise UserError(
                f"--exemplars.unroll-length {self.unroll_length}: the inner loop needs at least one step "
                "(none with --exemplars.inner-init ridge or class_means)"
            )

    @property
    def fits_head(self) -> bool:
        """Whether the inner loop starts from a head that is a closed-form function of the exemplars."""
        return self.inner_init in ("ridge", "class_means")

    def capacity(self, base_classes: int) -> int:
        """Return M, the most exemplars that a class ever has: its budget in the base phase."""
        return self.budget(base_classes)

    def budget(self, seen_classes: int) -> int:
        """Return the number of exemplars of each class once `seen_classes` have been seen."""
        return self.per_class if self.total is None else self.total // seen_classes

    @property
    def needs_features(self) -> bool:
        """Whether `choose` looks at features; where not, it gets arrays of zero columns."""
        return False

    @property
    def needs_gradients(self) -> bool:
        """Whether `choose` compares images by the gradients of replay, and gets kernels in the place of features."""
        return False

    @property
    def stored_dtype(self) -> type:
        """Type of a stored pixel: a byte."""
        return np.uint8

    def unroll(self) -> "mnemonics_jax.bilevel.Unroll":
        """Return how the meta-gradient goes through the inner loop; only learned exemplars have one."""
        from mnemonics_jax import bilevel  # imports JAX, which settings do without

        return bilevel.Unroll()

    @abstractmethod
    def choose(
        self, features: list[Float[np.ndarray, "_ _feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Return the indices of `amount` images of each class, the most important first.

        Args:
            features: one array for each class, with a row for each of its images. With `needs_gradients` it is the
                class's kernel, see `gradient_matching.match_mean`.
            amount: images to choose of each class; no class has fewer.
            room: the most images that any class of the stream has, so that programs padded to it serve every phase.
            rng: the source of random choices.
        """


def check_budget(settings: ExemplarStrategy, sizes: tuple[int, ...], train_counts: Int[np.ndarray, " classes"]) -> None:
    """Check that each class has an exemplar and as many images as its budget.

    Args:
        settings: the exemplar kind.
        sizes: number of classes of each phase.
        train_counts: training images of each class.

    Raises:
        UserError: when a class has fewer images than its budget, or the total budget leaves a class with none.
    """
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
