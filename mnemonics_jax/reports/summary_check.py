"""What a report needs of a summary.json, which may be a file of any program where there is no manifest beside it."""

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.settings import coerce

_NEEDED: dict[str, Any] = {
    "dataset": str,
    "method": str,
    "exemplars": str | None,
    "seed": Annotated[int, Ge(0)],
    "accuracy": Annotated[tuple[float, ...], MinLen(1)],
    "average_accuracy": float,
    "accuracy_matrix": tuple[tuple[float | None, ...], ...],
    "seen_classes": tuple[int, ...],
    "accuracy_exemplar_model": tuple[float, ...] | None,
    "last_accuracy": float,
    "memory_bytes": int,
    "memory_dtype": str,
    "seconds": float,
    "compilations": int,
    "backend": str,
}
_OPTIONAL: dict[str, Any] = {
    "forgetting": float | None,
    "average_forgetting": float | None,
    "backward_transfer": float | None,
    "average_accuracy_exemplar_model": float | None,
}
"""Values that a run of an older version may lack."""


def check_summary(path: Path, summary: dict[str, Any]) -> None:
    """Check that `summary`, the content of the file `path`, has all that a report reads, of the right types.

    Raises:
        UserError: names the file and what is missing or wrong.
    """
    if missing := [name for name in _NEEDED if name not in summary]:
        raise _not_of_a_run(path, f"it lacks {', '.join(missing)}")
    try:
        for name, kind in (_NEEDED | _OPTIONAL).items():
            if name in summary:
                coerce(kind, summary[name], name)
    except UserError as error:
        raise _not_of_a_run(path, str(error)) from error
    phases = len(summary["accuracy"])
    for name in ("accuracy_matrix", "seen_classes", "accuracy_exemplar_model"):
        if summary[name] is not None and len(summary[name]) != phases:
            raise _not_of_a_run(path, f"{name} has {len(summary[name])} entries for {phases} phases")
    for phase, row in enumerate(summary["accuracy_matrix"]):
        if len(row) != phases or None in row[: phase + 1]:
            raise _not_of_a_run(path, f"accuracy_matrix[{phase}] has no number for each group of classes seen")


def _not_of_a_run(path: Path, why: str) -> UserError:
    return UserError(f"{path} is not the summary of a run: {why}; remove the file")
