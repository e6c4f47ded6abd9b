"""summary.json: the results of a finished run."""

from typing import Any

import jax

from mnemonics_jax.phase.evaluation import accuracies
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.phase.state import PhaseState
from mnemonics_jax.runs.base_model_cache import EVENT as BASE_MODEL

Summary = dict[str, Any]
"""The content of a summary.json."""


def summarise(setup: Setup, state: PhaseState, events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of summary.json for a run that ended with `state` and logged `events`.

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
        "shared_first_phase": shared and {name: shared[name] for name in ("shared", "seconds")},
        "backend": jax.default_backend(),
        "devices": setup.devices.count,
        "precision": setup.net.dtype or "float32",
    }
