"""The lock of a run's folder, atomic writes, and the cache folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import check_name, locked, only_ours, read_json, user_cache_folder, write_atomically
from mnemonics_jax.runtime.progress import Display

HOLDER = """
import sys, time
from pathlib import Path
from mnemonics_jax.runtime.files import locked, only_ours, read_json, user_cache_folder, write_atomically
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_dead(tiny, tmp_path):
    out = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"--out {out} is in use by process {holder.pid} on "):
            run_in_folder(tiny.config(), out, Display())
        holder.kill()
    # The file of the dead process is still there, and no obstacle.
    assert str(holder.pid) in (out / "lock").read_text()
    with locked(out):
        assert f"process {os.getpid()} on" in (out / "lock").read_text()


@pytest.mark.parametrize("kind", ["link", "foreign file", "pipe", "folder"])
def test_a_lock_that_is_not_ours_stays_as_it_is(tmp_path, kind):
    target, lock = tmp_path / "thesis.txt", tmp_path / "out" / "lock"
    target.write_text("years of work")
    lock.parent.mkdir()
    if kind == "link":
        lock.symlink_to(target)
    elif kind == "foreign file":
        lock.write_text("years of work")
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(UserError, match=f"{lock} was not written by a run"), locked(lock.parent):
        pass
    assert target.read_text() == "years of work"
    assert kind != "foreign file" or lock.read_text() == "years of work"


def test_a_folder_that_is_gone_or_another_is_noticed(tmp_path):
    out = tmp_path / "out"
    with locked(out) as check:
        check()
        shutil.rmtree(out)
        with pytest.raises(UserError, match="was removed or replaced"):
            check()
        out.mkdir()
        (out / "lock").write_text("")
        with pytest.raises(UserError, match="was removed or replaced"):
            check()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_lies_where_a_draft_is_written_is_no_obstacle(tmp_path, kind):
    target, draft = tmp_path / "thesis.txt", tmp_path / "summary.json.part"
    target.write_text("years of work")
    if kind == "link":
        draft.symlink_to(target)
    elif kind == "file":
        draft.write_text("cut off")
    else:
        draft.mkdir()
    write_atomically(tmp_path / "summary.json", "Θ")
    assert (tmp_path / "summary.json").read_text(encoding="utf-8") == "Θ"
    assert target.read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json", "thesis.txt"]


def test_a_json_file_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json is not a file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("place", ["of others", "of nobody"])
def test_a_cache_folder_only_where_others_cannot_write(tmp_path, monkeypatch, place):
    if place == "of others":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert only_ours(user_cache_folder("xla"))
        (tmp_path / "mnemonics_jax").chmod(0o777)
        match = "other users can write to"
    else:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", no_home)
        match = "set HOME or XDG_CACHE_HOME"
    with pytest.raises(OSError, match=match):
        user_cache_folder("xla")


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_name_that_no_folder_can_have_is_refused(tmp_path):
    check_name(tmp_path / "not" / "there")
    with pytest.raises(UserError, match="d cannot be used: File name too long; choose a folder"):
        check_name(tmp_path / ("d" * 300))
