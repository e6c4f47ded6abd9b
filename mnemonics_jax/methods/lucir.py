"""LUCIR: learning a unified classifier incrementally via rebalancing (Hou et al., CVPR 2019)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from jaxtyping import Bool, Float, Int

from mnemonics_jax.methods.base import Classes, LossInputs, Method, count
from mnemonics_jax.nets.losses import cross_entropy
from mnemonics_jax.nets.outputs import normalize
from mnemonics_jax.runtime.lazy import Array, jax, jnp


@dataclass(frozen=True)
class LUCIR(Method):
    """Cosine classifier, less-forget constraint on features, margin between old classes and confusing new ones.

    L = CE(σ s, y) + λ (1 − cos(f, f_old)) + w Σ_k max(0, m − s_y + s_k) over old-class samples and their top K new
    classes k, with s the cosine scores and λ = λ_base √(|old| / |new|). New class weights start at the class means,
    scaled to the old weights' mean norm; old class weights get no gradient.
    """

    name: ClassVar[str] = "lucir"
    head: ClassVar[Literal["linear", "cosine"]] = "cosine"
    imprints: ClassVar[bool] = True
    lambda_base: Annotated[float, Ge(0)] = 5.0
    """Base weight λ_base of the less-forget constraint, which keeps features close to those of the previous model. The
    LUCIR paper has 5 for CIFAR-100 and 10 for ImageNet."""
    margin: Annotated[float, Ge(0)] = 0.5
    """Margin m, in units of the cosine, between the score of an old class and those of new classes."""
    top_k: Annotated[int, Ge(1)] = 2
    """Number K of new classes, those of the highest scores, that each sample of an old class has to beat by the
    margin."""
    margin_weight: Annotated[float, Ge(0)] = 1.0
    """Weight w of the margin ranking loss."""

    @property
    def base_loss(self) -> str:
        """Cross-entropy of cosines: without old classes the constraint and the margin have no weight."""
        return "cross-entropy of cosines"

    def init_head(self, params: dict, class_means: Float[Array, "classes feature"], classes: Classes) -> dict:
        """Return the parameters with the new classes' weights imprinted; in phase 0 they stay as they are.

        In phase 0 there are no old weights whose norm the new ones could take.
        """
        kernel = imprint(params["head"]["kernel"], class_means, classes)
        return {**params, "head": {**params["head"], "kernel": kernel}}

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """Return the loss of the class's docstring, a mean over the batch."""
        outputs, classes = inputs.outputs, inputs.classes
        learn = cross_entropy(outputs.logits, inputs.labels, classes.seen).mean()
        weight = self.lambda_base * jnp.sqrt(count(classes.old) / count(classes.new))
        previous = jax.lax.stop_gradient(inputs.previous.features)
        drift = (1 - (normalize(outputs.features, axis=-1) * normalize(previous, axis=-1)).sum(axis=-1)).mean()
        rank = margin_ranking(outputs.scores, inputs.labels, classes, self.margin, self.top_k)
        return learn + weight * drift + self.margin_weight * rank

    def mask_updates(self, updates: dict, classes: Classes) -> dict:
        """Return the updates with those of old class weights set to zero."""
        kernel = jnp.where(classes.old, 0, updates["head"]["kernel"])
        return {**updates, "head": {**updates["head"], "kernel": kernel}}


def imprint(
    kernel: Float[Array, "feature classes"], class_means: Float[Array, "classes feature"], classes: Classes
) -> Float[Array, "feature classes"]:
    """Return the kernel with each new class's column set to the direction of its mean feature.

    The columns get the mean norm of the old classes' columns; without old classes the kernel is returned unchanged.
    """
    norms = jnp.linalg.norm(kernel, axis=0)
    mean_norm = jnp.sum(jnp.where(classes.old, norms, 0)) / jnp.maximum(count(classes.old), 1)
    return jnp.where(classes.new & classes.old.any(), mean_norm * normalize(class_means, axis=1).T, kernel)


def margin_ranking(
    scores: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    classes: Classes,
    margin: float,
    top_k: int,
) -> Float[Array, ""]:
    """Return the mean of max(0, m − s_y + s_k) over old-class samples and their top-K new classes.

    Without such pairs it is zero.
    """
    top_k = min(top_k, scores.shape[1])
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    rivals, which = jax.lax.top_k(jnp.where(classes.new, scores, -2.0), top_k)  # cosines are above −2
    pairs: Bool[Array, "batch rank"] = classes.old[labels][:, None] & classes.new[which]
    losses = jnp.where(pairs, jnp.maximum(0, margin - own + rivals), 0)
    return losses.sum() / jnp.maximum(pairs.sum(), 1)
