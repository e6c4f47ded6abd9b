"""BiC: bias correction for large-scale incremental learning (Wu et al., CVPR 2019)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Le
from jaxtyping import Float, Int

from mnemonics_jax.methods.base import Classes, LogitCorrection, LossInputs, Method, count
from mnemonics_jax.nets.losses import cross_entropy, distillation
from mnemonics_jax.runtime.lazy import Array, jax, jnp, optax

_FIT_STEPS = 50


@dataclass(frozen=True)
class BiC(Method):
    """Distillation mixed with cross-entropy by the share of old classes, then a two-number bias correction.

    Stage one: L = λ KL(softmax(t/T) ‖ softmax(z/T)) + (1 − λ) CE(z, y) with λ = |old| / (|old| + |new|), where z and t
    carry the corrections that earlier phases fitted. Stage two: with everything else frozen, one scale and one shift of
    the new classes' logits minimise the cross-entropy on held-out samples, balanced over classes. Later phases apply
    them too.

    The held-out samples of an old class are exemplars as they are stored: learned images where exemplars are learned,
    while those of the new classes are real. Keeping the held-out exemplars real instead made no difference on the
    digits and on photographs, both with short later phases (experiments/RESULTS-short-training.md),
    nor on the digits in full training (experiments/FIDELITY.md).
    """

    name: ClassVar[str] = "bic"
    temperature: Annotated[float, Gt(0)] = 2.0
    """Temperature T of the distillation: a larger one softens the distributions of both models."""
    holdout: Annotated[float, Gt(0), Le(0.5)] = 0.1
    """Share of the exemplars (at least one of each class) that the bias correction is fitted on instead of training,
    with as many images of each new class."""

    @property
    def base_loss(self) -> str:
        """Cross-entropy: without old classes the distillation has no weight."""
        return "cross-entropy"

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """Return the loss of stage one, a mean over the batch."""
        classes = inputs.classes
        logits = inputs.correction.correct(inputs.outputs.logits)
        teacher = inputs.correction.correct(inputs.previous.logits)
        mix = count(classes.old) / count(classes.seen)
        distilled = distillation(logits, teacher, classes.old, self.temperature)
        return (mix * distilled + (1 - mix) * cross_entropy(logits, inputs.labels, classes.seen)).mean()

    def fit_correction(
        self,
        logits: Float[Array, "sample classes"],
        labels: Int[Array, " sample"],
        weights: Float[Array, " sample"],
        classes: Classes,
        correction: LogitCorrection,
    ) -> LogitCorrection:
        """Return the correction of stage two; see `Method.fit_correction` for the arguments.

        The problem is convex in (scale, shift), so L-BFGS runs it to its optimum. Without old classes (phase 0) or
        samples the correction stays as it is.
        """

        def corrected(numbers: Float[Array, " 2"]) -> LogitCorrection:
            return LogitCorrection(
                jnp.where(classes.new, numbers[0], correction.scale),
                jnp.where(classes.new, numbers[1], correction.shift),
            )

        def objective(numbers: Float[Array, " 2"]) -> Float[Array, ""]:
            losses = cross_entropy(corrected(numbers).correct(logits), labels, classes.seen)
            # The slight pull towards "no correction" bounds the optimum when the samples are separable.
            pull = 1e-3 * jnp.sum((numbers - jnp.asarray([1.0, 0.0], numbers.dtype)) ** 2)
            return (losses * weights).sum() / jnp.maximum(weights.sum(), 1) + pull

        solver = optax.lbfgs()
        value_and_grad = optax.value_and_grad_from_state(objective)

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            numbers, state = carry
            value, grad = value_and_grad(numbers, state=state)
            updates, state = solver.update(grad, state, numbers, value=value, grad=grad, value_fn=objective)
            return (optax.apply_updates(numbers, updates), state), None

        start = jnp.asarray([1.0, 0.0], logits.dtype)
        (numbers, _), _ = jax.lax.scan(step, (start, solver.init(start)), None, length=_FIT_STEPS)
        fitted = corrected(jnp.where(classes.old.any() & (weights.sum() > 0), numbers, start))
        return LogitCorrection(fitted.scale, fitted.shift)
