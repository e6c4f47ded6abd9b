"""Gradient matching: real images that pull a model which has forgotten their class as the whole class would.

Replay is training, so what counts of an exemplar is its gradient. The mean gradient of the chosen images is to be near
that of all images of the class, at models that have forgotten it. Selections of this kind are known from coresets
(Mirzasoleiman et al., Coresets for Data-efficient Training, ICML 2020); gradients are those of the head alone. The mean
feature is to be near as well, as in herding: by gradients alone the choice is worse where few images are kept of
classes that vary much. Each chosen image is to be like its class by itself, too: a few outliers can have the right mean
between them and still be poor exemplars.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge
from jaxtyping import Bool, Float, Int

from mnemonics_jax.exemplars.base import ExemplarStrategy

Kernel = Float[np.ndarray, "sample sample"]

# Ends of one start alone can be worse than the best of 200 random subsets (digits, 4 of 146 images).
_RANDOM = 8


@dataclass(frozen=True)
class MatchesGradients(ExemplarStrategy):
    """Base class of the kinds that can choose real images by the gradients of replay."""

    typicality: Annotated[float, Ge(0)] = 0.0
    """How much, in the choice by gradients, each image has to be like its class by itself, beside the mean of those
    chosen. The more images are chosen, the less it counts. 0: the mean alone counts."""

    def match(
        self, kernels: list[Float[np.ndarray, "_sample _sample"]], amount: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Return the choice of `match_mean` for the kernel of each class."""
        return [match_mean(kernel, amount, rng, self.typicality) for kernel in kernels]


@dataclass(frozen=True)
class GradientMatching(MatchesGradients):
    """Real images whose mean replay gradient and mean feature are near those of their class.

    Gradients are taken at models that were made to forget the class, features of the model as it is.
    """

    name: ClassVar[str] = "gradient"

    @property
    def needs_gradients(self) -> bool:
        """True: images are compared by the gradients of replay."""
        return True

    def choose(
        self, features: list[Float[np.ndarray, "_ _feature"]], amount: int, room: int, rng: np.random.Generator
    ) -> list[Int[np.ndarray, " amount"]]:
        """Return the choice of `match_mean` for the kernel of each class; `room` is not used."""
        del room
        return self.match(features, amount, rng)


def gradient_kernel(
    logits: Float[np.ndarray, "sample classes"],
    features: Float[np.ndarray, "sample feature"],
    label: int,
    seen: Bool[np.ndarray, " classes"],
    *,
    cosine: bool,
) -> Kernel:
    """Return the inner products of the images' head gradients, float64, scaled to a mean square norm of one.

    The gradient of the cross-entropy at an image x is (p(x) − y) φ(x)ᵀ, where p is the softmax over the classes `seen`
    and y is one-hot. Of a linear head φ has a one appended, for the bias. Of a cosine head φ is the unit feature, and
    the gradient is that by the classes' unit vectors, up to the head's scale.

    Args:
        logits: the model's logits for images of one class.
        features: the model's features for them.
        label: position of their class.
        seen: mask of the classes that the model tells apart.
        cosine: whether the head is a cosine head.
    """
    shifted = np.where(seen, logits.astype(np.float64), -np.inf)
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    errors = shifted / shifted.sum(axis=1, keepdims=True)
    errors[:, label] -= 1
    inputs = features.astype(np.float64)
    if cosine:
        inputs /= np.maximum(np.linalg.norm(inputs, axis=1, keepdims=True), 1e-12)
    else:
        inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    kernel = (errors @ errors.T) * (inputs @ inputs.T)
    return kernel / max(float(np.diag(kernel).mean()), 1e-24)


def unit_variance(kernel: Kernel) -> Kernel:
    """Return the kernel of the same vectors without their mean, scaled to a mean square norm of one.

    The subsets that `match_mean` prefers are the same; kernels of different vectors can then be added.
    """
    centred = _centred(kernel)
    return centred / max(float(np.diag(centred).mean()), 1e-24)


def match_mean(
    kernel: Kernel, amount: int, rng: np.random.Generator, typicality: float = 0.0
) -> Int[np.ndarray, " amount"]:
    """Return a subset S whose mean is near the mean μ of all: ‖μ − 1/m Σ_S g_j‖² + τ/m² · 1/m Σ_S ‖g_j − μ‖² is small.

    The second term of a random subset is τ/m times the first on average: τ has the unit of a number of images.

    From greedy picks, as in herding, and from some random subsets, the exchange of one image that helps most is made
    until none helps; the best end counts. Its order is greedy again: the first k of the m images are a good subset too.

    Args:
        kernel: inner products of vectors g_j, one for each of n images.
        amount: m, at most n.
        rng: draws the random subsets.
        typicality: τ.
    """
    # With vectors that have no mean, m² times what is to be small is a sum over pairs of S, its diagonal times 1 + τ/m.
    costs = _centred(kernel)
    costs += typicality / amount * np.diag(np.diag(costs))
    everything = np.arange(len(costs))
    starts = [_greedy(costs, amount, everything)] + [rng.permutation(everything)[:amount] for _ in range(_RANDOM)]
    ends = [_exchange(costs, start) for start in starts]
    return _greedy(costs, amount, min(ends, key=lambda chosen: costs[np.ix_(chosen, chosen)].sum()))


def _centred(kernel: Kernel) -> Kernel:
    return kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()


def _exchange(costs: Kernel, chosen: Int[np.ndarray, " amount"]) -> Int[np.ndarray, " amount"]:
    """Return the subset after the best exchanges of one image, until none lowers the sum of its costs."""
    chosen, norms, sums = chosen.copy(), np.diag(costs), costs[:, chosen].sum(axis=1)
    # Each exchange lowers the sum, so no subset comes back; the bound is for rounding alone.
    for _ in range(10 * len(chosen)):
        # Change of the sum when image `row` of the choice gives way to image `column`.
        change = (2 * sums + norms)[None, :] - (2 * sums - norms)[chosen][:, None] - 2 * costs[chosen]
        change[:, chosen] = np.inf
        row, column = np.unravel_index(change.argmin(), change.shape)
        if change[row, column] >= -1e-9 * len(chosen):
            break
        sums += costs[:, column] - costs[:, chosen[row]]
        chosen[row] = column
    return chosen


def _greedy(costs: Kernel, amount: int, allowed: Int[np.ndarray, " allowed"]) -> Int[np.ndarray, " amount"]:
    """Return `amount` of the `allowed` images, each the one that adds least to the sum of costs of the chosen."""
    norms, sums = np.diag(costs)[allowed], np.zeros(len(allowed))
    free, picks = np.ones(len(allowed), bool), np.zeros(amount, int)
    for count in range(amount):
        best = int(np.where(free, 2 * sums + norms, np.inf).argmin())
        picks[count], free[best] = allowed[best], False
        sums += costs[allowed, allowed[best]]
    return picks
