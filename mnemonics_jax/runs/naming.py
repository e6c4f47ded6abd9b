"""Names of folders where the user gives none."""

import hashlib
import json
import re
from typing import Any

from mnemonics_jax.config.config import Config, differences

_LONGEST = 60
"""Most characters of a folder's name that tell what differs from the preset."""


def default_name(config: Config, base: Config, orders: int | None = None) -> str:
    """Return a run's name that tells the settings: preset, method, kind, what differs from `base`, seed, and a hash.

    Runs of other settings have another name, so that none is in the way of another.

    Args:
        config: the configuration of the run.
        base: that of the preset, with the same method and exemplar kind.
        orders: number of class orders, where the folder holds several runs, from the seed of `config` on.
    """
    last = "" if orders is None else f"-{config.seed + orders - 1}"
    parts = [config.preset, config.method.name, config.exemplars.name, *_changed(config, base)]
    return "-".join([*parts, f"seed{config.seed}{last}", short_hash(config.to_dict())])


def comparison_name(config: Config, base: Config) -> str:
    """Return a comparison's name that tells the settings that its arms share: preset, what differs from `base`, a hash.

    More arms and class orders under the same settings belong into the same folder.

    Args:
        config: the configuration of the settings of all arms.
        base: that of the preset.
    """
    changed = _changed(config, base)
    differing = differences(base.to_dict(), config.to_dict())
    return "-".join(["compare", config.preset, *changed, *([short_hash(differing)] if changed else [])])


def plain_name(words: str) -> str:
    """Return `words` as a part of a folder's name: of plain characters, and not too long."""
    return re.sub(r"[^\w.,=:+-]", "_", words, flags=re.ASCII)[:_LONGEST].rstrip(",=_")


def short_hash(value: Any) -> str:
    """Return six hexadecimal digits that depend on all of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]


def _changed(config: Config, base: Config) -> list[str]:
    """Return the parts of a name that tell what differs from `base`, the recipe first; none where nothing does."""
    parts = [] if config.recipe == "default" else [config.recipe]
    changed = differences(base.to_dict(), config.to_dict())
    changed.pop("seed", None)
    if changed:
        parts.append(plain_name(",".join(f"{name.split('.')[-1]}={_text(new)}" for name, (_, new) in changed.items())))
    return parts


def _text(value: Any) -> str:
    return ":".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
