"""What the package says of itself."""

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_tpu_requirements_are_those_of_the_extra():
    lines = (ROOT / "requirements-tpu.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith(("#", "-e"))] == PROJECT["optional-dependencies"][
        "tpu"
    ]


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="mnemonics")
    assert command.value == PROJECT["scripts"]["mnemonics"]


def test_the_readme_s_test_command_is_the_one_ci_runs():
    (command,) = re.findall(r"^pip install .*&& pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert "[test]" in command
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_imports_form_no_circle():
    package = ROOT / "mnemonics_jax"
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in package.rglob("*.py")}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    known = set(names.values())
    imports = {}
    for path, name in names.items():
        found = set()
        pattern = r"^from (mnemonics_jax[\w.]*) import (\([^)]*\)|.*)$|^import (mnemonics_jax[\w.]*)"
        for module, targets, plain in re.findall(pattern, path.read_text(), re.MULTILINE):
            members = {f"{module}.{target.split(' as ')[0].strip()}" for target in targets.strip("()").split(",")}
            found |= (members & known) or ({module or plain} & known)
        imports[name] = found - {name}
    resolved = set()
    while ready := {name for name, needed in imports.items() if name not in resolved and needed <= resolved}:
        resolved |= ready
    assert resolved == known, f"in a circle: {sorted(known - resolved)}"
