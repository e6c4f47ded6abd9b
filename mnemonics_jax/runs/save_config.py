"""How often a run is saved."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt


@dataclass(frozen=True)
class SaveConfig:
    """How often a run is saved inside a phase. It is not part of `Config`, since it does not change results."""

    every_steps: Annotated[int, Gt(0)] = 1000
    """Training steps between two checkpoints inside a phase."""
    every_outer_steps: Annotated[int, Gt(0)] = 25
    """Outer steps of exemplar learning between two checkpoints inside a phase."""
    min_seconds: Annotated[float, Ge(0)] = 30.0
    """Minimum seconds between two checkpoints; a later checkpoint waits for it, so fast steps are not slowed down."""
