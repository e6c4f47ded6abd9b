"""Which network a run trains."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, MinLen


@dataclass(frozen=True)
class NetConfig:
    """The network: backbone, weight transfer and precision."""

    name: str = "convnet"
    """Backbone. convnet: one convolution per stage, for small images; resnet32: the CIFAR ResNet with 32 layers;
    resnet18: the ImageNet ResNet with 18 layers.
    """
    widths: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (32, 64, 128)
    """Number of channels of each stage. Used by convnet only."""
    weight_transfer: bool = False
    """Weight transfer ("mtl"): from phase 1 on, freeze the convolution kernels and learn a scale of each filter
    instead. Batch normalisation, whose bias is the shift behind each convolution, is trained as before.
    """
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Dtype of the backbone's computation. Parameters, losses and the sums of the meta-gradient always have at least
    float32. auto: bfloat16 on GPU and TPU, otherwise float32. float64 is for comparisons and needs JAX_ENABLE_X64=1.
    """
