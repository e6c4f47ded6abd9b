"""summary.json: the results of a finished run."""

from pathlib import Path
from typing import Any

import jax

from mnemonics_jax.phase.evaluation import accuracies
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState
from mnemonics_jax.runs.base_model_cache import EVENT as BASE_MODEL
from mnemonics_jax.runs.record import KEY, Record
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import cannot_write, read_json, write_json
from mnemonics_jax.runtime.folders import CorruptedError, FormatError, changed_files, write_manifest

Summary = dict[str, Any]
"""The content of a summary.json."""
_RESULTS = ("config.json", "metrics.jsonl", "summary.json")


def summarise(setup: Setup, state: PhaseState, events: list[dict[str, Any]], record: Record) -> Summary:
    """Return the content of summary.json for a run with that `record` that ended with `state` and logged `events`.

    Accuracies are percentages, floats from 0 to 100. `accuracy_matrix[i][g]` is the accuracy after phase i on the
    classes of phase g; it is None for g > i. `forgetting` is that of the base classes, `average_forgetting` and
    `backward_transfer` are over all classes but the last phase's (`Accuracies` has the equations); all three are in
    percentage points.
    """
    config, stream = setup.config, setup.stream
    groups = stream.phase_of_class()
    result = accuracies(state.num_correct, stream.test_labels, groups)
    matrix = [[None if g > i else float(v) for g, v in enumerate(row)] for i, row in enumerate(result.matrix)]
    fitted = None
    if config.method.uses_memory:
        fitted = accuracies(state.num_correct_exemplar_model, stream.test_labels, groups)
    phases = [event for event in events if event["event"] == "phase"]
    shared = next((event for event in events if event["event"] == BASE_MODEL), None)
    return {
        "dataset": stream.dataset.name,
        "method": config.method.name,
        "exemplars": config.exemplars.name if config.method.uses_memory else None,
        "phases": config.stream.phases,
        "seed": config.seed,
        "accuracy": result.overall.tolist(),
        "average_accuracy": result.average,
        "last_accuracy": float(result.overall[-1]),
        "forgetting": result.forgetting,
        "average_forgetting": result.average_forgetting,
        "backward_transfer": result.backward_transfer,
        "accuracy_matrix": matrix,
        "accuracy_exemplar_model": fitted.overall.tolist() if fitted else None,
        "average_accuracy_exemplar_model": fitted.average if fitted else None,
        "forgetting_exemplar_model": fitted.forgetting if fitted else None,
        "average_forgetting_exemplar_model": fitted.average_forgetting if fitted else None,
        "backward_transfer_exemplar_model": fitted.backward_transfer if fitted else None,
        "seen_classes": [stream.seen(i) for i in range(stream.num_phases)],
        # Classes learned in one program; 0 for all, None where nothing is learned.
        "group_classes": config.exemplars.group_classes if setup.learns else None,
        "memory_bytes": setup.memory_bytes(state.memory),
        "memory_dtype": state.memory.images.dtype.name,
        # All processes of a run compile the same programs, so their maximum counts for the run.
        "compilations": max(event["compilations"] for event in phases),
        "seconds": round(sum(event["seconds"] for event in phases), 3),
        # A Θ_0 that another run has trained; `seconds` above does not include its training.
        "shared_base_model": shared and {name: shared[name] for name in ("shared", "seconds")},
        "backend": jax.default_backend(),
        "devices": setup.devices.count,
        "precision": setup.net.dtype or "float32",
        KEY: record.to_dict(),
    }


def write_summary(out: Path, summary: Summary) -> None:
    """Write summary.json into the folder of a finished run, and a manifest of the files that hold its results.

    Raises:
        UserError: when a file cannot be written.
    """
    with cannot_write(out / "summary.json"):
        write_json(out / "summary.json", summary)
        write_manifest(out, {}, _RESULTS)


def read_summary(out: Path) -> Summary:
    """Return the summary of the finished run in `out`.

    Raises:
        UserError: names a file with results that is not as `write_summary` has left it.
    """
    try:
        changed = changed_files(out)
    except CorruptedError:
        changed = {"manifest.json"}
    if changed:
        raise UserError(f"{', '.join(str(out / name) for name in sorted(changed))} is damaged")
    return read_json(out / "summary.json")


def changed_results(out: Path) -> set[str]:
    """Return which of config.json, metrics.jsonl and summary.json have changed since the run in `out` finished.

    All count as unchanged when there is no manifest, and all as changed when it is damaged.
    """
    if not (out / "manifest.json").exists():
        return set()
    try:
        return changed_files(out)
    except (CorruptedError, FormatError):
        return {*_RESULTS}
