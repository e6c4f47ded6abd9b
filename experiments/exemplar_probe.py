"""What exemplars of the base phase are worth, by probes that cost no incremental run, as a table on the console.

    python experiments/exemplar_probe.py --preset digits
    python experiments/exemplar_probe.py --preset images --set data.path=DIR --vary exemplars.change_cap=0.05,0.12,1

One model is trained on the base classes and then, without any exemplar, on the next phase's, which makes it forget. The
exemplars of each kind, chosen or learned with the first model, are judged by accuracy on the base classes' test images:

- fresh: a new network trained on the exemplars alone, by --steps inner steps on all parameters;
- recovery: the forgetful model trained on the exemplars, by --recovery-steps such steps;
- mean, current and later: nearest class mean under the first model and under the forgetful one.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Bool, Float
from rich.table import Table

from mnemonics_jax import data
from mnemonics_jax.compare import mean_and_error
from mnemonics_jax.compilations import use_persistent_cache
from mnemonics_jax.config import PRESETS, Config, make_config
from mnemonics_jax.console import Display, stdout
from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.exemplars.inner import InnerProgram, Models, draw_batches, fit_model
from mnemonics_jax.inference import by_classifier, by_nearest_mean, embed, exemplar_means
from mnemonics_jax.methods.finetune import Finetune
from mnemonics_jax.nets.classifier import Variables
from mnemonics_jax.overrides import has, override, pairs
from mnemonics_jax.phase import run_phase
from mnemonics_jax.point import Point, Stage
from mnemonics_jax.program import ending
from mnemonics_jax.rng import Use, random_stream, stream_key
from mnemonics_jax.state import PhaseState, Setup, initial_state, make_setup
from mnemonics_jax.training import begin_training
from mnemonics_jax.watch import Silent, Watch

PROBES = ("fresh", "recovery", "mean, current", "mean, later")


def accuracy(setup: Setup, variables: Variables, seen: Bool[np.ndarray, "classes"]) -> float:
    """Accuracy of a model's classifier on the base classes' test images, in percent."""
    index = setup.stream.test_indices(0)
    guesses = by_classifier(
        embed(setup.net, setup.augmentation, variables, setup.test_store, index), initial_state(setup).bias, seen
    )
    return 100 * float(np.mean(guesses == setup.stream.test_labels[index]))


def mean_accuracy(setup: Setup, variables: Variables, state: PhaseState, seen: Bool[np.ndarray, "classes"]) -> float:
    """Accuracy on them of the nearest mean of the exemplars in `state`."""
    net, augmentation, index = setup.net, setup.augmentation, setup.stream.test_indices(0)
    setup.train_store.hold(state.memory.images)
    means = exemplar_means(net, augmentation, variables, setup.train_store, setup.first_slot, state.memory)
    guesses = by_nearest_mean(embed(net, augmentation, variables, setup.test_store, index), means, seen)
    return 100 * float(np.mean(guesses == setup.stream.test_labels[index]))


def fitted(setup: Setup, state: PhaseState, model: Variables, init: str, steps: int, rate: float) -> Variables:
    """`model`, or a new network, trained on the exemplars in `state` by SGD on all parameters."""
    settings = dataclasses.replace(
        setup.config.exemplars, inner_init=init, inner_scope="all", unroll_length=steps, inner_optimizer="sgd"
    )
    program = InnerProgram(setup.net, settings, setup.augmentation, setup.devices)
    images = state.memory.images.reshape(-1, *state.memory.images.shape[2:])
    batches = draw_batches(settings, state.memory.used, random_stream(state.key, 0, Use.FIT))
    seen, rates = setup.stream.masks(0).seen, np.full(steps, rate, np.float32)
    models, key = Models(model, model), stream_key(state.key, 0, Use.FIT)
    return jax.tree.map(
        np.asarray, fit_model(program, models, images, state.memory.labels(), seen, batches, rates, key)
    )


def probe(setup: Setup, state: PhaseState, forgetful: Variables, steps: int, recovery_steps: int) -> list[float]:
    """The accuracies of `PROBES` for the exemplars in `state`, the state after phase 0."""
    seen = setup.stream.masks(0).seen
    fresh = fitted(setup, state, state.variables, "fresh", steps, 0.05)
    recovered = fitted(setup, state, forgetful, "current", recovery_steps, 0.01)
    return [
        accuracy(setup, fresh, seen),
        accuracy(setup, recovered, seen),
        mean_accuracy(setup, state.variables, state, seen),
        mean_accuracy(setup, forgetful, state, seen),
    ]


class Shown(Silent):
    """Progress of a phase on the console, without its events."""

    def __init__(self, display: Display) -> None:
        self.stage, self.advance = display.stage, display.advance


def two_models(setup: Setup, watch: Watch) -> tuple[Point, Variables]:
    """The end of phase 0's training, and the model that phase 1 makes of it with nothing to remember."""
    bare = dataclasses.replace(setup, config=dataclasses.replace(setup.config, method=Finetune()))
    start = initial_state(setup)
    first = run_phase(bare, start, watch)
    steps = setup.config.train.steps(0, len(setup.stream.train_indices(0)))
    end = Point(start, Stage.TRAINING, steps, begin_training(setup.train_program, first.variables))
    return end, run_phase(bare, first, watch).variables


def arms(plain: dict[str, str], vary: dict[str, list[str]]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(label, kind, settings) of each row: the kinds, the learned ones under every combination of what varies."""
    for kind in EXEMPLARS:
        if kind != "mnemonics":
            yield kind, kind, plain
    for values in itertools.product(*vary.values()):
        changed = dict(zip(vary, values, strict=True))
        label = ", ".join(f"{name.removeprefix('exemplars.')} {value}" for name, value in changed.items())
        yield f"learned {label}".strip(), "mnemonics", plain | changed


def main(words: list[str] | None = None) -> None:
    """Runs the probes and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits", help=f"one of {', '.join(PRESETS)} (default: digits)")
    parser.add_argument("--method", default="lwf", help="whose head the models have (default: lwf)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12], help="class orders (default: 10 to 12)")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="settings of every row")
    parser.add_argument(
        "--vary", nargs="+", default=[], metavar="FIELD=VALUE,VALUE", help="settings of learned exemplars, a row each"
    )
    parser.add_argument("--steps", type=int, default=300, help="inner steps of the fresh network (default: 300)")
    parser.add_argument("--recovery-steps", type=int, default=30, help="inner steps of recovery (default: 30)")
    asked = parser.parse_args(words)
    plain, vary = pairs(asked.set, "--set"), pairs(asked.vary, "--vary")
    rows = list(arms(plain, {name: values.split(",") for name, values in vary.items()}))
    configs = {label: configured(asked.preset, asked.method, kind, own) for label, kind, own in rows}
    load = functools.lru_cache(maxsize=1)(data.load)
    use_persistent_cache()
    figures: dict[str, list[list[float]]] = {label: [] for label, _, _ in rows}
    with Display() as display:
        for seed in asked.seeds:
            setups = {
                label: make_setup(dataclasses.replace(config, seed=seed), load) for label, config in configs.items()
            }
            display.title = f"seed {seed}"
            end, forgetful = two_models(next(iter(setups.values())), Shown(display))
            for label, setup in setups.items():
                display.title = f"seed {seed}, {label}"
                state = initial_state(setup)
                state = run_phase(setup, end._replace(state=state), Shown(display))
                figures[label].append(probe(setup, state, forgetful, asked.steps, asked.recovery_steps))
    stdout().print(table_of(figures))


def table_of(figures: dict[str, list[list[float]]]) -> Table:
    """Means and standard errors over class orders, and in brackets those of the paired differences from herding."""
    table = Table("exemplars", *PROBES, caption="accuracy in percent over class orders (difference from herding)")
    for label, values in figures.items():
        gains = np.subtract(values, figures["herding"])
        cells = []
        for column, difference in zip(np.transpose(values), gains.T, strict=True):
            cells.append(f"{_figure(column)} ({_figure(difference, '+')})" if gains.any() else _figure(column))
        table.add_row(label, *cells)
    return table


def _figure(values: Float[np.ndarray, "order"], sign: str = "") -> str:
    mean, error = mean_and_error(list(values))
    return f"{mean:{sign}.1f}" + (f" ± {error:.1f}" if error is not None else "")


def configured(preset: str, method: str, kind: str, settings: dict[str, str]) -> Config:
    """The preset with an exemplar kind and those settings that the kind has."""
    config = make_config(preset, method, kind)
    richest = make_config(preset, method, "mnemonics")
    kept = {name: value for name, value in settings.items() if has(config, name) or not has(richest, name)}
    return override(config, kept)


if __name__ == "__main__":
    with ending("exemplar_probe"):
        main()
