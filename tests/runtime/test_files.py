"""The lock of a run's folder."""

import os
import subprocess
import sys

import pytest

from mnemonics_jax.runs.runner import run_in_folder
from mnemonics_jax.runtime.errors import UserError
from mnemonics_jax.runtime.files import locked
from mnemonics_jax.runtime.progress import Display

HOLDER = """
import sys, time
from pathlib import Path
from mnemonics_jax.runtime.files import locked
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
