"""Residual networks (He et al. 2016) for CIFAR-sized images and ImageNet, as used in class-incremental learning."""

import flax.linen as nn
from jaxtyping import Array, Float

from mnemonics_jax.nets.layers import BatchNorm, Conv


class _Stem(nn.Module):
    """A 3×3 convolution at full resolution. If `large`: a 7×7 convolution and a 3×3 maximum, each halving the image."""

    width: int
    large: bool
    transfer: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        size, stride = (7, 2) if self.large else (3, 1)
        x = Conv(self.width, size, stride, self.transfer, name="conv")(x)
        x = BatchNorm(name="bn")(x, train, relu=True)
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if self.large else x


class _Block(nn.Module):
    """Two 3×3 convolutions with a shortcut: the identity, or a 1×1 convolution if the shape changes."""

    width: int
    stride: int
    last_relu: bool
    transfer: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        y = Conv(self.width, 3, self.stride, self.transfer, name="conv_0")(x)
        y = BatchNorm(name="bn_0")(y, train, relu=True)
        y = Conv(self.width, 3, 1, self.transfer, name="conv_1")(y)
        if x.shape != y.shape:
            shortcut = Conv(self.width, 1, self.stride, self.transfer, name="shortcut_conv")(x)
            x = BatchNorm(name="shortcut_bn")(shortcut, train)
        return BatchNorm(name="bn_1")(y, train, residual=x, relu=self.last_relu)


class _Stage(nn.Module):
    width: int
    blocks: int
    stride: int
    last_relu: bool
    transfer: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        for i in range(self.blocks):
            relu = self.last_relu or i < self.blocks - 1
            stride = self.stride if i == 0 else 1
            x = _Block(self.width, stride, relu, self.transfer, name=f"block_{i}")(x, train)
        return x


class ResNet(nn.Module):
    """A stem and stages of basic blocks; at the end, the mean over all positions.

    Each stage after the first halves the image. ResNet-32 has three stages of five blocks (2·3·5 convolutions, the stem
    and the classifier; section 4.2). ResNet-18 for ImageNet has four stages of two blocks and a `large_stem`. Without
    `last_relu` the last block ends in the sum, so that features can be negative, as LUCIR's cosine classifier needs.
    """

    blocks_per_stage: int = 5
    widths: tuple[int, ...] = (16, 32, 64)
    large_stem: bool = False
    last_relu: bool = True
    transfer: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"], train: bool) -> Float[Array, "batch features"]:
        """Return features [batch, widths[-1]]."""
        x = _Stem(self.widths[0], self.large_stem, self.transfer, name="stem")(x, train)
        for i, width in enumerate(self.widths):
            relu = self.last_relu or i < len(self.widths) - 1
            stride = 1 if i == 0 else 2
            x = _Stage(width, self.blocks_per_stage, stride, relu, self.transfer, name=f"stage_{i}")(x, train)
        return x.mean((1, 2))
