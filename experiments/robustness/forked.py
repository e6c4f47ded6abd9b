"""Commands in forked processes: the imports, which take seconds, are done once for thousands of starts."""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 120.0
"""Seconds after which a process counts as hanging."""


class Ended(NamedTuple):
    """How a process ended: its status (negative: the signal that ended it), what it wrote, and what it returned."""

    status: int
    said: str
    hung: bool = False
    value: Any = None


class Forked:
    """A process that calls a function with its output in a file; `with_environment` holds only there."""

    def __init__(self, call: Callable[[], Any], with_environment: Mapping[str, str | None] | None = None) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this object)
        self._value = tempfile.TemporaryFile()  # noqa: SIM115
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        self._status: int | None = None
        if self.pid == 0:
            self._be(call, with_environment or {})

    def _be(self, call: Callable[[], Any], environment: Mapping[str, str | None]) -> None:
        """Call the function and end the process; this does not return."""
        status = 1
        try:
            os.setsid()
            os.dup2(self._output.fileno(), 1)
            os.dup2(self._output.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for name, value in environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            value = call()
            self._value.write(json.dumps(value).encode())
            self._value.flush()
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # As at the end of a program: threads that write checkpoints end first.
            os._exit(status)

    def ended(self) -> bool:
        """Return whether the process has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it has not ended."""
        if not self.ended():
            os.kill(self.pid, number)

    def wait(self, limit: float = LIMIT) -> Ended:
        """Return how the process ended; after `limit` seconds it is killed, and has hung."""
        end, hung = time.monotonic() + limit, False
        while not self.ended():
            if time.monotonic() > end and not hung:
                hung = True
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.002)
        self._output.seek(0)
        said = self._output.read().decode(errors="replace")
        self._value.seek(0)
        value = self._value.read()
        self._output.close()
        self._value.close()
        return Ended(self._status, said, hung, json.loads(value) if value else None)


def command(words: list[str]) -> Callable[[], None]:
    """Return a function that runs `mnemonics WORDS`."""

    def call() -> None:
        from mnemonics_jax.cli import main

        main(words)

    return call


def preload() -> None:
    """Import what commands need, without starting JAX's backend, which no fork survives."""
    import grain  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import mnemonics_jax.reports.page
    import mnemonics_jax.runs.export
    import mnemonics_jax.runs.runner
    import mnemonics_jax.sweeps.comparison  # noqa: F401
    from mnemonics_jax import cli  # noqa: F401


def outcome(ended: Ended, *, right: bool | None) -> str:
    """Return the outcome of an attack: right, clear, traceback, hang or wrong.

    Args:
        ended: how the process ended.
        right: whether what a process with status 0 has left is right; None where nothing can be compared.
    """
    if ended.hung:
        return "hang"
    if "Traceback (most recent call last)" in ended.said or ended.status < 0 or ended.status == 1:
        return "traceback"
    if ended.status == 0:
        return "wrong" if right is False else "right"
    lines = [line for line in ended.said.splitlines() if line.startswith(("mnemonics: ", "mnemonics "))]
    return "clear" if lines or "usage: " in ended.said or "─" in ended.said else "wrong"


def plain(path: Path) -> Any:
    """Return what a run's summary.json or metrics.jsonl says, less what depends on clock and process."""

    def less(event: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in event.items() if name not in ("seconds", "compilations", "record")}

    text = path.read_text()
    return less(json.loads(text)) if path.suffix == ".json" else [less(json.loads(line)) for line in text.splitlines()]
