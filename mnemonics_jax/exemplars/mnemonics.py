"""Mnemonics: exemplars as parameters, learned by bilevel optimisation (Liu et al., CVPR 2020)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from mnemonics_jax import bilevel
from mnemonics_jax.data.batches import DeviceStore, balanced
from mnemonics_jax.errors import NumbersError, UserError
from mnemonics_jax.exemplars.base import Exemplars
from mnemonics_jax.exemplars.herding import herd_classes
from mnemonics_jax.exemplars.inner import InnerBatches, InnerProgram, Models, draw_batches
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.outer import OuterBatches, OuterProblem, learn_chunk, optimizer, outer_losses
from mnemonics_jax.rng import Key, Use, generator, stream_key


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
    outer_chunk: int = 10
    """Outer steps of one compiled call; progress shows and numbers are checked after each."""
    remat: Literal["none", "step", "segments"] = "step"
    """What the backward pass recomputes instead of storing: nothing, each inner step, or segments of about √T steps."""
    truncate: int | None = None
    """Back-propagate through the last so many inner steps only; all when not given."""
    first_order: bool = False
    """Leave the inner Hessian out of the meta-gradient."""
    store: Literal["uint8", "float32"] = "uint8"
    """What is kept of a learned pixel: a byte, as of a real image, or four (labelled in every result)."""

    @property
    def needs_features(self) -> bool:  # type: ignore[override]
        """Herding starts look at features."""
        return self.start == "herding"

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        super().validate()
        for name in ("outer_learning_rate", "outer_batch", "outer_clip", "outer_chunk"):
            if getattr(self, name) <= 0:
                raise UserError(f"--exemplars.{name.replace('_', '-')} {getattr(self, name)}: must be positive")
        if self.outer_steps < 0:
            raise UserError(f"--exemplars.outer-steps {self.outer_steps}: must not be negative")
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


class Learned(NamedTuple):
    """What exemplar learning did in a phase, for the log."""

    outer_loss_before: float
    """Mean outer loss with the starting images, over a fixed set of outer batches."""
    outer_loss_after: float
    """The same with the exemplars as they are stored."""
    pixel_change: float
    """Mean absolute change of a learned pixel, in units of the pixel range."""
    gradient_norm: float
    """Mean norm of the meta-gradient before clipping."""
    clipped: int
    """Outer steps whose meta-gradient was clipped."""


def learn(
    program: InnerProgram,
    models: Models,
    memory: Memory,
    classes: range,
    seen: Bool[np.ndarray, "classes"],
    store: DeviceStore,
    indices: Int[np.ndarray, "sample"],
    labels: Int[np.ndarray, "label"],
    key: Key,
    phase: int,
    report: Callable[[int, float], None],
) -> tuple[Memory, Learned]:
    """The memory with the exemplars of `classes` learned; all other slots unchanged.

    Outer batches come from the samples `indices` of `store`, `labels[index]` being their classes; `report` is told
    (steps done, mean outer loss) after each chunk. Raises `NumbersError` within one chunk of a loss or
    meta-gradient that is not finite.
    """
    settings = program.settings
    position = memory.labels()
    learned = memory.used.reshape(-1) & np.isin(position, classes)
    problem = OuterProblem(models, position, learned, seen)
    pixels = start = _as_pixels(memory.images)
    opt_state = _init(settings.outer_clip, start)
    rates = _cosine_decay(settings)
    probe = _batches(program, memory, store, indices, labels, rates, generator(key, phase, Use.FIT, 1))(0)
    probe_key = stream_key(key, phase, Use.FIT, 1)
    before = outer_losses(program, problem, start, probe, probe_key)
    batches_at = _batches(program, memory, store, indices, labels, rates, generator(key, phase, Use.OUTER))
    norms: list[np.ndarray] = []
    for first in range(0, settings.outer_steps, settings.outer_chunk):
        batches = batches_at(first)
        pixels, opt_state, log = learn_chunk(
            program, problem, pixels, opt_state, batches, stream_key(key, phase, Use.INNER)
        )
        losses, norm = (np.asarray(values)[batches.active] for values in log)
        norms.append(norm)
        if not (np.isfinite(losses).all() and np.isfinite(norm).all()):
            bad = first + int(np.flatnonzero(~np.isfinite(losses + norm))[0])
            raise NumbersError(f"the outer loss or its meta-gradient is not finite at outer step {bad}")
        report(first + len(losses), float(losses.mean()))
    stored = _as_stored(np.asarray(pixels), memory, learned)
    after = outer_losses(program, problem, _as_pixels(stored.images), probe, probe_key)
    norm = np.concatenate(norms) if norms else np.zeros(1, np.float32)
    change = np.abs(_as_pixels(stored.images) - start)[learned].mean()
    return stored, Learned(
        outer_loss_before=float(np.mean(before)),
        outer_loss_after=float(np.mean(after)),
        pixel_change=float(change),
        gradient_norm=float(norm.mean()),
        clipped=int((norm > settings.outer_clip).sum()),
    )


def _as_pixels(images: Shaped[np.ndarray, "classes slot height width channel"]) -> Float[np.ndarray, "slots ..."]:
    flat = images.reshape(-1, *images.shape[2:])
    return flat if flat.dtype == np.float32 else flat / np.float32(255)


def _as_stored(pixels: Float[np.ndarray, "slots ..."], memory: Memory, learned: Bool[np.ndarray, "slots"]) -> Memory:
    """The memory with its learned slots' pixels replaced, rounded to bytes where it keeps bytes."""
    images = memory.images.reshape(pixels.shape).copy()
    images[learned] = pixels[learned] if images.dtype == np.float32 else np.rint(pixels[learned] * 255).astype(np.uint8)
    return memory._replace(images=images.reshape(memory.images.shape))


def _cosine_decay(settings: Mnemonics) -> Float[np.ndarray, "steps"]:
    share = np.arange(settings.outer_steps) / max(settings.outer_steps, 1)
    return (settings.outer_learning_rate * 0.5 * (1 + np.cos(np.pi * share))).astype(np.float32)


@partial(jax.jit, static_argnums=0)
def _init(clip: float, pixels: Float[Array, "slots ..."]) -> optax.OptState:
    return optimizer(clip).init(pixels)


def _batches(
    program: InnerProgram,
    memory: Memory,
    store: DeviceStore,
    indices: Int[np.ndarray, "sample"],
    labels: Int[np.ndarray, "label"],
    rates: Float[np.ndarray, "steps"],
    rng: np.random.Generator,
) -> Callable[[int], OuterBatches]:
    """The outer batches of the chunk that starts at a step; to be called for one chunk after another."""
    settings = program.settings
    outer = balanced(indices, labels[indices], rng, settings.outer_batch)

    def chunk(first: int) -> OuterBatches:
        steps = np.arange(first, first + settings.outer_chunk)
        index = np.stack([next(outer) for _ in steps])
        inner = [draw_batches(settings, memory, rng) for _ in steps]
        padded = np.append(rates, np.zeros(settings.outer_chunk, np.float32))
        return OuterBatches(
            images=store.take(index),
            labels=labels[index],
            inner=InnerBatches(*(np.stack(parts) for parts in zip(*inner, strict=True))),
            learning_rate=padded[steps],
            index=steps.astype(np.int32),
            active=steps < settings.outer_steps,
        )

    return chunk
