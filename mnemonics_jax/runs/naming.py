"""The name of a run's folder where the user gives none."""

import hashlib
import json
import re
from typing import Any

from mnemonics_jax.config.config import Config, differences

_LONGEST = 60
"""Most characters of a folder's name that tell what differs from the preset."""


def default_name(config: Config, base: Config, orders: int | None = None) -> str:
    """Return a name that tells the settings: preset, method, kind, what differs from `base`, seed, and a hash.

    Runs of other settings have another name, so that none is in the way of another.

    Args:
        config: the configuration of the run.
        base: that of the preset, with the same method and exemplar kind.
        orders: number of class orders, where the folder holds several runs, from the seed of `config` on.
    """
    changed = differences(base.to_dict(), config.to_dict())
    changed.pop("seed", None)
    words = ",".join(f"{name.split('.')[-1]}={_text(new)}" for name, (_, new) in changed.items())
    parts = [config.preset, config.method.name, config.exemplars.name]
    if config.recipe != "default":
        parts.append(config.recipe)
    if words:
        parts.append(re.sub(r"[^\w.,=:+-]", "_", words, flags=re.ASCII)[:_LONGEST].rstrip(",=_"))
    last = "" if orders is None else f"-{config.seed + orders - 1}"
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()
    return "-".join([*parts, f"seed{config.seed}{last}", digest[:6]])


def _text(value: Any) -> str:
    return ":".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
