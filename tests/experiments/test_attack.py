"""The attack on runs from outside, in its smallest size: nothing falls."""

import json
import subprocess
import sys

from helpers import EXPERIMENTS

SCRIPT = EXPERIMENTS / "robustness" / "attack.py"


def test_attacked_runs_end_right_or_with_a_clear_message(tmp_path):
    command = [sys.executable, str(SCRIPT), "--size", "ci", "--out", str(tmp_path / "attack")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    found = [json.loads(line) for line in (tmp_path / "attack" / "attacks.jsonl").read_text().splitlines()]
    assert [sum(one["attack"] == name for one in found) for name in ("kills", "damages", "inputs")] == [2, 6, 14]
    assert {one["outcome"] for one in found} == {"right", "clear"}


def test_no_folder_of_others_is_emptied(tmp_path):
    (tmp_path / "thesis").write_text("years of work")
    child = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 2
    assert "is not a folder of this script" in child.stderr
    assert (tmp_path / "thesis").exists()
