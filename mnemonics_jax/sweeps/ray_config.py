"""What each run gets of a Ray cluster."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt


@dataclass(frozen=True)
class RayConfig:
    """The resources of each run on Ray, and the number of retries."""

    gpus_per_point: Annotated[float, Ge(0)] = 0.0
    """GPUs for each run, with --executor ray; with a fraction, several runs share a GPU."""
    cpus_per_point: Annotated[float, Gt(0)] = 1.0
    """CPU cores for each run, with --executor ray."""
    max_failures: Annotated[int, Ge(0)] = 3
    """How often Ray restarts a run that failed or lost its worker. The run resumes from its checkpoint."""
