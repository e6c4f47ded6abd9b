"""The lock of a run's folder, and seals."""

import os
import subprocess
import sys

import pytest

from mnemonics_jax.console import Display
from mnemonics_jax.errors import UserError
from mnemonics_jax.files import Damaged, locked, seal, unseal
from mnemonics_jax.run import run

HOLDER = """
import sys, time
from pathlib import Path
from mnemonics_jax.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_dead(tiny, tmp_path):
    out = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"--out {out} is in use by process {holder.pid} on "):
            run(tiny.config(), out, Display())
        holder.kill()
    # The file of the dead process is still there, and no obstacle.
    assert str(holder.pid) in (out / "lock").read_text()
    with locked(out):
        assert f"process {os.getpid()} on" in (out / "lock").read_text()


def test_seals_hold_folders_of_any_shape(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"123")
    (tmp_path / "d").write_bytes(b"")
    seal(tmp_path, {"x": 1})
    assert unseal(tmp_path) == {"x": 1}
    (tmp_path / "d").write_bytes(b"1")
    with pytest.raises(Damaged, match="d has 1 bytes instead of 0"):
        unseal(tmp_path)
