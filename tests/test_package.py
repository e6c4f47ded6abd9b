"""What the package says of itself."""

import ast
import re
import subprocess
import tomllib
import warnings
from importlib.metadata import entry_points

import pytest
from helpers import ROOT

PACKAGE = ROOT / "mnemonics_jax"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CORE = ROOT / "tests" / "core.txt"


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


@pytest.mark.parametrize(
    "module", ["mnemonics_jax.phase.setup", "tests.test_docs", "jax._src.core", "flax.nnx", "orbax"]
)
@pytest.mark.parametrize("kind", [DeprecationWarning, FutureWarning])
def test_deprecated_parts_of_jax_and_its_libraries_are_errors(module, kind):
    with pytest.raises(kind):
        warnings.warn_explicit("old", kind, "file.py", 1, module=module)


def test_the_core_has_every_test_module_and_names_what_is_there():
    lines = [line for line in CORE.read_text().splitlines() if not line.startswith("#")]
    assert {line.partition("::")[0] for line in lines} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")
    }
    for path, _, name in (line.partition("::") for line in lines):
        assert not name or f"def {name}(" in (ROOT / path).read_text(), name
    assert CORE.name in (ROOT / ".ci" / "versions").read_text()


def test_the_versions_are_those_that_users_read():
    minors = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3" in line]
    page = (ROOT / "experiments" / "docs" / "running.md").read_text()
    assert f"Python {', '.join(minors[:-1])} and {minors[-1]}" in page
    lowest = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in PROJECT["dependencies"])
    assert PROJECT["requires-python"] == f">={minors[0]}"
    for name, title in {"jax": "JAX", "flax": "Flax", "numpy": "NumPy"}.items():
        assert f"{title} from {lowest[name]} " in page


def test_the_layers_are_kept_and_imports_form_no_circle():
    # In a process of its own: it writes to the streams that were there when it was imported.
    linter = subprocess.run(["lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert linter.returncode == 0, linter.stdout + linter.stderr


def test_no_contract_lets_an_import_pass():
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    assert sorted(contract["type"] for contract in contracts) == ["acyclic_siblings", "layers"]
    assert not any("ignore_imports" in contract for contract in contracts)


def test_the_package_has_the_layers_alone():
    modules = {"__init__.py", "__main__.py", "py.typed", "bilevel.py"}
    layers = {"cli", "phase", "methods", "exemplars", "nets", "data", "config", "runs", "sweeps", "reports", "runtime"}
    assert {path.name for path in PACKAGE.iterdir()} - {"__pycache__"} <= modules | layers


def sources():
    """Each Python file outside of the tests."""
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])


def test_files_are_short():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {where: count for where, count in lines.items() if count > 300} == {}


def functions():
    """Each function outside of the tests: where it stands, how many lines it has, and how many parameters."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                names += [arg.arg for arg in (given.vararg, given.kwarg) if arg]
                count = len([name for name in names if name not in ("self", "cls")])
                yield f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1, count


def test_functions_are_short():
    assert {where: lines for where, lines, _ in functions() if lines > 60} == {}


def test_functions_take_few_parameters():
    assert {where: count for where, _, count in functions() if count > 7} == {}


def test_undefined_names_are_looked_for_in_the_whole_package():
    lint = PYPROJECT["tool"]["ruff"]["lint"]
    assert "F" in lint["select"]
    assert not {"F", "F8", "F82", "F821"} & {rule for rules in ignored(lint) for rule in rules}
    # Ruff passes over what git ignores: every file of the package has to be among those that it reads.
    read = subprocess.run(["ruff", "check", "--show-files", "."], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {str(path) for path in PACKAGE.rglob("*.py")} <= set(read.stdout.splitlines())
    subprocess.run(["ruff", "check", "--select", "F821", "--ignore-noqa", "."], cwd=ROOT, check=True)


def ignored(lint):
    return [lint["ignore"], lint.get("extend-ignore", []), *lint["per-file-ignores"].values()]
