"""Compare a whole class-incremental run with a plain PyTorch loop: ResNet-32, iCaRL with herding, N = 5.

    python experiments/benchmarks/end_to_end.py --classes 100 --images 500 --epochs 2

Both see the same synthetic pictures of 32×32 pixels in the same order of classes, for the same epochs with the same
batch size and learning rates: cross-entropy and distillation of the previous model, crops and flips, exemplars by
herding, and prediction by the nearest mean of exemplars and their mirror images. The peer is written as public
continual-learning code is: one eager loop over a `DataLoader`, the network in `channels_last`. It is favoured in two
ways: it augments a whole batch at once, and it writes no checkpoints and no log, as ours does.

A first run includes compilation; a second one in the same process does not. Seconds are wall time, in brackets the
processor time of all threads. Accuracies show that both have learned: the pictures of a class share a pattern.
"""

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import tyro

import mnemonics_jax as mn


@dataclass(frozen=True)
class Config:
    """Sizes of the problem. Half of the classes are in the base phase."""

    classes: int = 20
    """Number of classes, a multiple of 10 up to 100."""
    images: int = 100
    """Training images of each class; a fifth as many test images come with them."""
    epochs: int = 2
    """Epochs of every phase."""
    batch: int = 128
    """Images of a training step."""
    exemplars: int = 20
    """Exemplars of each class."""
    runs: int = 2
    """Runs of each library, in turn."""


SIDE, PHASES = 32, 5
RATE, MOMENTUM, DECAY, MILESTONES = 0.1, 0.9, 5e-4, (0.5, 0.75)
TEMPERATURE, DISTILLATION = 2.0, 0.25


def pictures(config: Config) -> dict[str, np.ndarray]:
    """Return training and test pictures, uint8 [n, 32, 32, 3], and labels: a coarse pattern of the class, and noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (config.classes, 4, 4, 3)).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    arrays = {}
    for split, amount in (("train", config.images), ("test", max(config.images // 5, 1))):
        labels = np.repeat(np.arange(config.classes), amount)
        noise = rng.normal(0, 80, (len(labels), SIDE, SIDE, 3))
        arrays[f"{split}_images"] = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    return arrays


def settings(config: Config, path: Path) -> mn.Config:
    """Return the configuration of our run on the pictures in the file `path`."""
    changes = {
        "data.source": "npz",
        "data.path": path,
        "stream.phases": PHASES,
        "train.epochs": config.epochs,
        "train.batch_size": config.batch,
        "train.learning_rate": RATE,
        "train.momentum": MOMENTUM,
        "train.weight_decay": DECAY,
        "train.milestones": ",".join(map(str, MILESTONES)),
        "method.temperature": TEMPERATURE,
        "method.distillation_weight": DISTILLATION,
        "exemplars.per_class": config.exemplars,
    }
    base = mn.make_config("cifar100", method="icarl", exemplars="herding")
    return mn.override(base, {name: str(value) for name, value in changes.items()})


class Peer:
    """The same run in PyTorch. Images are kept as uint8; classes are numbered by their place in the order."""

    def __init__(self, config: Config, arrays: dict[str, np.ndarray], order: np.ndarray) -> None:
        import torch

        place = np.empty(config.classes, np.int64)
        place[order] = np.arange(config.classes)
        self.config = config
        self.images, self.test_images = (peers.torch_images(arrays[f"{s}_images"]) for s in ("train", "test"))
        self.labels, self.test_labels = (torch.from_numpy(place[arrays[f"{s}_labels"]]) for s in ("train", "test"))
        pixels = arrays["train_images"] / np.float32(255)
        self.mean, self.std = (
            torch.from_numpy(statistic.astype(np.float32)).view(3, 1, 1)
            for statistic in (pixels.mean((0, 1, 2)), pixels.std((0, 1, 2)))
        )
        self.net = peers.torch_resnet32(peers.resnet32()[1])
        self.exemplars: dict[int, Any] = {}

    def run(self) -> list[float]:
        """Return the accuracy after each phase, in percent."""
        import torch

        sizes = (self.config.classes // 2, *[self.config.classes // 2 // PHASES] * PHASES)
        accuracies = []
        for phase, new in enumerate(sizes):
            old = sum(sizes[:phase])
            fresh = torch.nonzero((self.labels >= old) & (self.labels < old + new)).flatten()
            self.train(torch.cat([fresh, *self.exemplars.values()]), old, old + new)
            for label in range(old, old + new):
                self.exemplars[label] = self.herd(torch.nonzero(self.labels == label).flatten())
            accuracies.append(self.accuracy(old + new))
        return accuracies

    def train(self, index: Any, old: int, seen: int) -> None:
        """Train the network on some images, and distil what the previous one says of the old classes."""
        import torch
        from torch.nn import functional
        from torch.utils.data import DataLoader, TensorDataset

        data = TensorDataset(self.images[index], self.labels[index])
        loader = DataLoader(data, self.config.batch, shuffle=True)
        previous = copy.deepcopy(self.net).eval()
        self.net.train()
        optimizer = torch.optim.SGD(self.net.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
        steps = self.config.epochs * len(loader)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(m * steps) for m in MILESTONES])
        for _ in range(self.config.epochs):
            for images, labels in loader:
                x = self.augmented(images)
                logits = self.net(x)
                loss = functional.cross_entropy(logits[:, :seen], labels)
                if old:
                    with torch.no_grad():
                        target = functional.log_softmax(previous(x)[:, :old] / TEMPERATURE, 1)
                    student = functional.log_softmax(logits[:, :old] / TEMPERATURE, 1)
                    divergence = functional.kl_div(student, target, log_target=True, reduction="batchmean")
                    loss = loss + DISTILLATION * TEMPERATURE**2 * divergence
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                loss.item()  # such loops show the loss of every step

    def augmented(self, images: Any) -> Any:
        """Return a batch cropped out of black margins of 4 pixels, half of it mirrored, and standardised."""
        import torch

        n, pad = len(images), 4
        padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        rows, columns = (torch.randint(2 * pad + 1, (n, 1)) + torch.arange(SIDE) for _ in range(2))
        columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
        cut = padded.permute(0, 2, 3, 1)[torch.arange(n).view(n, 1, 1), rows[:, :, None], columns[:, None]]
        return self.standard(cut.permute(0, 3, 1, 2))

    def standard(self, images: Any) -> Any:
        """Return uint8 images as the network takes them."""
        return (images.float() / 255 - self.mean) / self.std

    def features(self, images: Any) -> Any:
        """Return the unit features of images in inference."""
        import torch

        self.net.eval()
        with torch.no_grad():
            parts = [self.net.features(self.standard(part)) for part in images.split(256)]
        return torch.nn.functional.normalize(torch.cat(parts))

    def herd(self, index: Any) -> Any:
        """Return the images of a class whose running mean stays nearest to the mean of all (Rebuffi et al., 2017)."""
        import torch

        features = self.features(self.images[index])
        mean, total, chosen = features.mean(0), torch.zeros_like(features[0]), []
        for k in range(1, min(self.config.exemplars, len(index)) + 1):
            distance = ((total + features) / k - mean).norm(dim=1)
            distance[chosen] = torch.inf
            chosen.append(int(distance.argmin()))
            total += features[chosen[-1]]
        return index[chosen]

    def accuracy(self, seen: int) -> float:
        """Return the percentage of test images of the classes seen whose nearest class mean is their own."""
        import torch

        means = []
        for label in range(seen):
            images = self.images[self.exemplars[label]]
            means.append(self.features(torch.cat([images, images.flip(3)])).mean(0))
        known = self.test_labels < seen
        nearest = torch.cdist(self.features(self.test_images[known]), torch.stack(means)).argmin(1)
        return 100 * (nearest == self.test_labels[known]).float().mean().item()


def timed(program: Callable[[], list[float]]) -> tuple[float, float, list[float]]:
    """Return wall seconds, processor seconds and the result of a run."""
    wall, processor = time.perf_counter(), time.process_time()
    result = program()
    return time.perf_counter() - wall, time.process_time() - processor, result


def main(config: Config) -> None:
    """Print a line for each run."""
    arrays = pictures(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pictures.npz")
        np.savez(path, **arrays)
        ours = settings(config, path)
        order = mn.make_setup(ours).stream.order
        best = {}
        for run in range(config.runs):
            programs = {"JAX": lambda out=Path(folder, str(run)): mn.run(ours, out).accuracy}
            # The peer's batches stay on the host: beside an accelerator it would be no peer.
            if peers.torch_available() and peers.torch_device() == "cpu":
                programs["PyTorch"] = lambda: Peer(config, arrays, order).run()
            for name, program in programs.items():
                wall, processor, accuracies = timed(program)
                best[name] = min(wall, best.get(name, np.inf))
                shown = " ".join(f"{a:.0f}" for a in accuracies)
                print(f"run {run}   {name:8s} {wall:8.1f} ({processor:.1f}) s   accuracies {shown}", flush=True)
    if len(best) == 2:
        print(f"JAX is {best['PyTorch'] / best['JAX']:.2f} times as fast as PyTorch")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
