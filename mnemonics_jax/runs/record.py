"""What decides the bits of a run beside the code: configuration, data and arithmetic, recorded in all that it leaves.

The record is the value of "record" in config.json, in the manifest of each checkpoint, and in summary.json.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from mnemonics_jax.config.config import Config
from mnemonics_jax.phase.setup import Setup
from mnemonics_jax.runtime import kernels, lockstep
from mnemonics_jax.runtime.errors import UserError

KEY = "record"
Arithmetic = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """The record of a run.

    `configuration` is a hash of the settings, `data` has one of each part of the data set. `arithmetic` lists what the
    run has computed with: one entry from its beginning, and one more for each time that it went on with another.
    """

    configuration: str
    data: dict[str, str]
    arithmetic: tuple[Arithmetic, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {"configuration": self.configuration, "data": self.data, "arithmetic": list(self.arithmetic)}

    def check(self, other: "Record | None", where: str) -> None:
        """Check that `other`, the record found in `where`, is of the same configuration and the same data.

        Raises:
            UserError: when it is not, with what differs.
        """
        if other is None:
            raise UserError(f"{where} has no record of its configuration and data: choose another --out")
        if other.configuration != self.configuration:
            raise UserError(f"{where} belongs to a run with other settings: choose another --out")
        changed = [name for name in self.data if self.data[name] != other.data.get(name)]
        if changed:
            raise UserError(
                f"{where} belongs to a run on other data; different now: {', '.join(changed)}: restore the data, "
                "or choose another --out (streamed images are compared by names, sizes and times of their files)"
            )

    def continued(self, now: Arithmetic, since: str) -> "Record":
        """Return the record of a run that goes on with the arithmetic `now` from the checkpoint `since`."""
        if not self.changes(now):
            return self
        return Record(self.configuration, self.data, (*self.arithmetic, {**now, "since": since}))

    def changes(self, now: Arithmetic) -> dict[str, tuple[Any, Any]]:
        """Return what of the arithmetic `now` differs from the last one of this record: by name, before and now."""
        last = self.arithmetic[-1] if self.arithmetic else {}
        return {name: (last.get(name), value) for name, value in now.items() if last.get(name) != value}


def record_of(setup: Setup, *, begins: bool = False) -> Record:
    """Return the record of a run of `setup`; where the run `begins`, with the arithmetic of this process."""
    first = ({**arithmetic(setup), "since": "the beginning"},) if begins else ()
    return Record(configuration_hash(setup.config), setup.stream.dataset.fingerprint, first)


def configuration_hash(config: Config) -> str:
    """Return a hash of all settings of a run."""
    return hash_of(config.to_dict())


def hash_of(plain: Any) -> str:
    """Return a hash of plain JSON values."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def arithmetic(setup: Setup) -> Arithmetic:
    """Return what this process computes with: on other hardware or versions, the same run ends with other bits."""
    return {
        "kernels": kernels.identity(),
        "precision": setup.net.dtype or "float32",
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": setup.devices.count,
        "jax": jax.__version__,
        "runs_at_once": lockstep.num_lanes(),
    }


def read_record(plain: Mapping[str, Any]) -> Record | None:
    """Return the record among the plain values of a file, or None when there is none that is whole."""
    found = plain.get(KEY)
    if not isinstance(found, dict):
        return None
    configuration, data, steps = (found.get(name) for name in ("configuration", "data", "arithmetic"))
    if not (isinstance(configuration, str) and isinstance(data, dict) and isinstance(steps, list)):
        return None
    if not all(isinstance(step, dict) for step in steps):
        return None
    return Record(configuration, data, tuple(steps))
