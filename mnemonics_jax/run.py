"""A whole run: the loop over phases, with its files, its checkpoints and its way back after an interruption."""

import json
import time
from pathlib import Path
from typing import Any

import jax

from mnemonics_jax.checkpoint import Checkpoints
from mnemonics_jax.compilations import compilations
from mnemonics_jax.config import Config, flatten
from mnemonics_jax.console import Display
from mnemonics_jax.distributed import agree, is_first
from mnemonics_jax.errors import NumbersError, UserError
from mnemonics_jax.journal import Journal, Unwritten, claim_folder, read_metrics, write_json
from mnemonics_jax.metrics import accuracies
from mnemonics_jax.phase import run_phase
from mnemonics_jax.state import PhaseState, Setup, initial_state, make_setup


class _RunWatch:
    """Hands a phase's progress to the display, its events to the journal."""

    def __init__(self, display: Display, journal: Journal | Unwritten) -> None:
        self.stage, self.advance, self.warn = display.stage, display.advance, display.warn
        self._journal = journal

    def event(self, name: str, phase: int, **values: Any) -> None:
        self._journal.write({"event": name, "phase": phase, **values})


def run(config: Config, out: Path, display: Display) -> dict[str, Any]:
    """Runs `config` in the folder `out`, going on after the last finished phase if there is one; returns the summary.

    Raises `UserError` before any training for what cannot work, `NumbersError` when numbers go wrong.
    """
    began, compiled = time.monotonic(), compilations()
    setup = _common_setup(config, out)
    if (out / "summary.json").exists():
        display.say(f"{out} is finished; this is its summary")
        return json.loads((out / "summary.json").read_text())
    if setup.group_classes is not None:
        display.say(f"exemplars are learned in groups of {setup.group_classes} classes (--exemplars.group-classes)")
    with Checkpoints(out / "checkpoints") as checkpoints:
        state = initial_state(setup)
        if (finished := checkpoints.latest()) is not None:
            state = checkpoints.restore(finished, state)
            display.say(f"going on after phase {finished} of {out}")
        journal = Journal(out, int(state.phase)) if is_first() else Unwritten()
        watch = _RunWatch(display, journal)
        try:
            for phase in range(int(state.phase), setup.stream.num_phases):
                state = _checked_phase(setup, state, watch, checkpoints)
                facts = {"seconds": round(time.monotonic() - began, 3), "compilations": compilations() - compiled}
                began = time.monotonic()
                event = {"event": "phase", "phase": phase, **_phase_results(setup, state, phase), **facts}
                journal.write(event)
                checkpoints.save(state)
                display.phase_done(event)
        finally:
            journal.close()
    if is_first():
        write_json(out / "summary.json", summarise(setup, state, read_metrics(out / "metrics.jsonl")))
    agree({})
    return json.loads((out / "summary.json").read_text())


def _common_setup(config: Config, out: Path) -> Setup:
    """The run's setup, once every process has one of the same configuration and process 0 has claimed the folder."""
    problem, setup = "", None
    try:
        setup = make_setup(config)
        if is_first():
            claim_folder(out, config)
    except UserError as error:
        problem = str(error)
    agree(flatten(config.to_dict()), problem)
    return setup


def _checked_phase(setup: Setup, state: PhaseState, watch: _RunWatch, checkpoints: Checkpoints) -> PhaseState:
    try:
        return run_phase(setup, state, watch)
    except NumbersError as error:
        last = checkpoints.latest()
        where = (
            "there is no checkpoint yet"
            if last is None
            else f"the last good checkpoint is {checkpoints.folder / str(last)}"
        )
        raise NumbersError(
            f"phase {int(state.phase)}: {error}; {where}. Try a smaller --train.learning-rate, "
            "--exemplars.inner-learning-rate or --exemplars.outer-learning-rate"
        ) from error


def _phase_results(setup: Setup, state: PhaseState, phase: int) -> dict[str, Any]:
    stream = setup.stream
    groups = stream.phase_of_class()
    results = {"seen_classes": stream.seen(phase), "memory_bytes": state.memory.num_bytes}
    for name, right in (("accuracy", state.right), ("accuracy_exemplar_model", state.right_exemplar_model)):
        if right[phase, 0] >= 0:
            results[name] = float(accuracies(right[: phase + 1], stream.test_labels, groups).overall[phase])
    return results


def summarise(setup: Setup, state: PhaseState, events: list[dict[str, Any]]) -> dict[str, Any]:
    """summary.json. Percentages are floats from 0 to 100; the matrix has None where a class group was still to come."""
    config, stream = setup.config, setup.stream
    groups = stream.phase_of_class()
    result = accuracies(state.right, stream.test_labels, groups)
    matrix = [[None if g > i else float(v) for g, v in enumerate(row)] for i, row in enumerate(result.matrix)]
    by_exemplars = None
    if config.method.uses_memory:
        by_exemplars = accuracies(state.right_exemplar_model, stream.test_labels, groups).overall.tolist()
    phases = [event for event in events if event["event"] == "phase"]
    return {
        "dataset": setup.stream.dataset.name,
        "method": config.method.name,
        "exemplars": config.exemplars.name if config.method.uses_memory else None,
        "phases": config.stream.phases,
        "seed": config.seed,
        "accuracy": result.overall.tolist(),
        "average_accuracy": result.average,
        "last_accuracy": float(result.overall[-1]),
        "forgetting": result.forgetting,
        "accuracy_matrix": matrix,
        "accuracy_exemplar_model": by_exemplars,
        "average_accuracy_exemplar_model": sum(by_exemplars) / len(by_exemplars) if by_exemplars else None,
        "seen_classes": [stream.seen(i) for i in range(stream.num_phases)],
        "memory_bytes": state.memory.num_bytes,
        "memory_dtype": state.memory.images.dtype.name,
        # Each process that worked on the run compiles the same programs, so the most any of them did is the run's own.
        "compilations": max(event["compilations"] for event in phases),
        "seconds": round(sum(event["seconds"] for event in phases), 3),
        "backend": jax.default_backend(),
        "devices": setup.devices.count,
        "precision": setup.net.dtype or "float32",
    }
