"""The measurements of `accelerator.py`: each part is a function of the sizes that returns named cases to run in order.

A case returns its values by column. A value that could not be measured is a text that begins with a dash.
"""

import dataclasses
import math
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import herding as herding_benchmark
import jax
import meta_gradient as meta_benchmark
import numpy as np
import peers
import training_step as step_benchmark
from accelerator_sizes import FULL, SMALL, Sizes

import mnemonics_jax as mn
from mnemonics_jax import data
from mnemonics_jax.data.cifar import LAYOUTS
from mnemonics_jax.data.config import DataConfig
from mnemonics_jax.data.dataset import Dataset, make_dataset
from mnemonics_jax.data.download import data_folder
from mnemonics_jax.phase.model_level import split_samples
from mnemonics_jax.phase.state import Stage
from mnemonics_jax.phase.training import Context, TrainingLoop
from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime import lockstep
from mnemonics_jax.runtime.compile_cache import num_compilations
from mnemonics_jax.runtime.progress import Display
from mnemonics_jax.runtime.random_streams import phase_streams
from mnemonics_jax.sweeps import vmap_seeds

Values = dict[str, float | str]


class Case(NamedTuple):
    """One line of a part's table."""

    name: str
    measure: Callable[[], Values]


def device() -> dict[str, str]:
    """Return the name of the device and what computed on it."""
    devices = jax.devices()
    kind = _processor() if devices[0].platform == "cpu" else devices[0].device_kind
    found = {"device": f"{len(devices)} × {kind}", "platform": devices[0].platform, "Python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "numpy", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "–"
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def sizes_for(name: str) -> Sizes:
    """Return the sizes "small" or "full"; for "auto", the small ones on a CPU."""
    if name == "auto":
        name = "small" if jax.default_backend() == "cpu" else "full"
    return {"small": SMALL, "full": FULL}[name]


def training_step(sizes: Sizes) -> list[Case]:
    """Return a case for each network and precision, and behind them those with `torch.compile`, which takes longest."""
    configs = [
        step_benchmark.Config(net, side, precision, batch, sizes.steps, sizes.repeats, compiled)
        for compiled in (False, True)
        for net, side, batch in sizes.nets
        for precision in ("float32", "bfloat16")
    ]
    return [
        Case(
            f"{config.net}, {config.side}×{config.side}, batch {config.batch}, {config.precision}",
            partial(_step, config),
        )
        for config in configs
    ]


def _step(config: step_benchmark.Config) -> Values:
    rival, reason = ("torch.compile" if config.compiled else "PyTorch eager"), peers.torch_missing()
    if config.compiled and reason:
        return {f"{rival}, ms": f"– ({reason})", f"JAX to {rival}": "–"}
    result = step_benchmark.measure(config)
    best = {name: min(seconds) for name, seconds in result.seconds.items()}
    ours = best.pop(step_benchmark.OURS)
    values: Values = {"JAX, ms": 1e3 * ours, "JAX, images/s": config.batch / ours, "temporary, MB": result.temporary}
    if config.compiled:
        values = {}
    if not best:
        return values | {f"{rival}, ms": f"– ({result.missing})", f"JAX to {rival}": "–"}
    (theirs,) = best.values()
    return values | {f"{rival}, ms": 1e3 * theirs, f"JAX to {rival}": theirs / ours}


def meta_gradient(sizes: Sizes) -> list[Case]:
    """Return a case for each number T of inner steps of ResNet-32: time and memory."""
    return [Case(f"T = {steps}", partial(_meta_gradient, sizes, steps)) for steps in sizes.unrolls]


def _meta_gradient(sizes: Sizes, steps: int) -> Values:
    config = meta_benchmark.Config(queries=sizes.queries, repeats=sizes.repeats)
    row = meta_benchmark.measure(config, sizes.exemplars, steps)
    seconds, theirs = min(row.seconds), min(row.peer_seconds)
    values: Values = {
        "exemplars": sizes.exemplars,
        "JAX, s": seconds,
        "JAX temporary, MB": row.temporary,
        "PyTorch, s": theirs,
        "PyTorch peak, MB": row.peer_peak,
        "ratio": theirs / seconds,
    }
    if math.isnan(theirs):
        reason = peers.torch_missing() or f"its graph is too large beyond {config.peer_images} exemplars × steps"
        values |= {"PyTorch, s": f"– ({reason})", "PyTorch peak, MB": "–", "ratio": "–"}
    return values


def herding(sizes: Sizes) -> list[Case]:
    """Return a case for each size: one jitted call beside the usual NumPy loop."""
    return [
        Case(
            f"{classes} × {images} × {width}, {amount} picks", partial(_herding, sizes, classes, images, width, amount)
        )
        for classes, images, width, amount in sizes.herding
    ]


def _herding(sizes: Sizes, classes: int, images: int, width: int, amount: int) -> Values:
    same, seconds = herding_benchmark.measure(
        herding_benchmark.Config(classes, images, width, amount, repeats=sizes.repeats)
    )
    ours, theirs = (min(times) for times in seconds.values())
    return {"jitted call, ms": 1e3 * ours, "NumPy loop, ms": 1e3 * theirs, "ratio": theirs / ours, "same": same}


def synthetic(sizes: Sizes, side: int = 32) -> Dataset:
    """Return random pictures of the shape of CIFAR-100: 32×32×3, 100 classes (fewer if small)."""
    rng = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(sizes.classes, dtype=np.int32), count)
        return rng.integers(0, 256, (len(labels), side, side, 3), np.uint8), labels

    names = tuple(f"class {i}" for i in range(sizes.classes))
    return make_dataset("synthetic", split(sizes.class_images), split(sizes.class_images // 5), names)


def end_to_end(sizes: Sizes) -> list[Case]:
    """Return one case: images per second of a run's training, and the share of the time that the device waits."""
    return [Case(f"{sizes.run_net}, LUCIR, batch {sizes.run_batch}", partial(_end_to_end, sizes))]


class _Clock(Display):
    """Notes when steps of the first phase's training are done, and presses Ctrl-C when it is over."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.times: list[tuple[int, float]] = []

    def stage(self, phase: int, name: str, total: int) -> None:
        """Go on into training alone."""
        if self.times or name != Stage.TRAINING.title:
            raise KeyboardInterrupt
        super().stage(phase, name, total)

    def advance(self, done: int, **values: int | float) -> None:
        """Note the time, and stop before anything else of the phase begins."""
        self.times.append((done, time.perf_counter()))
        super().advance(done, **values)


def _end_to_end(sizes: Sizes) -> Values:
    dataset = synthetic(sizes)
    config = mn.override(mn.make_config("cifar100", "lucir", "herding"), dict(sizes.run_settings))
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_in_folder(config, Path(folder) / "run", clock, load=lambda _: dataset)
        except KeyboardInterrupt:
            if not clock.times:
                raise
    # The first chunk compiles.
    (first, began), (last, ended) = clock.times[0], clock.times[-1]
    if last == first:
        raise ValueError("the run has a single chunk of steps, and its first compiles")
    step = (ended - began) / (last - first)
    busy = _device_step(config, lambda _: dataset, chunks=len(clock.times) - 1)
    return {
        "images/s": config.train.batch_size / step,
        "device waits, %": 100 * max(0.0, 1 - busy / step),
        "steps": last,
    }


def _device_step(config: mn.Config, load: data.Load, chunks: int) -> float:
    """Return the seconds of a training step where its batches lie on the device and nothing is reported."""
    setup = mn.make_setup(config, load)
    state = mn.initial_state(setup)
    samples = setup.samples(state.memory, split_samples(setup, state).train)
    context = Context(state.variables, setup.stream.masks(0), state.correction)
    streams = phase_streams(state.key, 0)
    loop = TrainingLoop(setup.train_program, config.train, samples, state.variables, context, streams)
    waiting = loop.batches(0)
    batches = [jax.block_until_ready(next(waiting)) for _ in range(min(chunks, 8) + 1)]
    loop_state, log = loop.run(loop.begin(None), batches[0])
    jax.block_until_ready(log)
    began = time.perf_counter()
    for batch in batches[1:]:
        loop_state, log = loop.run(loop_state, batch)
    jax.block_until_ready(log)
    return (time.perf_counter() - began) / ((len(batches) - 1) * loop.chunk_steps)


def seeds(sizes: Sizes) -> list[Case]:
    """Return a case for each number of seeds: digits runs that differ in the seed, as one program."""
    return [Case(f"{count} at once", partial(_seeds, sizes, count)) for count in sizes.seeds]


def _seeds(sizes: Sizes, count: int) -> Values:
    config = mn.override(mn.make_config("digits", "icarl", "mnemonics"), dict(sizes.seed_settings))
    vmap_seeds.check(config, count)

    def one(seed: int) -> None:
        setup = mn.make_setup(dataclasses.replace(config, seed=seed))
        state = mn.initial_state(setup)
        for phase in range(config.stream.phases + 1):
            lockstep.enter_phase(phase)
            state = mn.run_phase(setup, state)

    def together() -> float:
        began = time.perf_counter()
        lockstep.run([partial(one, seed) for seed in range(count)])
        return time.perf_counter() - began

    compiling, seconds = together(), together()
    return {"s": seconds, "s a seed": seconds / count, "compilation, s": compiling - seconds}


def stream(sizes: Sizes) -> list[Case]:
    """Return a case for each phase of a shortened `cifar100` stream, which go on from each other."""
    config = mn.override(mn.make_config("cifar100", "lucir", "mnemonics"), dict(sizes.stream_settings))
    run = _Stream(config, sizes)
    return [Case(f"phase {phase}", partial(run.next_phase, phase)) for phase in range(config.stream.phases + 1)]


class _Stream:
    """A run phase by phase."""

    def __init__(self, config: mn.Config, sizes: Sizes) -> None:
        self._config, self._sizes = config, sizes
        self._setup: mn.Setup | None = None
        self._state: mn.PhaseState | None = None
        self._images = "synthetic"

    def next_phase(self, phase: int) -> Values:
        """Run `phase` and return its seconds and compilations."""
        began, before = time.perf_counter(), num_compilations()
        if phase == 0:
            self._setup = mn.make_setup(self._config, self._load)
            self._state = mn.initial_state(self._setup)
        elif self._setup is None or self._state is None or int(self._state.phase) != phase:
            raise RuntimeError("the phase before has failed")
        self._state = mn.run_phase(self._setup, self._state)
        took = time.perf_counter() - began
        return {"s": took, "compilations": num_compilations() - before, "images": self._images}

    def _load(self, config: DataConfig) -> Dataset:
        """Return CIFAR-100 where its archive is there already and the sizes are full; else pictures of its shape."""
        try:
            there = (data_folder(None) / LAYOUTS["cifar100"].archive.name).exists()
        except OSError:
            there = False
        if there and self._sizes is FULL:
            self._images = "CIFAR-100"
            return data.load(config)
        return synthetic(self._sizes)
