"""Run the notebooks and store their outputs in them: small, and with nothing that tells the machine.

`python experiments/notebooks/store_outputs.py [NAME ...]` runs those notebooks, by default all, in a temporary folder.
It needs what `pip install ".[test]"` installs. It also writes the address in pyproject.toml, `Repository` of
`[project.urls]`, into their first cells.
"""

import argparse
import base64
import io
import re
import tempfile
import tomllib
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

FOLDER = Path(__file__).resolve().parent
PICTURE_WIDTH = 720
"""Largest width of a stored picture in pixels."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""Metadata of a stored notebook: without the version of the Python that ran it."""
_COLOURS = 64
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells of `notebook` in `folder`, in place, without time stamps. Raises CellExecutionError."""
    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


def clean(notebook: nbformat.NotebookNode) -> None:
    """Make the outputs of `notebook` small, in place, and remove what differs from machine to machine.

    Pictures become palette PNGs of at most `PICTURE_WIDTH` pixels, and texts plain. Texts that follow each other become
    one output. Progress bars are left out: without a kernel nothing can draw them.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.clear()
        outputs: list[nbformat.NotebookNode] = []
        for output in cell.outputs:
            data = output.get("data", {})
            if _WIDGET in data:
                continue
            if "image/png" in data:
                data = {"image/png": shrink(data["image/png"])}
                outputs.append(nbformat.v4.new_output("display_data", data, metadata=output.metadata))
                continue
            text = _STYLE.sub("", output.get("text") or data["text/plain"])
            if outputs and outputs[-1].output_type == "stream":
                outputs[-1].text += text
            else:
                outputs.append(nbformat.v4.new_output("stream", name="stdout", text=text))
        cell.outputs = outputs


def set_repository(notebook: nbformat.NotebookNode, project: Path) -> None:
    """Write the address of the repository, by `project` (a pyproject.toml), into the first code cell; empty if none."""
    address = tomllib.loads(project.read_text())["project"].get("urls", {}).get("Repository", "")
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = re.sub(r'(?<=\nREPOSITORY = ")[^"]*', lambda _: address, first.source, count=1)


def shrink(picture: str) -> str:
    """Return a PNG, given and returned in base64, as a palette PNG of at most `PICTURE_WIDTH` pixels."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    if image.width > PICTURE_WIDTH:
        size = (PICTURE_WIDTH, round(image.height * PICTURE_WIDTH / image.width))
        image = image.resize(size, Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def main() -> None:
    """Run and store the notebooks that are named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    asked = parser.parse_args().names
    if unknown := sorted({*asked} - {*names}):
        parser.error(f"no notebook is named {', '.join(unknown)}: there are {', '.join(names)}")
    for name in asked or names:
        path = FOLDER / f"{name}.ipynb"
        notebook = nbformat.read(path, 4)
        set_repository(notebook, FOLDER.parents[1] / "pyproject.toml")
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        clean(notebook)
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
