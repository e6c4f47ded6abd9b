"""How the processes of one run notice at once that one of them is gone, and end with its name instead of waiting.

Each process holds a connection to process 0, which the kernel closes with the process, however that ends. A process
that ends as it should says so before. JAX by itself would wait, and then abort the process.
"""

import atexit
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from mnemonics_jax.runtime import signals

_END = "end"
_CONNECT = 10.0
"""Seconds in which the processes, which have just agreed on where, connect."""
_GRACE = 2.0
"""Seconds for a process to end by an error of its own, which several may have at the same time.

Process 0, whose end ends the others too, waits twice as long.
"""
_SAVING = 60.0
"""Seconds for the last checkpoint of a run that has lost a process."""
_peers: "_Peers | None" = None


def watch_peers(process: int, count: int, share: Callable[[str], str], host: str, timeout: int) -> None:
    """Watch the other processes of a run until this one ends. One that cannot be reached is not watched.

    Where another process ends too early, the run is saved as on SIGTERM, with that process in the message.

    Args:
        process: number of this process, from 0.
        count: number of all processes.
        share: returns the text of process 0 in every process.
        host: name or address of the machine of process 0.
        timeout: seconds after which a machine that does not answer counts as gone.
    """
    global _peers
    if process == 0:
        with _server(count) as server:
            secret = secrets.token_hex(8)
            share(f"{host} {server.getsockname()[1]} {secret}")
            connections = _accept(server, count - 1, secret)
    else:
        connections = _call(f"process {process} on {socket.gethostname()}", *share("").split())
    if len(connections) < (count - 1 if process == 0 else 1):
        print("mnemonics: not all processes can be reached: it is noticed late when one ends", file=sys.stderr)
    _peers = _Peers(process, connections, timeout)
    atexit.register(_peers.say_end)


def lost_peer(seconds: float = 0.0) -> str:
    """Return the message about a process that is gone, waiting up to `seconds` for one; empty when all are there."""
    return _peers.lost_within(seconds) if _peers else ""


def leave(status: int) -> None:
    """End this process with `status` after an error, if it has peers: JAX would wait for those that cannot go on."""
    if _peers:
        _peers.leave(status)


def _server(count: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=count, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=count)


def _accept(server: socket.socket, count: int, secret: str) -> dict[str, socket.socket]:
    """Return `count` connections by the names of the processes, or those that come in time."""
    found: dict[str, socket.socket] = {}
    end = time.monotonic() + _CONNECT
    with suppress(TimeoutError):
        while len(found) < count:
            server.settimeout(max(end - time.monotonic(), 0.01))
            connection, _ = server.accept()
            connection.settimeout(1.0)
            said, _, name = connection.makefile(errors="replace").readline().strip().partition(" ")
            if said == secret:
                found[name] = connection
    return found


def _call(name: str, host: str, port: str, secret: str) -> dict[str, socket.socket]:
    """Return the connection to process 0, or nothing where it cannot be reached."""
    try:
        connection = socket.create_connection((host, int(port)), _CONNECT)
        connection.sendall(f"{secret} {name}\n".encode())
    except OSError:
        return {}
    return {f"process 0 on {host}": connection}


class _Peers:
    """The connections to other processes by name: from process 0 to all of them, from another one to process 0."""

    def __init__(self, process: int, connections: dict[str, socket.socket], timeout: int) -> None:
        self._process, self._connections = process, connections
        self._grace = _GRACE if process else 2 * _GRACE
        self._lost = ""
        self._ends = False
        self._noticing = threading.Lock()
        self._noticed = threading.Event()
        self._ended = {name: threading.Event() for name in connections}
        for name, connection in connections.items():
            _keep_alive(connection, timeout)
            threading.Thread(target=self._follow, args=(name, connection), name="peer", daemon=True).start()

    def say_end(self) -> None:
        """Tell the other processes that this one ends as it should, or by an error that nobody has caught."""
        self._ends = True
        failed = hasattr(sys, "last_value")
        self._tell(f"process {self._process} on {socket.gethostname()} has failed" if failed else _END)

    def lost_within(self, seconds: float) -> str:
        """Return the message about a process that is gone, waiting up to `seconds` for one."""
        self._noticed.wait(seconds)
        return self._lost

    def leave(self, status: int) -> NoReturn:
        """End this process with `status`. Process 0, whose end ends the others too, gives them time for theirs."""
        sys.stdout.flush()
        sys.stderr.flush()
        end = time.monotonic() + (self._grace if self._process == 0 else 0)
        for ended in self._ended.values():
            ended.wait(max(end - time.monotonic(), 0))
        os._exit(status)

    def _tell(self, text: str) -> None:
        for connection in self._connections.values():
            with suppress(OSError):
                connection.sendall(f"{text}\n".encode())

    def _follow(self, name: str, connection: socket.socket) -> None:
        """Wait for the end of another process, and end this one where that was too early."""
        try:
            said = connection.makefile().readline().strip()
        # A machine that does not answer any more.
        except OSError:
            said = ""
        self._ended[name].set()
        # Process 0 tells all of a failure, also the process that failed: that one ends by itself.
        if said == _END or self._ends:
            return
        # The others end because one is gone. Only the first end is told, once: each has a thread here.
        with self._noticing:
            if self._noticed.is_set():
                return
            self._lost = said or f"{name} is gone"
            self._noticed.set()
        if self._process == 0:
            self._tell(self._lost)
        time.sleep(self._grace)
        signals.stop(self._lost)
        time.sleep(_SAVING)
        os._exit(signals.STOPPED)


def _keep_alive(connection: socket.socket, timeout: int) -> None:
    """Let the kernel ask whether the other machine is there: after `timeout` seconds without answer it is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", timeout // 2), ("TCP_KEEPINTVL", timeout // 8), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), max(seconds, 1))
