"""The gate of exemplar learning: learned exemplars are kept only if a probe finds them better than real images.

The probe takes models that have forgotten classes, trains them back on a candidate's exemplars, and counts the held-out
real images that they classify correctly. Candidates go a share of the way from the real images to the learned ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mnemonics_jax.exemplars.memory import Memory

SHARES = (0.0, 0.25, 0.5, 1.0)
"""Shares of the learned change that are tried."""
_NOISE = 2.0
"""How many standard errors a candidate has to be ahead of the real images."""
_HELD_SHARE, _HELD_LEAST, _HELD_MOST = 0.1, 5, 50


class Verdict(NamedTuple):
    """Decision of the gate. `scores` are mean accuracies in percent, one for each share.

    `tell_apart` has the accuracy of the small network that tells a candidate from real images, in percent; None where
    it was not trained: the candidate's score was not ahead, or a better candidate was kept.
    """

    share: float
    scores: list[float]
    tell_apart: list[float | None]


def held_out(
    indices: Int[np.ndarray, " sample"], labels: Int[np.ndarray, " sample"], rng: np.random.Generator
) -> Int[np.ndarray, " held"]:
    """Return, in rising order, the images of each class that the probe judges on; the outer loss must not use them.

    They are a tenth of the class, at least 5 and at most 50, but never more than a half.

    Args:
        indices: the phase's images.
        labels: their class positions.
        rng: draws the images.
    """
    held = []
    for label in np.unique(labels):
        group = rng.permutation(indices[labels == label])
        amount = min(max(round(_HELD_SHARE * len(group)), _HELD_LEAST), _HELD_MOST, len(group) // 2)
        held.append(group[:amount])
    return np.sort(np.concatenate(held))


def candidate(start: Memory, learned: Memory, share: float) -> Memory:
    """Return the exemplars that go a `share` of the way from `start` to `learned`, as they are stored."""
    first, last = start.images.astype(np.float32), learned.images.astype(np.float32)
    between = first + np.float32(share) * (last - first)
    # The ends must be the stored bits themselves, not floats rounded on the way.
    images = start.images if share == 0 else learned.images if share == 1 else between
    if start.images.dtype == np.uint8 and images.dtype != np.uint8:
        images = np.rint(images).astype(np.uint8)
    return learned._replace(images=images)


def hits(
    logits: Float[np.ndarray, "sample classes"], labels: Int[np.ndarray, " sample"], seen: Bool[np.ndarray, " classes"]
) -> Bool[np.ndarray, " sample"]:
    """Return which samples have the largest logit, among the classes seen, at their own class."""
    return np.where(seen, logits, -np.inf).argmax(axis=1) == labels


def decide(
    correct: Float[np.ndarray, "candidate sample"],
    tell_apart: Callable[[int], float],
    threshold: float,
    shares: tuple[float, ...] = SHARES,
) -> Verdict:
    """Return the share of the learned change to keep; a tie, or a lead within the noise, leaves the real images.

    Args:
        correct: how often the models of the pool classify each held-out image correctly, from 0 to 1; one row for each
            candidate, the first for the real images.
        tell_apart: returns the accuracy, 0 to 1, of a small network that tells a candidate from real images.
        threshold: a candidate that is told apart with more than this accuracy is not kept.
        shares: the shares of the candidates, the first 0.
    """
    lead = correct - correct[:1]
    count = correct.shape[1]
    accuracies: list[float | None] = [None] * len(shares)
    scores = (100 * correct.mean(axis=1)).tolist() if count else [0.0] * len(shares)
    if count > 1:
        noise = _NOISE * lead.std(axis=1, ddof=1) / np.sqrt(count)
        ahead = np.flatnonzero((lead.mean(axis=1) > noise) & (np.arange(len(shares)) > 0))
        for index in ahead[np.argsort(-lead.mean(axis=1)[ahead], kind="stable")].tolist():
            accuracy = tell_apart(index)
            accuracies[index] = 100 * accuracy
            if accuracy <= threshold:
                return Verdict(shares[index], scores, accuracies)
    return Verdict(0.0, scores, accuracies)


def folds(amount: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, " one"], Int[np.ndarray, " other"]]:
    """Return two random halves of range(amount), each of amount // 2 numbers or one more."""
    order = rng.permutation(amount)
    return order[: amount // 2], order[amount // 2 :]


def equal_to_any(
    images: Shaped[np.ndarray, "sample height width channel"], others: Shaped[np.ndarray, "other height width channel"]
) -> Bool[np.ndarray, " sample"]:
    """Return which images equal, in every byte, one of the others."""
    kept = {image.tobytes() for image in others}
    return np.array([image.tobytes() in kept for image in images], bool)
