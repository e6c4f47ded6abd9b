"""Parts that benchmarks share: ResNets, PyTorch networks with the same weights, timing and peak memory.

PyTorch is the peer of every comparison, but no dependency of the package: without it `torch_available` is false and
the peer's columns stay empty. It computes on the device that JAX computes on, an NVIDIA GPU or the CPU.
"""

import ctypes
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mnemonics_jax import nets

CLASSES = 100


class Layout(NamedTuple):
    """What tells one ResNet from another: blocks of each stage, channels of the stages, and the kind of stem."""

    blocks: int
    widths: tuple[int, ...]
    large_stem: bool


LAYOUTS = {"resnet32": Layout(5, (16, 32, 64), False), "resnet18": Layout(2, (64, 128, 256, 512), True)}


def torch_available() -> bool:
    """Return whether PyTorch can be imported and computes on the kind of device that JAX computes on."""
    return not torch_missing()


def torch_missing() -> str:
    """Return why PyTorch cannot be compared with here; an empty text where it can."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    platform = jax.default_backend()
    if platform == "cpu" or (platform == "gpu" and torch.cuda.is_available()):
        return ""
    return f"this PyTorch does not compute on the {platform}"


def torch_device() -> str:
    """Return PyTorch's name of the device that JAX computes on."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def resnet(name: str, precision: str = "float32") -> tuple[nets.Classifier, nets.Variables]:
    """Return a ResNet of `LAYOUTS` with a linear head, and initial variables, which fit images of any size."""
    net = nets.build(nets.NetConfig(name=name, precision=precision), CLASSES, "linear")
    return net, jax.jit(lambda key: nets.init(net, key, (32, 32, 3)))(jax.random.key(0))


def resnet32() -> tuple[nets.Classifier, nets.Variables]:
    """Return ResNet-32 in float32."""
    return resnet("resnet32")


def torch_resnet32(variables: nets.Variables) -> Any:
    """Return ResNet-32 in PyTorch, as `torch_resnet`."""
    return torch_resnet("resnet32", variables)


def torch_resnet(name: str, variables: nets.Variables) -> Any:
    """Return the same network in PyTorch (channels_last), with the same parameters and running statistics."""
    import torch

    layout = LAYOUTS[name]
    widths = layout.widths

    class Norm(torch.nn.BatchNorm2d):
        def __init__(self, width: int) -> None:
            super().__init__(width, eps=1e-5, momentum=0.1)

    class Block(torch.nn.Module):
        def __init__(self, before: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv_0 = torch.nn.Conv2d(before, width, 3, stride, 1, bias=False)
            self.conv_1 = torch.nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn_0, self.bn_1 = Norm(width), Norm(width)
            self.joined = before != width
            if self.joined:
                self.shortcut_conv = torch.nn.Conv2d(before, width, 1, stride, bias=False)
                self.shortcut_bn = Norm(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn_1(self.conv_1(torch.relu(self.bn_0(self.conv_0(x)))))
            return torch.relu(y + (self.shortcut_bn(self.shortcut_conv(x)) if self.joined else x))

    class ResNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Module()
            size, stride = (7, 2) if layout.large_stem else (3, 1)
            self.stem.conv = torch.nn.Conv2d(3, widths[0], size, stride, size // 2, bias=False)
            self.stem.bn = Norm(widths[0])
            before = widths[0]
            for i, width in enumerate(widths):
                stage = torch.nn.Module()
                for j in range(layout.blocks):
                    setattr(stage, f"block_{j}", Block(before, width, 2 if i and not j else 1))
                    before = width
                setattr(self, f"stage_{i}", stage)
            self.head = torch.nn.Linear(before, CLASSES)

        def features(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.stem.bn(self.stem.conv(x)))
            if layout.large_stem:
                x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
            for i in range(len(widths)):
                for j in range(layout.blocks):
                    x = getattr(getattr(self, f"stage_{i}"), f"block_{j}")(x)
            return x.mean((2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x))

    net = ResNet()
    net.load_state_dict({name: torch.tensor(leaf) for name, leaf in torch_state(variables).items()}, strict=False)
    return net.to(torch_device(), memory_format=torch.channels_last)


def torch_state(variables: nets.Variables) -> Mapping[str, np.ndarray]:
    """Return parameters and running statistics by their PyTorch names, in PyTorch's layouts."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    state = {}
    for tree in variables:
        for path, leaf in flatten_dict(tree).items():
            parts = [part for part in path[:-1] if part != "backbone"]
            leaf = np.asarray(leaf)
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim, (0,))
            state[".".join([*parts, names[path[-1]]])] = leaf.transpose(axes).copy()
    return state


def torch_images(images: np.ndarray) -> Any:
    """Return images [n, height, width, channel] as PyTorch's channels_last [n, channel, height, width]."""
    import torch

    return torch.from_numpy(images).to(torch_device()).permute(0, 3, 1, 2)


def alternate(programs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each run of each program: one warm-up each, then in turn, under the same load."""
    for program in programs.values():
        program()
    seconds = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            begin = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def best(seconds: list[float]) -> str:
    """Return the fastest and, in brackets, the median run."""
    return f"{min(seconds):.3f} ({statistics.median(seconds):.3f})"


def torch_peak_megabytes(program: Callable[[], Any]) -> float:
    """Return how much PyTorch's memory on the device rises at most while `program` runs."""
    if torch_device() == "cpu":
        return peak_megabytes(program)
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    program()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def peak_megabytes(program: Callable[[], Any]) -> float:
    """Return how much the process's resident memory rises at most while `program` runs; NaN except on Linux' CPUs."""
    reset = Path("/proc/self/clear_refs")
    if jax.default_backend() != "cpu" or not reset.exists():
        return float("nan")
    gc.collect()
    # Memory that earlier runs freed but the allocator kept would otherwise be used again unseen.
    ctypes.CDLL(None).malloc_trim(0)
    # Writing 5 sets the high-water mark to the present size (proc(5)).
    reset.write_text("5")
    before = _resident("VmRSS")
    program()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(field))
