"""The notebooks: what they are made of, their install cell, and that they run through in a shortened form."""

import importlib.util
import subprocess
import sys

import pytest
from helpers import EXPERIMENTS

nbformat = pytest.importorskip("nbformat", reason='needs nbformat: pip install ".[test]"')
nbclient = pytest.importorskip("nbclient", reason='needs nbclient: pip install ".[test]"')
pytest.importorskip("ipykernel", reason='needs ipykernel: pip install ".[test]"')

FOLDER = EXPERIMENTS / "notebooks"
NAMES = ("bilevel", "quickstart")


def notebook(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def code(name):
    return [cell for cell in notebook(name).cells if cell.cell_type == "code"]


def test_these_are_all_notebooks():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_clean_and_opens_in_colab(name):
    made = notebook(name)
    nbformat.validate(made)
    assert made.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(not cell.outputs and cell.execution_count is None for cell in code(name))
    assert all(not cell.metadata for cell in made.cells)
    first = made.cells[0].source
    assert "colab-badge.svg" in first
    assert f"github/mnemonics-jax/mnemonics_jax/blob/main/experiments/notebooks/{name}.ipynb" in first
    assert code(name)[0].source == code(NAMES[0])[0].source, "one install cell for all"


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Runs the install cell in a folder, as on a machine without the package; returns the commands it gives."""
    given = []

    def cell(folder):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(subprocess, "run", lambda words, check: given.append(words))
        exec(code("quickstart")[0].source, {})
        return given

    return cell


def test_the_install_cell_clones_where_there_is_no_checkout(install, tmp_path):
    clone, pip = install(tmp_path)
    assert clone == [
        "git",
        "clone",
        "--depth",
        "1",
        "https://github.com/mnemonics-jax/mnemonics_jax",
        str(tmp_path / "checkout"),
    ]
    assert pip == [sys.executable, "-m", "pip", "install", "--quiet", str(tmp_path / "checkout")]


def test_the_install_cell_installs_the_checkout_it_is_in(install):
    (pip,) = install(FOLDER)
    assert pip[-1] == str(FOLDER.parent.parent)


def test_the_install_cell_leaves_alone_what_is_installed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", None)
    exec(code("quickstart")[0].source, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MNEMONICS_NOTEBOOK_SHORT", "1")
    made = notebook(name)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(made, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    text = "".join(output.get("text", "") for output in outputs)
    if name == "quickstart":
        assert len(pictures) == 5
        assert "mean change of a pixel" in text
        assert (tmp_path / "runs" / "quickstart" / "report.html").exists()
    else:
        assert len(pictures) == 3
        assert "the three modes give the same gradient" in text
        learned, exact = (
            line.split("[")[1].rstrip("]").split() for line in text.splitlines() if line.startswith(("ridge", "least"))
        )
        # So few inner steps leave the closed form a percent away.
        assert [float(value) for value in learned] == pytest.approx([float(value) for value in exact], abs=0.01)
