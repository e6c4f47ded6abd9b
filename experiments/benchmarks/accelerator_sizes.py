"""The sizes at which `accelerator.py` measures: full on an accelerator, small on a CPU."""

from dataclasses import dataclass

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sizes:
    """Sizes of every part; settings are pairs of a name and a text, as on the command line."""

    nets: tuple[tuple[str, int, int], ...]
    """Networks of the training step: name, side of the images, batch."""
    steps: int
    """Training steps of a timed call."""
    repeats: int
    """Timed calls of a step, of a meta-gradient and of herding."""
    exemplars: int
    """Learned exemplars of the meta-gradient."""
    queries: int
    """Images of its outer loss."""
    unrolls: tuple[int, ...]
    """Numbers T of inner steps."""
    herding: tuple[tuple[int, int, int, int], ...]
    """Classes, images of each, features and picks."""
    seeds: tuple[int, ...]
    """Numbers of seeds at once."""
    seed_settings: Settings
    """Settings of their runs on the digits."""
    classes: int
    """Classes of the synthetic pictures."""
    class_images: int
    """Training pictures of each class."""
    run_net: str
    """Network of the end-to-end run."""
    run_batch: int
    """Its batch size."""
    epochs: int
    """Its epochs."""
    stream_settings: Settings
    """Settings of the shortened cifar100 stream."""

    @property
    def run_settings(self) -> Settings:
        """Settings of the end-to-end run."""
        size = (
            ("net.name", self.run_net),
            ("train.batch_size", str(self.run_batch)),
            ("train.epochs", str(self.epochs)),
        )
        return (*size, ("stream.base", str(self.classes // 2)), ("stream.phases", "1"))


def _seed_settings(epochs: int, outer_steps: int) -> Settings:
    both = (("train.epochs", str(epochs)), ("train.later_epochs", "none"))
    return (*both, ("stream.phases", "1"), ("exemplars.outer_steps", str(outer_steps)))


FULL = Sizes(
    nets=(("resnet32", 32, 128), ("resnet18", 224, 128)),
    steps=20,
    repeats=5,
    exemplars=50,
    queries=128,
    unrolls=(1, 5, 10, 20, 50),
    herding=((100, 500, 64, 20), (100, 1300, 512, 20)),
    seeds=(1, 2, 5, 10),
    seed_settings=_seed_settings(epochs=10, outer_steps=20),
    classes=100,
    class_images=500,
    run_net="resnet32",
    run_batch=128,
    epochs=3,
    stream_settings=(("train.epochs", "2"), ("stream.phases", "5"), ("exemplars.outer_steps", "5")),
)

SMALL = Sizes(
    nets=(("resnet32", 32, 8), ("resnet18", 64, 4)),
    steps=2,
    repeats=2,
    exemplars=4,
    queries=8,
    unrolls=(1, 5),
    herding=((10, 50, 16, 5),),
    seeds=(1, 2),
    seed_settings=_seed_settings(epochs=1, outer_steps=2),
    classes=10,
    class_images=30,
    run_net="convnet",
    run_batch=16,
    epochs=6,
    stream_settings=(
        *(("net.name", "convnet"), ("train.epochs", "1"), ("stream.base", "4"), ("stream.phases", "2")),
        *(("exemplars.outer_steps", "2"), ("exemplars.per_class", "4"), ("exemplars.unroll_length", "2")),
    ),
)
