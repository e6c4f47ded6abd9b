"""Several processes as one run: how they find each other, agree on what they do, and who writes."""

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mnemonics_jax.errors import UserError

_PAGE = 4096
"""Messages between processes are padded to a multiple of so many bytes, so that few lengths are compiled for."""


@dataclass(frozen=True)
class Cluster:
    """Which processes take part in a run."""

    distributed: bool = False
    """Run as one of several processes that share their devices. All are started with the same settings and the same
    --out on a shared file system; the cluster's environment (Slurm, Open MPI, TPU, Kubernetes) tells who is who, or
    the three flags below do."""
    coordinator: str | None = None
    """Address HOST:PORT of process 0, for all processes the same."""
    processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Number of this process, from 0."""
    connect_timeout: int = 300
    """Seconds to wait for the coordinator and for the other processes."""

    def validate(self) -> None:
        """Raises `UserError` for flags that contradict each other."""
        given = {"--coordinator": self.coordinator, "--processes": self.processes, "--process-id": self.process_id}
        missing = [flag for flag, value in given.items() if value is None]
        if not self.distributed:
            if len(missing) < len(given):
                raise UserError(f"{', '.join(set(given) - set(missing))}: needs --distributed beside it")
            return
        if missing and len(missing) < len(given):
            raise UserError(f"--distributed: {', '.join(missing)} missing; give all of {', '.join(given)}, or none")
        if missing:
            return
        if self.connect_timeout < 1:
            raise UserError(f"--connect-timeout {self.connect_timeout}: give at least one second")
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"--coordinator {self.coordinator}: give the address of process 0 as HOST:PORT")
        if not 0 <= self.process_id < self.processes:
            raise UserError(
                f"--process-id {self.process_id}: with --processes {self.processes} choose from 0 to "
                f"{self.processes - 1}"
            )


def connect(cluster: Cluster) -> None:
    """Joins the other processes; to be called before JAX is asked for anything. Without --distributed does nothing.

    Raises `UserError` when the coordinator does not answer in time, with its address.
    """
    cluster.validate()
    if not cluster.distributed:
        return
    if cluster.process_id:
        # JAX itself ends the process when it gets no answer, before anything can be said.
        _await(cluster.coordinator, cluster.connect_timeout)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process_id,
            initialization_timeout=cluster.connect_timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--distributed: the processes cannot be joined ({error}): give --coordinator, --processes and --process-id"
        ) from error


def _await(address: str, seconds: int) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(end - time.monotonic(), 1)).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"--coordinator {address} did not answer for {seconds} s ({error}): start process 0 there, check "
                    "host, port and firewall, or wait longer with --connect-timeout"
                ) from error
        time.sleep(0.2)


def is_first() -> bool:
    """Whether this process is the one that writes: number 0, or the only one."""
    return jax.process_index() == 0


def agree(settings: Any, problem: str = "") -> None:
    """Lets all processes go on together, or end together.

    `settings` is what has to be the same everywhere, as plain values; `problem` is what keeps this process from going
    on, if anything. Raises `UserError` in every process when one has a problem or other settings than process 0.
    """
    if jax.process_count() == 1:
        if problem:
            raise UserError(problem)
        return
    ours = json.loads(json.dumps(settings))
    theirs = json.loads(_tell(json.dumps(settings))[0])
    if changed := [name for name in sorted(theirs | ours) if theirs.get(name) != ours.get(name)]:
        listed = ", ".join(f"{name} {ours.get(name)!r} (there {theirs.get(name)!r})" for name in changed)
        problem = f"process {jax.process_index()} has other settings than process 0: {listed}; give all the same"
    for told in _tell(problem):
        if told:
            raise UserError(told)


def first_tells(text: str) -> str:
    """The `text` of process 0, in every process."""
    return text if jax.process_count() == 1 else _tell(text)[0]


def _tell(text: str) -> list[str]:
    """What every process tells, in order of their numbers."""
    message = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray([len(message)], np.int32)).reshape(-1)
    room = -(-max(int(lengths.max()), 1) // _PAGE) * _PAGE
    rows = multihost_utils.process_allgather(np.resize(np.append(message, np.zeros(room, np.uint8)), room))
    return [bytes(row[:length]).decode() for row, length in zip(rows.reshape(-1, room), lengths, strict=True)]
