"""A process that runs many phases needs no more than one that runs few."""

import json
import subprocess
import sys

import pytest
from helpers import EXPERIMENTS

SCRIPT = EXPERIMENTS / "robustness" / "many_phases.py"


@pytest.mark.slow
def test_two_hundred_phases_need_no_more_memory_and_compile_nothing_new(tmp_path):
    command = [sys.executable, str(SCRIPT), "--phases", "200", "--out", str(tmp_path)]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(child.stdout.splitlines()[-1])
    memory, compiled = found["memory_mib"], found["compilations"]
    assert len(memory) == len(compiled) == 201
    # Phase 1 is the first to calibrate, phase 2 to adjust more than one old class.
    assert compiled[-1] == compiled[2]
    assert memory[-1] < memory[100] + 5
    assert memory[-1] < memory[2] + 60
    assert (tmp_path / "many_phases.png").stat().st_size > 1000
