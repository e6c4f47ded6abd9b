"""Exemplar learning: a bilevel problem's outer loop as chunks of jitted steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from mnemonics_jax.data.image_store import Samples
from mnemonics_jax.data.sampling import Balanced
from mnemonics_jax.exemplars.inner import InnerProblem, InnerProgram, Meta, Models
from mnemonics_jax.exemplars.inner_batches import InnerBatches, draw_batches
from mnemonics_jax.exemplars.memory import Memory
from mnemonics_jax.exemplars.mnemonics import Mnemonics
from mnemonics_jax.exemplars.outer import OuterBatches, OuterLog, OuterProblem, learn_chunk, optimizer, outer_losses
from mnemonics_jax.exemplars.problems import BilevelProblem
from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.errors import NotFinite
from mnemonics_jax.runtime.random_streams import PhaseStreams, Use


class LearnState(NamedTuple):
    """State that outer steps change; `norms` are those of the meta-gradients so far, zero for later steps."""

    meta: Meta
    opt_state: optax.OptState
    norms: Float[Array | np.ndarray, " outer_steps"]


class LearningStart(NamedTuple):
    """Start of a bilevel problem: the models, its rows of the memory, and the logarithms of the inner step sizes."""

    models: Models
    memory: Memory
    log_rates: Float[np.ndarray, " steps"]


class Learned(NamedTuple):
    """Result of a bilevel problem; `summary` has pixel_change, gradient_norm, clipped and inner_rates for the log.

    These are the mean absolute change of a learned pixel in units of the pixel range, the mean norm of the
    meta-gradient before clipping, how many outer steps were clipped, and the size of each inner step.
    """

    memory: Memory
    log_rates: Float[np.ndarray, " steps"]
    summary: dict[str, Any]


@dataclass(frozen=True)
class LearningLoop:
    """The outer loop of a bilevel problem, as a `ChunkProgram`; its outer batches are drawn from `samples`.

    `title` names its stage; `streams` are the random streams of this problem in its phase.
    """

    not_finite: ClassVar[NotFinite] = NotFinite(
        "the outer loss or its meta-gradient",
        "outer step",
        "try a smaller --exemplars.inner-learning-rate, --exemplars.outer-learning-rate or --exemplars.outer-clip",
    )

    program: InnerProgram
    title: str
    problem: BilevelProblem
    start: LearningStart
    samples: Samples
    streams: PhaseStreams

    @property
    def steps(self) -> int:
        """Number of outer steps of the problem."""
        return self.problem.steps

    @property
    def chunk_steps(self) -> int:
        """Number of outer steps of one compiled call."""
        return self._settings.outer_chunk

    def begin(self, loop_state: LearnState | None) -> LearnState:
        """Return `loop_state` on the devices; without one, the state before the first step."""
        state = loop_state or init_learning(self._settings, self.start.memory, self.start.log_rates, self.steps)
        return self.program.devices.put_whole(state)

    def batches(self, first: int) -> Iterator[OuterBatches]:
        """Yield the batches of each chunk of outer steps from step `first` on, a multiple of `chunk_steps`."""
        return self._draw(Use.OUTER, Use.INNER_BATCHES, first)

    def run(self, state: LearnState, batches: OuterBatches) -> tuple[LearnState, OuterLog]:
        """Return the state after a chunk, and each step's log."""
        args = (self.program, self.outer_problem, state.meta, state.opt_state, batches, self.key)
        meta, opt_state, log = lockstep.vmapped_call(learn_chunk, *args)
        return LearnState(meta, opt_state, _with_norms(state.norms, batches.index, log.gradient_norm)), log

    def progress(self, done: int, log: dict[str, np.ndarray]) -> dict[str, int | float]:
        """Return the chunk's mean outer loss."""
        del done
        return {"loss": float(log["loss"].mean())}

    def event(self, first: int, done: int, progress: dict[str, int | float]) -> tuple[str, dict[str, Any]] | None:
        """Return the event `outer`, after every chunk."""
        del first, done
        return "outer", {"problem": self.streams.index, "stage": self.title, **progress}

    def probe(self, memory: Memory, log_rates: Float[np.ndarray, " steps"]) -> float:
        """Return the mean outer loss with the exemplars of `memory`, over a fixed set of outer batches."""
        meta = self.program.devices.put_whole(Meta(_as_pixels(memory.images), log_rates))
        args = (self.program, self.outer_problem, meta, self._probe_batches, self.streams(Use.PROBE).jax_key())
        return float(np.mean(lockstep.vmapped_call(outer_losses, *args)))

    def finish(self, state: LearnState) -> Learned:
        """Return the exemplars as they are stored; slots that are not learned are unchanged."""
        learned, settings = self.problem.learned.reshape(-1), self._settings
        norms = np.asarray(state.norms)
        stored = _as_stored(np.asarray(state.meta.pixels), self.start.memory, learned)
        change = np.abs(_as_pixels(stored.images) - _as_pixels(self.start.memory.images))
        log_rates = np.asarray(state.meta.log_rates)
        summary = {
            "pixel_change": float(change[learned].mean()),
            "gradient_norm": float(norms.mean()) if len(norms) else 0.0,
            "clipped": int((norms > settings.outer_clip).sum()),
            "inner_rates": np.exp(log_rates)[: settings.unroll_length].tolist(),
        }
        return Learned(stored, log_rates, summary)

    @property
    def key(self) -> np.ndarray:
        """Raw data of the PRNG key of the outer steps."""
        return self.streams(Use.INNER).jax_key()

    @cached_property
    def outer_problem(self) -> OuterProblem:
        """Constant inputs of the outer steps, on the devices."""
        models, memory, _ = self.start
        pixels, cap = _as_pixels(memory.images), self.problem.cap
        labels = np.repeat(self.problem.positions, memory.images.shape[1])
        inner = InnerProblem(models, labels, self.problem.seen)
        low, high = np.clip(pixels - cap, 0, 1), np.clip(pixels + cap, 0, 1)
        return self.program.devices.put_whole(OuterProblem(inner, self.problem.learned.reshape(-1), low, high))

    @property
    def _settings(self) -> Mnemonics:
        return self.program.settings

    @cached_property
    def _probe_batches(self) -> OuterBatches:
        return next(self._draw(Use.PROBE, Use.PROBE_INNER_BATCHES, 0))

    def _draw(self, outer: Use, inner: Use, first: int) -> Iterator[OuterBatches]:
        """Yield the batches of each chunk, drawn from the random streams of two uses."""
        settings, samples = self._settings, self.samples
        # The probe takes a whole chunk, however few outer steps there are.
        room = max(self.steps, self.chunk_steps)
        labels = samples.labels[samples.indices]
        order = Balanced(samples.indices, labels, self.streams(outer), settings.outer_batch, room)
        rates = np.append(cosine_decay(settings.outer_learning_rate, self.steps), np.zeros(room, np.float32))
        chunks = samples.chunks(order, first, self.chunk_steps)
        for start, (images, labels) in zip(range(first, room, self.chunk_steps), chunks, strict=True):
            steps = np.arange(start, start + self.chunk_steps)
            streams = [self.streams(inner).at(step) for step in steps.tolist()]
            drawn = [draw_batches(settings, self.problem.inner, stream) for stream in streams]
            yield OuterBatches(
                images=images,
                labels=labels,
                inner=InnerBatches(*(np.stack(parts) for parts in zip(*drawn, strict=True))),
                learning_rate=rates[steps],
                index=steps.astype(np.int32),
                active=steps < self.steps,
            )


def cosine_decay(peak: float, steps: int) -> Float[np.ndarray, " steps"]:
    """Return step sizes that fall from `peak` to zero along half a cosine."""
    share = np.arange(steps) / max(steps, 1)
    return (peak * 0.5 * (1 + np.cos(np.pi * share))).astype(np.float32)


def init_learning(
    settings: Mnemonics, memory: Memory, log_rates: Float[np.ndarray, " steps"], outer_steps: int
) -> LearnState:
    """Return the state before the first outer step of a problem."""
    meta = Meta(_as_pixels(memory.images), log_rates)
    return LearnState(meta, _init(settings.outer_clip, meta), np.zeros(outer_steps, np.float32))


@partial(jax.jit, static_argnums=0)
def _init(clip: float, meta: Meta) -> optax.OptState:
    return optimizer(clip).init(meta)


@jax.jit
def _with_norms(
    norms: Float[Array, " outer_steps"], index: Int[Array | np.ndarray, " steps"], values: Float[Array, " steps"]
) -> Float[Array, " outer_steps"]:
    """Return `norms` with the values of some steps; idle steps, which come after the last one, are left out."""
    return norms.at[index].set(values, mode="drop")


def _as_pixels(images: Shaped[np.ndarray, "classes slot height width channel"]) -> Float[np.ndarray, "slots ..."]:
    flat = images.reshape(-1, *images.shape[2:])
    return flat if flat.dtype == np.float32 else flat / np.float32(255)


def _as_stored(pixels: Float[np.ndarray, "slots ..."], memory: Memory, learned: Bool[np.ndarray, " slots"]) -> Memory:
    """Return the memory with the pixels of learned slots replaced, rounded to bytes where it stores bytes."""
    images = memory.images.reshape(pixels.shape).copy()
    images[learned] = pixels[learned] if images.dtype == np.float32 else np.rint(pixels[learned] * 255).astype(np.uint8)
    return memory._replace(images=images.reshape(memory.images.shape))
