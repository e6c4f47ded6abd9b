"""t-SNE of features: positions in the plane in which neighbours stay neighbours."""

import numpy as np
from jaxtyping import Float

_PERPLEXITY = 30


def tsne(features: Float[np.ndarray, "sample feature"], seed: int = 0) -> Float[np.ndarray, "sample 2"]:
    """Return the positions in the plane that t-SNE (van der Maaten and Hinton, 2008) gives to feature directions.

    Features are first scaled to length one, because cosine heads and nearest means use only directions. t-SNE starts
    from the first two principal components, so the same features always give the same positions. It computes in one
    thread: for so few points several threads wait for each other, and take ten times as long.

    Raises:
        ValueError: if there are fewer than two samples, if a feature is not finite, or if all features have the same
            direction. scikit-learn's compiled code would end the process on the last two.
    """
    if len(features) < 2:
        raise ValueError(f"t-SNE of {len(features)} sample: give at least 2")
    if not np.isfinite(features).all():
        raise ValueError("t-SNE of features that are not finite")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    centred = (unit - unit.mean(axis=0)).astype(np.float64)
    start = _first_components(centred)
    spread = start[:, 0].std()
    if not spread > 1e-9:
        raise ValueError(f"t-SNE of {len(features)} features that all have the same direction")
    # Imported here because the imports take a second or two.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    # A small start lets classes pass each other; scikit-learn's own start has this size as well.
    model = TSNE(perplexity=perplexity, init=(start / spread * 1e-4).astype(np.float32), random_state=seed)
    with threadpool_limits(limits=1):
        return model.fit_transform(unit.astype(np.float32)).astype(np.float64)


def _first_components(centred: Float[np.ndarray, "sample feature"]) -> Float[np.ndarray, "sample 2"]:
    """Return the first two principal components; the second is 0 where there is none. Signs are those of the maxima."""
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    components = np.zeros((len(centred), 2))
    kept = min(2, left.shape[1])
    components[:, :kept] = left[:, :kept] * scale[:kept]
    signs = np.sign(components[np.abs(components).argmax(axis=0), [0, 1]])
    return components * np.where(signs == 0, 1, signs)
