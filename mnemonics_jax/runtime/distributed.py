"""Several processes as one run: how they connect, how they agree on settings and errors, and which one writes."""

import json
import socket
import time
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.lazy import jax
from mnemonics_jax.runtime.peers import watch_peers
from mnemonics_jax.runtime.settings import check_ranges

_PAGE = 4096
"""Messages between processes are padded to a multiple of this many bytes, to compile for few lengths only."""


@dataclass(frozen=True)
class Cluster:
    """Which processes take part in a run."""

    distributed: bool = False
    """Run as one of several processes that share their devices. Start all of them with the same settings and the same
    --out on a shared file system. The cluster's environment (Slurm, Open MPI, TPU, Kubernetes) gives each process its
    number; elsewhere, set the three flags below."""
    coordinator: str | None = None
    """Address HOST:PORT of process 0; the same for all processes."""
    processes: Annotated[int, Ge(1)] | None = None
    """Number of processes."""
    process_id: Annotated[int, Ge(0)] | None = None
    """Number of this process, from 0."""
    connect_timeout: Annotated[int, Ge(1)] = 300
    """Seconds to wait for the coordinator and for the other processes."""

    def validate(self) -> None:
        """Raise `UserError` for flags that contradict each other."""
        given = {"--coordinator": self.coordinator, "--processes": self.processes, "--process-id": self.process_id}
        missing = [flag for flag, value in given.items() if value is None]
        if not self.distributed:
            if len(missing) < len(given):
                raise UserError(
                    f"{', '.join(set(given) - set(missing))}: needs --distributed; add it, or leave these flags out"
                )
            return
        if missing and len(missing) < len(given):
            raise UserError(f"--distributed: {', '.join(missing)} missing; give all of {', '.join(given)}, or none")
        if missing:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"--coordinator {self.coordinator}: give the address of process 0 as HOST:PORT")
        if self.process_id >= self.processes:
            raise UserError(
                f"--process-id {self.process_id}: with --processes {self.processes} choose from 0 to "
                f"{self.processes - 1}"
            )


def connect(cluster: Cluster) -> None:
    """Connect to the other processes; call this before any other use of JAX. Without --distributed, do nothing.

    Raises:
        UserError: for flags that contradict each other, and when the coordinator does not answer in time.
    """
    check_ranges(cluster)
    cluster.validate()
    if not cluster.distributed:
        return
    if cluster.process_id:
        # Without an answer JAX would end the process itself, with no message of ours.
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
            f"--distributed: the processes cannot connect ({error}): give --coordinator, --processes and --process-id"
        ) from error
    host = cluster.coordinator.rpartition(":")[0].strip("[]") if cluster.coordinator else socket.gethostname()
    watch_peers(jax.process_index(), jax.process_count(), broadcast_from_primary, host, cluster.connect_timeout)


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


def is_primary() -> bool:
    """Return whether this process is the primary, the one that writes: process 0, or the only one."""
    return jax.process_index() == 0


def require_agreement(settings: Any, problem: str = "") -> None:
    """Wait for all processes, and end all of them with the same error when one cannot go on.

    Args:
        settings: plain values that have to be the same in every process.
        problem: the message of an error that stops this process; empty when there is none.

    Raises:
        UserError: in every process, when one of them has a problem or other settings than process 0.
    """
    if jax.process_count() == 1:
        if problem:
            raise UserError(problem)
        return
    ours = json.loads(json.dumps(settings))
    theirs = json.loads(_allgather(json.dumps(settings))[0])
    if changed := [name for name in sorted(theirs | ours) if theirs.get(name) != ours.get(name)]:
        listed = ", ".join(f"{name} {ours.get(name)!r} (there {theirs.get(name)!r})" for name in changed)
        problem = f"process {jax.process_index()} has other settings than process 0: {listed}; give all the same"
    for message in _allgather(problem):
        if message:
            raise UserError(message)


def broadcast_from_primary(text: str) -> str:
    """Return the `text` of process 0 in every process."""
    return text if jax.process_count() == 1 else _allgather(text)[0]


def _allgather(text: str) -> list[str]:
    """Return the `text` of every process, in order of process numbers."""
    from jax.experimental import multihost_utils  # imports JAX, which settings do without

    message = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray([len(message)], np.int32)).reshape(-1)
    length = -(-max(int(lengths.max()), 1) // _PAGE) * _PAGE
    rows = multihost_utils.process_allgather(np.resize(np.append(message, np.zeros(length, np.uint8)), length))
    return [bytes(row[:used]).decode() for row, used in zip(rows.reshape(-1, length), lengths, strict=True)]
