"""A small plain convolutional network, for small images and quick runs."""

import flax.linen as nn
from jaxtyping import Array, Float

from mnemonics_jax.nets.layers import BatchNorm, Conv


class _Stage(nn.Module):
    width: int
    stride: int
    relu: bool
    transfer: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        x = Conv(self.width, 3, self.stride, self.transfer, name="conv")(x)
        return BatchNorm(name="bn")(x, train, relu=self.relu)


class ConvNet(nn.Module):
    """Stages of 3×3 convolution, batch normalisation and ReLU; at the end, the mean over all positions.

    Each stage after the first halves the image. Without `last_relu`, features can be negative; a cosine classifier
    needs this to use the whole sphere.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    last_relu: bool = True
    transfer: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"], train: bool) -> Float[Array, "batch features"]:
        """Return features [batch, widths[-1]]: the mean of the last stage over all positions."""
        for i, width in enumerate(self.widths):
            relu = self.last_relu or i < len(self.widths) - 1
            x = _Stage(width, 1 if i == 0 else 2, relu, self.transfer, name=f"stage_{i}")(x, train)
        return x.mean((1, 2))
