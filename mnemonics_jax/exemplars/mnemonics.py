"""Mnemonics: exemplars as parameters, learned by bilevel optimisation (Liu et al., CVPR 2020)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from mnemonics_jax import bilevel
from mnemonics_jax.errors import UserError
from mnemonics_jax.exemplars.base import Exemplars
from mnemonics_jax.exemplars.herding import herd_classes


@dataclass(frozen=True)
class Mnemonics(Exemplars):
    """E_i ← E_i − β ∇_{E_i} L_c(Θ'(E_{0:i}); D_i ∪ E_{0:i-1}), with Θ'(E) the inner loop's result, T steps on E.

    E_i starts from real images. Old exemplars take part in both losses, so that the new ones are learned beside what
    they will be replayed with.
    """

    name: ClassVar[str] = "mnemonics"

    start: Literal["herding", "random"] = "herding"
    """Which real images exemplars start from."""
    outer_steps: int = 100
    """Outer steps of each phase; 0 leaves the starting images as they are."""
    outer_learning_rate: float = 0.02
    """β, step size of Adam on the pixels, in units of the pixel range [0, 1]; decays to zero along a cosine."""
    outer_batch: int = 128
    """Samples of an outer step, drawn with all seen classes equally likely."""
    outer_augment: bool = True
    """Whether outer batches get the crops and flips that replay uses."""
    outer_clip: float = 1.0
    """Largest global norm of the meta-gradient; a longer one is scaled down to it."""
    anchor: float = 0.0
    """Weight, beside the cross-entropy of the outer loss, of the distance (one minus cosine) between a sample's
    feature and its class's vector in the fitted head. Keeps what is learned in different phases comparable."""
    change_cap: float = 1.0
    """Farthest a pixel may move from the starting image, in units of the pixel range; 1 sets no limit."""
    outer_chunk: int = 10
    """Outer steps of one compiled call; progress shows and numbers are checked after each."""
    group_classes: int | None = None
    """Classes learned together, in a program of their own. None: all exemplars in one program where that fits the
    device's memory, else as many classes as do."""
    learn_inner_rates: bool = False
    """Learn the size of each inner step beside the pixels, in its logarithm and at their rate; the exemplar-fitted
    model uses the learned sizes."""
    adjust: bool = False
    """After the new exemplars, adjust the old ones: split class-wise into halves A and B, each is learned with the
    other as the data of its outer loss, since the real data is gone. Needs two exemplars of each class."""
    adjust_steps: int = 50
    """Outer steps of each half."""
    adjust_cap: float = 0.05
    """Farthest a pixel of an old exemplar may move in one phase, in units of the pixel range."""
    remat: Literal["none", "step", "segments"] = "step"
    """What the backward pass recomputes instead of storing: nothing, each inner step, or segments of about √T steps."""
    truncate: int | None = None
    """Back-propagate through the last so many inner steps only; all when not given."""
    first_order: bool = False
    """Leave the inner Hessian out of the meta-gradient."""
    store: Literal["uint8", "float32"] = "uint8"
    """What is kept of a learned pixel: a byte, as of a real image, or four (labelled in every result)."""

    @property
    def needs_features(self) -> bool:
        """Herding starts look at features."""
        return self.start == "herding"

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        super().validate()
        for name in ("outer_learning_rate", "outer_batch", "outer_clip", "outer_chunk", "change_cap", "adjust_cap"):
            if getattr(self, name) <= 0:
                raise UserError(f"--exemplars.{name.replace('_', '-')} {getattr(self, name)}: must be positive")
        for name in ("outer_steps", "adjust_steps", "anchor"):
            if getattr(self, name) < 0:
                raise UserError(f"--exemplars.{name.replace('_', '-')} {getattr(self, name)}: must not be negative")
        if self.group_classes is not None and self.group_classes < 2:
            raise UserError(f"--exemplars.group-classes {self.group_classes}: a group needs at least two classes")
        if self.group_classes is not None and self.adjust:
            raise UserError(
                "--exemplars.adjust needs all exemplars in one program: leave it out, or leave out "
                f"--exemplars.group-classes {self.group_classes}"
            )
        if self.truncate is not None and not 1 <= self.truncate <= self.unroll_length:
            raise UserError(
                f"--exemplars.truncate {self.truncate}: choose from 1 to the unroll length {self.unroll_length}"
            )

    def choose(
        self, features: list[Float[np.ndarray, "_ feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """The real images that learning starts from."""
        if self.start == "herding":
            return herd_classes(features, amount, room)
        return [rng.permutation(len(rows))[:amount] for rows in features]

    @property
    def stored_dtype(self) -> type:
        """Type of a stored pixel, by `store`."""
        return np.uint8 if self.store == "uint8" else np.float32

    def unroll(self) -> bilevel.Unroll:
        """How the inner loop is differentiated."""
        return bilevel.Unroll(remat=self.remat, truncate=self.truncate, first_order=self.first_order)
