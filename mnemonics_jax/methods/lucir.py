"""LUCIR: learning a unified classifier incrementally via rebalancing (Hou et al., CVPR 2019)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mnemonics_jax.errors import UserError
from mnemonics_jax.methods.base import Classes, LossInputs, Method, count
from mnemonics_jax.methods.losses import cross_entropy
from mnemonics_jax.nets.heads import normalize


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
    lambda_base: float = 5.0
    """λ_base of the less-forget constraint: 5 for CIFAR, 10 for ImageNet."""
    margin: float = 0.5
    """m, the margin in cosine units."""
    top_k: int = 2
    """K, how many of the highest-scoring new classes each old-class sample is kept away from."""
    margin_weight: float = 1.0
    """w, weight of the margin ranking loss."""

    @property
    def first_phase(self) -> str:
        """Without old classes the constraint and the margin have no weight; the head is another."""
        return "cross-entropy of cosines"

    def validate(self) -> None:
        """Raises `UserError` for a setting out of range."""
        if self.top_k < 1:
            raise UserError(f"--method.top-k {self.top_k}: at least one new class must be ranked")
        for name in ("lambda_base", "margin", "margin_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"--method.{name.replace('_', '-')} {getattr(self, name)}: must not be negative")

    def prepare(self, params: dict, class_means: Float[Array, "classes feature"], classes: Classes) -> dict:
        """Imprints the new classes' weights; in phase 0 there is nothing to scale to and the weights stay."""
        kernel = imprint(params["head"]["kernel"], class_means, classes)
        return {**params, "head": {**params["head"], "kernel": kernel}}

    def loss(self, inputs: LossInputs) -> Float[Array, ""]:
        """The loss of the class's docstring, a mean over the batch."""
        outputs, classes = inputs.outputs, inputs.classes
        learn = cross_entropy(outputs.logits, inputs.labels, classes.seen).mean()
        weight = self.lambda_base * jnp.sqrt(count(classes.old) / count(classes.new))
        was = jax.lax.stop_gradient(inputs.previous.features)
        drift = (1 - (normalize(outputs.features, axis=-1) * normalize(was, axis=-1)).sum(axis=-1)).mean()
        rank = margin_ranking(outputs.scores, inputs.labels, classes, self.margin, self.top_k)
        return learn + weight * drift + self.margin_weight * rank

    def restrict(self, updates: dict, classes: Classes) -> dict:
        """Old class weights stay where they are."""
        kernel = jnp.where(classes.old, 0, updates["head"]["kernel"])
        return {**updates, "head": {**updates["head"], "kernel": kernel}}


def imprint(
    kernel: Float[Array, "feature classes"], class_means: Float[Array, "classes feature"], classes: Classes
) -> Float[Array, "feature classes"]:
    """New classes' columns set to their mean features' directions, as long as the old columns are on average."""
    norms = jnp.linalg.norm(kernel, axis=0)
    mean_norm = jnp.sum(jnp.where(classes.old, norms, 0)) / jnp.maximum(count(classes.old), 1)
    return jnp.where(classes.new & classes.old.any(), mean_norm * normalize(class_means, axis=1).T, kernel)


def margin_ranking(
    scores: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    classes: Classes,
    margin: float,
    top_k: int,
) -> Float[Array, ""]:
    """Mean of max(0, m − s_y + s_k) over old-class samples and their top-K new classes; zero without such pairs."""
    top_k = min(top_k, scores.shape[1])
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    rivals, which = jax.lax.top_k(jnp.where(classes.new, scores, -2.0), top_k)  # cosines are above −2
    pairs: Bool[Array, "batch rank"] = classes.old[labels][:, None] & classes.new[which]
    losses = jnp.where(pairs, jnp.maximum(0, margin - own + rivals), 0)
    return losses.sum() / jnp.maximum(pairs.sum(), 1)
