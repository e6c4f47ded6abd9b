"""Processes that notice the end of another one, without JAX: what each says, and its exit status."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from mnemonics_jax.runtime import peers, signals

PROGRAM = """
import atexit, sys, time
from pathlib import Path
from mnemonics_jax.runtime.errors import UserError, exit_status
from mnemonics_jax.runtime.peers import watch_peers

number, place, ending = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def share(text):
    if text:
        place.with_name("draft").write_text(text)
        place.with_name("draft").rename(place)
    while not place.exists():
        time.sleep(0.01)
    return place.read_text()

if ending == "slow bug":
    atexit.register(time.sleep, 2)  # what is registered first is called last

with exit_status("mnemonics"):
    watch_peers(number, 3, share, "localhost", 60)
    print("ready", flush=True)
    sys.stdin.readline()
    if ending == "mistake":
        raise UserError("the batch is too small")
    if "bug" in ending:
        raise RuntimeError("a bug")
    if ending == "wait":
        time.sleep(60)
"""


@pytest.fixture
def three(tmp_path):
    """A function that starts three processes, which end as told once they get a line, when all are connected."""
    children = []

    def start(*endings):
        for number, ending in enumerate(endings):
            command = [sys.executable, "-c", PROGRAM, str(number), str(tmp_path / "place"), ending]
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            children.append(subprocess.Popen(command, env=os.environ, text=True, **pipes))
        for child in children:
            assert child.stdout.readline() == "ready\n", child.communicate()
        return children

    yield start
    for child in children:
        child.kill()
        child.communicate()


def go(children):
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()


def ends(children):
    errors = [child.communicate(timeout=30)[1] for child in children]
    return [child.returncode for child in children], errors


@pytest.mark.parametrize("killed", [0, 2])
def test_the_others_name_a_process_that_was_killed(three, killed):
    children = three("wait", "wait", "wait")
    go(children)
    began = time.monotonic()
    children[killed].kill()
    rest = [child for number, child in enumerate(children) if number != killed]
    statuses, errors = ends(rest)
    assert time.monotonic() - began < 20
    assert statuses == [75, 75]
    for error in errors:
        (line,) = error.splitlines()
        assert line.startswith(f"mnemonics: process {killed} on ")
        assert line.endswith(" is gone; the same command goes on from what is saved")


def test_the_ends_that_follow_from_the_first_one_do_not_stop_a_process_again(monkeypatch):
    stops = []
    monkeypatch.setattr(signals, "stop", stops.append)
    monkeypatch.setattr(os, "_exit", lambda status: None)
    monkeypatch.setattr(peers, "_GRACE", 0)
    monkeypatch.setattr(peers, "_SAVING", 0)
    monkeypatch.setattr(peers, "_keep_alive", lambda connection, timeout: None)  # for TCP only
    ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
    before = set(threading.enumerate())
    peers._Peers(0, {f"process {number + 1} there": ours[number] for number in range(3)}, 60)
    threads = set(threading.enumerate()) - before
    theirs[1].close()
    for other in (0, 2):
        # Process 0 tells the others, and then they are gone, too.
        assert theirs[other].recv(100) == b"process 2 there is gone\n"
        theirs[other].close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert stops == ["process 2 there is gone"]


def test_processes_that_end_as_they_should_say_nothing(three):
    children = three("end", "end", "end")
    go(children)
    assert ends(children) == ([0, 0, 0], ["", "", ""])


def test_a_mistake_that_all_have_is_told_by_each(three):
    children = three("mistake", "mistake", "mistake")
    go(children)
    assert ends(children) == ([2, 2, 2], ["mnemonics: the batch is too small\n"] * 3)


@pytest.mark.parametrize("bug", ["bug", "slow bug"])
def test_the_others_end_when_one_fails(three, bug):
    children = three("wait", bug, "wait")
    go(children)
    statuses, errors = ends(children)
    assert statuses == [75, 1, 75]
    assert "a bug" in errors[1]
    assert all("process 1 on " in error and " has failed; the same command" in error for error in errors[::2])
