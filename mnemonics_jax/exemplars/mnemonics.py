"""Mnemonics: exemplars as parameters, learned by bilevel optimisation (Liu et al., CVPR 2020)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int

from mnemonics_jax.exemplars.gradient_matching import MatchesGradients
from mnemonics_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import mnemonics_jax.bilevel


@dataclass(frozen=True)
class Mnemonics(MatchesGradients):
    """Exemplars learned by bilevel optimisation: their pixels are parameters.

    E_i ← E_i − β ∇_{E_i} L_c(Θ'(E_{0:i}); D_i ∪ E_{0:i-1}), with Θ'(E) the result of the inner loop, T steps on E.
    E_i starts from real images. Old exemplars take part in both losses, so that the new ones are learned beside those
    that they will be replayed with.
    """

    name: ClassVar[str] = "mnemonics"
    learns: ClassVar[bool] = True

    start: Literal["herding", "random", "gradient"] = "herding"
    """Real images that learning starts from: those that herding picks, random ones, or those that the exemplar kind
    `gradient` chooses."""
    outer_steps: Annotated[int, Ge(0)] = 100
    """Number of outer steps in each phase; 0 leaves the real images as they are."""
    outer_learning_rate: Annotated[float, Gt(0)] = 0.02
    """Step size β of Adam on the pixels, whose range is [0, 1]; it decays to zero along a cosine."""
    outer_batch: Annotated[int, Ge(1)] = 128
    """Number of samples of an outer step, real images and old exemplars, drawn with all seen classes equally likely."""
    outer_augment: bool = True
    """Whether outer batches are augmented by the random crops and flips of training."""
    outer_clip: Annotated[float, Gt(0)] = 1.0
    """Largest global norm of the meta-gradient; a larger gradient is scaled down to it."""
    anchor: Annotated[float, Ge(0)] = 0.0
    """Weight λ, in the outer loss, of the distance (one minus cosine) between a sample's feature and its class's
    vector in the head fitted to the exemplars; the cross-entropy has weight 1. It keeps exemplars of different phases
    comparable."""
    change_cap: Annotated[float, Gt(0), Le(1)] = 1.0
    """Largest change of a pixel from the real image it started as; pixels lie in [0, 1], so 1 sets no limit."""
    outer_chunk: Annotated[int, Ge(1)] = 10
    """Number of outer steps in one compiled call; after each call progress is shown and numbers are checked."""
    group_classes: Annotated[int, Ge(0)] | None = None
    """Number of classes whose exemplars one program learns, or adjusts, at a time; 0: all at once. When not given: all
    at once where they fit the device's memory, else as many classes as fit; config.json has what was found, and the
    run keeps it on any device."""
    learn_inner_rates: bool = False
    """Whether the step size of each inner step is learned beside the pixels: its logarithm, at the same outer step
    size. The exemplar model Θ^E then uses the learned step sizes."""
    adjust: bool = False
    """Whether old exemplars are adjusted after the new ones are learned. Those of each class are split into halves A
    and B; each half is learned with the other as the data of its outer loss, since the real data is gone. Needs at
    least two exemplars of each class."""
    adjust_steps: Annotated[int, Ge(0)] = 50
    """Number of outer steps that adjust each half of the old exemplars."""
    adjust_cap: Annotated[float, Gt(0), Le(1)] = 0.05
    """Largest change of a pixel of an old exemplar in one phase; pixels lie in [0, 1]."""
    remat: Literal["auto", "none", "step", "segments"] = "auto"
    """What the backward pass recomputes to save memory: nothing, each inner step, segments of about √T steps, or
    segments only where the parameters of all steps are many beside the activations of one."""
    truncate: Annotated[int, Ge(1)] | None = None
    """Number of inner steps, the last ones, that the meta-gradient goes through; all when not given."""
    first_order: bool = False
    """Whether the meta-gradient leaves out the Hessian of the inner loss (a cheaper approximation)."""
    store: Literal["uint8", "float32"] = "uint8"
    """How a learned pixel is stored: as one byte, like a real image, or as a float of four (every result says so)."""
    gate: bool = True
    """Whether learned exemplars must pass a gate: models made to forget are trained back on them, and held-out real
    images (a tenth of each class, which learning then does not use) decide whether all, a half, a quarter or nothing of
    what learning changed is kept. Where learning is not clearly ahead, the real images stay."""
    gate_tell_apart: Annotated[float, Gt(0), Le(1)] = 0.6
    """Accuracy of a small network that tells learned exemplars from real images, above which the gate closes; 0.5 is
    chance, 1 never closes it."""

    @property
    def needs_features(self) -> bool:
        """Whether learning starts from herded images."""
        return self.start == "herding"

    @property
    def needs_gradients(self) -> bool:
        """Whether learning starts from images chosen by their gradients."""
        return self.start == "gradient"

    def validate(self) -> None:
        """Check the settings against each other.

        Raises:
            UserError: when settings contradict each other.
        """
        super().validate()
        if self.group_classes == 1:
            raise UserError(
                "--exemplars.group-classes 1: the loss of a single class has nothing to tell it from: choose at least "
                "2, or 0 for all classes in one program"
            )
        if self.truncate is not None and self.truncate > self.unroll_length:
            raise UserError(
                f"--exemplars.truncate {self.truncate}: choose from 1 to the unroll length {self.unroll_length}"
            )

    def choose(
        self, features: list[Float[np.ndarray, "_ _feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Return the indices of the real images that learning starts from."""
        if self.start == "herding":
            from mnemonics_jax.exemplars.herd import herd_classes  # imports JAX, which settings do without

            return herd_classes(features, amount, room)
        if self.start == "gradient":
            return self.match(features, amount, rng)
        return [rng.permutation(len(rows))[:amount] for rows in features]

    @property
    def stored_dtype(self) -> type:
        """Type of a stored pixel, by `store`."""
        return np.uint8 if self.store == "uint8" else np.float32

    def unroll(self) -> "mnemonics_jax.bilevel.Unroll":
        """Return how the inner loop is differentiated."""
        from mnemonics_jax import bilevel  # imports JAX, which settings do without

        return bilevel.Unroll(remat=self.remat, truncate=self.truncate, first_order=self.first_order)
