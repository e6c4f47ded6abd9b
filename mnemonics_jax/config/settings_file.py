"""Settings in a file of the user: YAML or JSON, also the config.json of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mnemonics_jax.config.config import Config, flatten
from mnemonics_jax.config.parsing import has, settable, with_value
from mnemonics_jax.runtime.errors import UserError, unknown_name
from mnemonics_jax.runtime.files import read_json

_NAMES = ("preset", "recipe", "method", "exemplars")


@dataclass(frozen=True)
class SettingsFile:
    """What a file of settings holds: names that decide which settings exist, and `settings` by dotted name.

    A name is None where the file has none. `methods` and `kinds` hold several names only for a comparison. `replaced`
    are the sections, of "method" and "exemplars", whose settings were made for another method or kind than the one that
    is run: those that it lacks are left out.
    """

    path: Path = Path()
    preset: str | None = None
    recipe: str | None = None
    methods: list[str] | None = None
    kinds: list[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    replaced: frozenset[str] = frozenset()

    def with_names(self, methods: list[str] | None, kinds: list[str] | None) -> "SettingsFile":
        """Return the settings with the names that flags give, where they give any, in place of those of the file."""
        flags = {"method": (methods, self.methods), "exemplars": (kinds, self.kinds)}
        others = {part for part, (given, own) in flags.items() if given and own and given != own}
        return replace(self, methods=methods or self.methods, kinds=kinds or self.kinds, replaced=frozenset(others))

    def apply(self, config: Config) -> Config:
        """Return `config` with the settings of the file.

        Raises:
            UserError: names the file and the setting where `config` has no such setting, or does not accept its value.
        """
        return self.apply_to_all([config])[0]

    def apply_to_all(self, configs: Sequence[Config]) -> list[Config]:
        """Return each configuration with those settings of the file that it has.

        Raises:
            UserError: names the file and the setting where no configuration has it, or one does not accept its value.
        """
        try:
            for name in self.settings:
                if name.split(".")[0] not in self.replaced and not any(has(config, name) for config in configs):
                    known = {known for config in configs for known in settable(config)}
                    raise unknown_name("setting", name, known.union(_NAMES))
            return [self._applied(config) for config in configs]
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error

    def _applied(self, config: Config) -> Config:
        for name, value in self.settings.items():
            if has(config, name):
                config = with_value(config, name, value)
        return config


def read_settings_file(path: Path) -> SettingsFile:
    """Read the file of --config: a mapping of sections (`train: {epochs: 5}`) or of dotted names (`train.epochs: 5`).

    `preset`, `recipe`, `method` and `exemplars` name what they say; the latter two may be sections with a `name`, as in
    the config.json of a run, or lists of names for a comparison.

    Raises:
        UserError: names the file where it cannot be read or holds something else.
    """
    plain = dict(_mapping(path))
    # What a run notes beside its configuration, see `runs.record`.
    plain.pop("record", None)
    names: dict[str, list[str] | None] = {}
    for key in _NAMES:
        value = plain.pop(key, None)
        if isinstance(value, Mapping):
            plain[key] = {name: inner for name, inner in value.items() if name != "name"}
            value = value.get("name")
        names[key] = _texts(path, key, value)
    for key in ("preset", "recipe"):
        if names[key] is not None and len(names[key]) != 1:
            raise UserError(f"{path}: {key} {names[key]}: give one name")
    return SettingsFile(
        path,
        preset=names["preset"] and names["preset"][0],
        recipe=names["recipe"] and names["recipe"][0],
        methods=names["method"],
        kinds=names["exemplars"],
        settings=flatten(plain),
    )


def _mapping(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        return read_json(path, "give --config another file")
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"--config {path}: give a file that ends in .yaml, .yml or .json")
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--config {path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(plain, dict) or not all(isinstance(name, str) for name in plain):
        raise UserError(f"--config {path}: has to be a mapping of settings, such as `train: {{epochs: 5}}`")
    return plain


def _texts(path: Path, key: str, value: Any) -> list[str] | None:
    """Return the names that stand at `key`, or None when there are none."""
    if value is None:
        return None
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: {key} {value!r}: give a name")
    return names
