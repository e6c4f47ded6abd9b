"""The notebooks: their install cell, the outputs stored in them, and that they run through in a shortened form."""

import base64
import importlib.util
import io
import re
import subprocess
import sys
import tomllib

import pytest
from helpers import EXPERIMENTS, ROOT, load_script
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason='needs nbformat: pip install ".[test]"')
nbclient = pytest.importorskip("nbclient", reason='needs nbclient: pip install ".[test]"')
pytest.importorskip("ipykernel", reason='needs ipykernel: pip install ".[test]"')

FOLDER = EXPERIMENTS / "notebooks"
NAMES = ("bilevel", "quickstart")
PICTURES = {"bilevel": 3, "quickstart": 5}
ABSOLUTE = re.compile(r"(?<![\w.:/~])(/[\w.+-]+){2,}|[A-Za-z]:\\\\|file:")


def notebook(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def code(name):
    return [cell for cell in notebook(name).cells if cell.cell_type == "code"]


def test_these_are_all_notebooks():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)


def pictures(cells):
    return [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]


def printed(cells):
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_clean(name):
    made = notebook(name)
    nbformat.validate(made)
    assert made.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(not cell.metadata for cell in made.cells)
    assert code(name)[0].source == code(NAMES[0])[0].source, "one install cell for all"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_the_outputs_of_one_whole_run_and_no_paths(name):
    cells = code(name)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert len(pictures(cells)) == PICTURES[name]
    assert {output.output_type for cell in cells for output in cell.outputs} == {"stream", "display_data"}
    assert not re.search(r"Traceback|Warning|\x1b", printed(cells))
    assert not ABSOLUTE.search(printed(cells))
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 300_000


@pytest.mark.parametrize("text", ["saved to /tmp/a.png", "(/home/me/x)", "C:\\\\Users", "file:///a"])
def test_an_absolute_path_would_be_found(text):
    assert ABSOLUTE.search(text)


def test_the_address_is_that_of_the_project():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    for name in NAMES:
        assert f'\nREPOSITORY = "{urls.get("Repository", "")}"' in code(name)[0].source
        assert "colab.research.google.com" not in notebook(name).cells[0].source or urls, "a badge needs an address"


def test_stored_outputs_are_small_and_plain():
    drawn = io.BytesIO()
    Image.radial_gradient("L").resize((2000, 1000)).convert("RGB").save(drawn, "png")
    picture = {"image/png": base64.b64encode(drawn.getvalue()).decode(), "text/plain": "<Image>"}
    bar = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/plain": "Output()"}
    cell = nbformat.v4.new_code_cell("1", metadata={"execution": {"iopub.status.busy": "12:00"}}, execution_count=1)
    cell.outputs = [
        nbformat.v4.new_output("display_data", bar),
        nbformat.v4.new_output("display_data", {"text/plain": "\x1b[1mbold\x1b[0m\n", "text/html": "<b>bold</b>"}),
        nbformat.v4.new_output("stream", name="stdout", text="next\n"),
        nbformat.v4.new_output("display_data", picture, metadata={"image/png": {"width": 700}}),
    ]
    made = nbformat.v4.new_notebook(
        cells=[cell], metadata={"widgets": {}, "language_info": {"name": "python", "version": "3.11.9"}}
    )
    script = load_script(FOLDER / "store_outputs.py")
    script.clean(made)
    text, shown = made.cells[0].outputs
    assert text == nbformat.v4.new_output("stream", name="stdout", text="bold\nnext\n")
    assert shown.metadata == {"image/png": {"width": 700}}
    stored = Image.open(io.BytesIO(base64.b64decode(shown.data["image/png"])))
    assert (stored.size, stored.mode) == ((script.PICTURE_WIDTH, script.PICTURE_WIDTH // 2), "P")
    assert not made.cells[0].metadata
    assert made.metadata == notebook("bilevel").metadata


def test_the_address_is_written_into_the_first_cell(tmp_path):
    made = notebook("quickstart")
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\n[project.urls]\nRepository = "https://example.org/a"\n')
    load_script(FOLDER / "store_outputs.py").set_repository(made, project)
    assert 'REPOSITORY = "https://example.org/a"  #' in made.cells[1].source


@pytest.fixture
def install(monkeypatch):
    """Runs the install cell in a folder, as on a machine without the package; returns the commands it gives."""
    given = []

    def cell(folder, address=""):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(subprocess, "run", lambda words, check: given.append(words))
        exec(re.sub(r'(?<=\nREPOSITORY = ")[^"]*', address, code("quickstart")[0].source), {})
        return given

    return cell


def test_the_install_cell_clones_where_there_is_no_checkout(install, tmp_path):
    clone, pip = install(tmp_path, "https://example.org/a")
    assert clone == ["git", "clone", "--depth", "1", "https://example.org/a", str(tmp_path / "checkout")]
    assert pip == [sys.executable, "-m", "pip", "install", "--quiet", str(tmp_path / "checkout")]


def test_the_install_cell_asks_for_an_address_where_there_is_none(install, tmp_path):
    with pytest.raises(SystemExit, match="set REPOSITORY"):
        install(tmp_path)


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
    nbclient.NotebookClient(made, timeout=550, kernel_name="python3", resources=resources).execute()
    cells = [cell for cell in made.cells if cell.cell_type == "code"]
    assert len(pictures(cells)) == PICTURES[name]
    text = printed(cells)
    if name == "quickstart":
        assert "mean change of a pixel" in text
        assert (tmp_path / "runs" / "quickstart" / "report.html").exists()
    else:
        assert "the three modes give the same gradient" in text
        learned, exact = (
            line.split("[")[1].rstrip("]").split() for line in text.splitlines() if line.startswith(("ridge", "least"))
        )
        # So few inner steps leave the closed form a percent away.
        assert [float(value) for value in learned] == pytest.approx([float(value) for value in exact], abs=0.01)
