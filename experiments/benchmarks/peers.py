"""Parts that benchmarks share: the ResNet-32 problem, a PyTorch network with the same weights, timing and peak memory.

PyTorch is the peer of every comparison, but no dependency of the package: without it `torch_available` is false and
the peer's columns stay empty.
"""

import ctypes
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mnemonics_jax import nets

CLASSES = 100
BLOCKS = 5
WIDTHS = (16, 32, 64)


def torch_available() -> bool:
    """Return whether PyTorch can be imported."""
    return importlib.util.find_spec("torch") is not None


def resnet32() -> tuple[nets.Classifier, nets.Variables]:
    """Return ResNet-32 with a linear head, and initial variables for 32×32×3."""
    net = nets.build(nets.NetConfig(name="resnet32"), CLASSES, "linear")
    return net, jax.jit(lambda key: nets.init(net, key, (32, 32, 3)))(jax.random.key(0))


def torch_resnet32(variables: nets.Variables) -> Any:
    """Return the same network in PyTorch (channels_last), with the same parameters and running statistics."""
    import torch

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
            self.stem.conv, self.stem.bn = torch.nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False), Norm(WIDTHS[0])
            before = WIDTHS[0]
            for i, width in enumerate(WIDTHS):
                stage = torch.nn.Module()
                for j in range(BLOCKS):
                    setattr(stage, f"block_{j}", Block(before, width, 2 if i and not j else 1))
                    before = width
                setattr(self, f"stage_{i}", stage)
            self.head = torch.nn.Linear(before, CLASSES)

        def features(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.stem.bn(self.stem.conv(x)))
            for i in range(len(WIDTHS)):
                for j in range(BLOCKS):
                    x = getattr(getattr(self, f"stage_{i}"), f"block_{j}")(x)
            return x.mean((2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x))

    net = ResNet()
    net.load_state_dict({name: torch.tensor(leaf) for name, leaf in torch_state(variables).items()}, strict=False)
    return net.to(memory_format=torch.channels_last)


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

    return torch.from_numpy(images).permute(0, 3, 1, 2)


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


def peak_megabytes(program: Callable[[], Any]) -> float:
    """Return how much the process's resident memory rises at most while `program` runs; NaN except on Linux."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
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
