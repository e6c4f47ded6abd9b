"""What exemplars of the base phase are worth, measured without a whole incremental run, as a table on the console.

    python experiments/exemplar_probe.py --preset digits
    python experiments/exemplar_probe.py --preset images --set data.path=DIR --vary exemplars.change_cap=0.05,0.12,1

The base model is trained on the base classes and then, without any exemplar, on those of the next phase, which makes
it forget. The exemplars of each kind, chosen or learned with the base model, are compared by accuracy on the test
images of the base classes:

- fresh: a new network trained on the exemplars alone, by --steps inner steps on all parameters;
- recovery: the forgetful model trained on the exemplars, by --recovery-steps such steps;
- mean, current and mean, later: nearest class mean under the base model and under the forgetful one.
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
from mnemonics_jax.config.config import Config
from mnemonics_jax.config.parsing import has, override, pairs
from mnemonics_jax.config.presets import PRESETS, make_config
from mnemonics_jax.exemplars import EXEMPLARS
from mnemonics_jax.exemplars.inner import InnerProblem, InnerProgram, Models, draw_batches, fit_exemplar_model
from mnemonics_jax.methods.bounds import Finetune
from mnemonics_jax.nets.classifier import Variables
from mnemonics_jax.phase.callbacks import Callbacks, NoCallbacks
from mnemonics_jax.phase.evaluation import by_classifier, by_nearest_mean, embed, exemplar_means
from mnemonics_jax.phase.run_phase import run_phase
from mnemonics_jax.phase.setup import Setup, make_setup
from mnemonics_jax.phase.state import PhaseState, ResumePoint, Stage, initial_state
from mnemonics_jax.phase.training import init_training
from mnemonics_jax.reports.statistics import mean_and_error
from mnemonics_jax.runtime.compile_cache import use_persistent_cache
from mnemonics_jax.runtime.errors import UserError, exit_status
from mnemonics_jax.runtime.progress import Display, stdout
from mnemonics_jax.runtime.random_streams import Use, random_stream, stream_key

PROBES = ("fresh", "recovery", "mean, current", "mean, later")


def accuracy(setup: Setup, variables: Variables, seen: Bool[np.ndarray, " classes"]) -> float:
    """Return the accuracy of a model's classifier on the base classes' test images, in percent."""
    index = setup.stream.test_indices(0)
    guesses = by_classifier(
        embed(setup.net, setup.augmentation, variables, setup.test_store, index), initial_state(setup).correction, seen
    )
    return 100 * float(np.mean(guesses == setup.stream.test_labels[index]))


def mean_accuracy(setup: Setup, variables: Variables, state: PhaseState, seen: Bool[np.ndarray, " classes"]) -> float:
    """Return the accuracy of the nearest mean of the exemplars in `state` on the same images, in percent."""
    net, augmentation, index = setup.net, setup.augmentation, setup.stream.test_indices(0)
    means = exemplar_means(setup, state.memory, variables)
    guesses = by_nearest_mean(embed(net, augmentation, variables, setup.test_store, index), means, seen)
    return 100 * float(np.mean(guesses == setup.stream.test_labels[index]))


def fitted(setup: Setup, state: PhaseState, model: Variables, init: str, steps: int, rate: float) -> Variables:
    """Return `model`, or a new network, trained on the exemplars in `state` by SGD on all parameters."""
    settings = dataclasses.replace(
        setup.config.exemplars, inner_init=init, inner_scope="all", unroll_length=steps, inner_optimizer="sgd"
    )
    program = InnerProgram(setup.net, settings, setup.augmentation, setup.devices)
    images = state.memory.images.reshape(-1, *state.memory.images.shape[2:])
    batches = draw_batches(settings, state.memory.used, random_stream(state.key, 0, Use.FIT))
    seen, rates = setup.stream.masks(0).seen, np.full(steps, rate, np.float32)
    problem = InnerProblem(Models(model, model), state.memory.labels(), seen)
    key = stream_key(state.key, 0, Use.FIT)
    return jax.tree.map(np.asarray, fit_exemplar_model(program, problem, images, rates, batches, key))


def probe(setup: Setup, state: PhaseState, forgetful: Variables, steps: int, recovery_steps: int) -> list[float]:
    """Return the accuracies of `PROBES` for the exemplars in `state`, the state after phase 0."""
    seen = setup.stream.masks(0).seen
    fresh = fitted(setup, state, state.variables, "fresh", steps, 0.05)
    recovered = fitted(setup, state, forgetful, "current", recovery_steps, 0.01)
    return [
        accuracy(setup, fresh, seen),
        accuracy(setup, recovered, seen),
        mean_accuracy(setup, state.variables, state, seen),
        mean_accuracy(setup, forgetful, state, seen),
    ]


class Shown(NoCallbacks):
    """Callbacks that show the progress of a phase on the console and ignore its events."""

    def __init__(self, display: Display) -> None:
        self.stage, self.advance = display.stage, display.advance


def two_models(setup: Setup, callbacks: Callbacks) -> tuple[ResumePoint, Variables]:
    """Return the resume point at the end of phase 0's training, and the model after phase 1 without exemplars."""
    bare = dataclasses.replace(setup, config=dataclasses.replace(setup.config, method=Finetune()))
    start = initial_state(setup)
    first = run_phase(bare, start, callbacks)
    steps = setup.config.train.steps(0, len(setup.stream.train_indices(0)))
    end = ResumePoint(start, Stage.TRAINING, steps, init_training(setup.train_program, first.variables))
    return end, run_phase(bare, first, callbacks).variables


def arms(plain: dict[str, str], vary: dict[str, list[str]]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (label, kind, settings) of each row: other kinds, then learned ones by every combination of `vary`."""
    for kind in EXEMPLARS:
        if kind != "mnemonics":
            yield kind, kind, plain
    for values in itertools.product(*vary.values()):
        changed = dict(zip(vary, values, strict=True))
        label = ", ".join(f"{name.removeprefix('exemplars.')} {value}" for name, value in changed.items())
        yield f"learned {label}".strip(), "mnemonics", plain | changed


def main(words: list[str] | None = None) -> None:
    """Run the probes and print their table.

    Raises:
        UserError: for fewer than one class order or a wrong setting.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits", help=f"one of {', '.join(PRESETS)} (default: digits)")
    parser.add_argument("--method", default="lwf", help="method whose head the models have (default: lwf)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="number of class orders (default: 3)")
    parser.add_argument("--first-seed", type=int, default=10, help="seed of the first class order (default: 10)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="settings of every row, for example data.path=DIR"
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="values of settings of learned exemplars; a row for each combination",
    )
    parser.add_argument("--steps", type=int, default=300, help="inner steps of the fresh network (default: 300)")
    parser.add_argument("--recovery-steps", type=int, default=30, help="inner steps of recovery (default: 30)")
    asked = parser.parse_args(words)
    if asked.seeds < 1:
        raise UserError(f"--seeds {asked.seeds}: at least one class order is needed")
    plain, vary = pairs(asked.set, "--set"), pairs(asked.vary, "--vary")
    rows = list(arms(plain, {name: values.split(",") for name, values in vary.items()}))
    configs = {label: configured(asked.preset, asked.method, kind, own) for label, kind, own in rows}
    load = functools.lru_cache(maxsize=1)(data.load)
    use_persistent_cache()
    figures: dict[str, list[list[float]]] = {label: [] for label, _, _ in rows}
    with Display() as display:
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
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
    """Return means and standard errors over class orders, and in brackets the paired differences from herding."""
    table = Table("exemplars", *PROBES, caption="accuracy in percent over class orders (difference from herding)")
    for label, values in figures.items():
        gains = np.subtract(values, figures["herding"])
        cells = []
        for column, difference in zip(np.transpose(values), gains.T, strict=True):
            cells.append(f"{_figure(column)} ({_figure(difference, '+')})" if gains.any() else _figure(column))
        table.add_row(label, *cells)
    return table


def _figure(values: Float[np.ndarray, " order"], sign: str = "") -> str:
    mean, error = mean_and_error(list(values))
    return f"{mean:{sign}.1f}" + (f" ± {error:.1f}" if error is not None else "")


def configured(preset: str, method: str, kind: str, settings: dict[str, str]) -> Config:
    """Return the preset with an exemplar kind and those of the settings that the kind has."""
    config = make_config(preset, method, kind)
    richest = make_config(preset, method, "mnemonics")
    kept = {name: value for name, value in settings.items() if has(config, name) or not has(richest, name)}
    return override(config, kept)


if __name__ == "__main__":
    with exit_status("exemplar_probe"):
        main()
